"""Values that are known when a module is captured: buffers that it branches on, and draws of a fixed seed.

`if self.initialised:` reads a number from a tensor, which no graph can have. Where the tensor is computed from the
module's state alone, its value is known. Numbers that are computed from inputs, or from sizes, stay unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from vae_export.sources.module_runs import ModuleState

#: What reads a Python number from a tensor.
_READS = (
    *(Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.item, Tensor.tolist),
    *(torch.is_nonzero, Tensor.is_nonzero),
)
#: What draws with a generator of its own.
_DRAWS = (torch.randn, torch.rand, torch.randint, torch.randperm, torch.normal)
#: A read whose value is not known.
_UNKNOWN = object()


class KnownValues(TorchFunctionMode):
    """A context in which reads from a module's state give known numbers, and draws of a generator constants.

    Args:
        reads: the value of each read of a call of the module, in order, and the shape of what it is read from.
    """

    def __init__(self, reads: Sequence[tuple[object, tuple[int, ...]]]) -> None:
        super().__init__()
        self._reads = list(reads)
        self._next = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _READS and self._next < len(self._reads):
            value, shape = self._reads[self._next]
            if tuple(args[0].shape) == shape:
                self._next += 1
                if value is not _UNKNOWN:
                    return value
        if func in _DRAWS and kwargs.get("generator") is not None and _is_constant(args):
            with unset_fake_temporarily(), disable_proxy_modes_tracing():
                return func(*args, **kwargs)
        return func(*args, **kwargs)


def known_values(module: nn.Module, inputs: Sequence[Tensor]) -> KnownValues:
    """Run a module, and return what is known of it.

    Args:
        module: the module of a part, in eval mode.
        inputs: an example.

    Returns:
        A context to capture the module in, for one call.
    """
    origin = _Origin(module)
    reader = _Reader(origin)
    with ModuleState(module), torch.no_grad(), origin, reader:
        module(*inputs)
    return KnownValues(reader.reads)


def _is_constant(args: Sequence[Any]) -> bool:
    """Whether arguments are numbers, and no sizes that change."""
    return all(type(value) in (int, float) for value in pytree.tree_leaves(args))


class _Origin(TorchDispatchMode):
    """Follows which tensors are computed from a module's state alone."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        attributes = (value for child in module.modules() for value in vars(child).values())
        plain = (value for value in attributes if isinstance(value, Tensor))
        #: Known tensors by their storage. They are kept, so that no other tensor gets the same storage.
        self._known = {_storage(tensor): tensor for tensor in (*module.parameters(), *module.buffers(), *plain)}

    def knows(self, tensor: Tensor) -> bool:
        """Whether a tensor is computed from the state alone."""
        return _storage(tensor) in self._known

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        outputs = func(*args, **(kwargs or {}))
        given = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        known = bool(given) and all(map(self.knows, given)) and torch.Tag.nondeterministic_seeded not in func.tags
        for tensor in pytree.tree_leaves(outputs):
            if isinstance(tensor, Tensor):
                if known:
                    self._known[_storage(tensor)] = tensor
                else:
                    self._known.pop(_storage(tensor), None)  # something else was written into it
        return outputs


class _Reader(TorchFunctionMode):
    """Records the numbers that are read from tensors, and whether they are known."""

    def __init__(self, origin: _Origin) -> None:
        super().__init__()
        self._origin = origin
        self.reads: list[tuple[object, tuple[int, ...]]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        value = func(*args, **(kwargs or {}))
        if func in _READS:
            self.reads.append((value if self._origin.knows(args[0]) else _UNKNOWN, tuple(args[0].shape)))
        return value


def _storage(tensor: Tensor) -> int:
    number: int = tensor.untyped_storage()._cdata
    return number
