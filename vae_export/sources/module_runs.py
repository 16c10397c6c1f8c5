"""Run a user's module on examples, and leave it as it was.

A module may remember what it saw, draw random numbers or change its mode and weights: nothing of that may reach the
next run, or a file.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.parameter import is_lazy

from vae_export.contract import Array
from vae_export.errors import ModelError
from vae_export.tensors import TensorSpec

#: Rows of an example: more than one, so that a missing batch axis is noticed, and no usual size of a latent.
ROWS = 3


def _wrappers() -> dict[type[nn.Module], str]:
    """Return the attribute that holds the module which each wrapper runs."""
    wrappers: dict[type[nn.Module], str] = {nn.DataParallel: "module", nn.parallel.DistributedDataParallel: "module"}
    if "torch._dynamo" in sys.modules:  # no module is compiled without it, and importing it takes a second
        wrappers[torch._dynamo.OptimizedModule] = "_orig_mod"
    return wrappers


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module with each wrapper of `torch.compile` and of data parallelism replaced by what it wraps."""
    for wrapper, attribute in _wrappers().items():
        if isinstance(module, wrapper):
            return unwrapped(getattr(module, attribute))
    for name, child in module.named_children():
        if (inner := unwrapped(child)) is not child:
            setattr(module, name, inner)
    return module


def run(module: nn.Module, inputs: Sequence[Tensor]) -> object:
    """Run a module in eval mode without gradients; its modes, buffers and the random state are restored."""
    with as_example(module):
        return module(*inputs)


def run_flat_or_not(module: nn.Module, inputs: Sequence[Tensor]) -> tuple[bool, object]:
    """Run a module as `flat_or_not` calls it, and restore it as `run` does."""
    with as_example(module):
        return flat_or_not(module, inputs)


def run_listed_or_not(module: nn.Module, inputs: Sequence[Tensor], latents: int) -> tuple[int, object]:
    """Run a decoder as `listed_or_not` calls it, and restore it as `run` does."""
    with as_example(module):
        return listed_or_not(module, inputs, latents)


def flat_or_not(function: Callable[..., object], inputs: Sequence[Tensor]) -> tuple[bool, object]:
    """Call a module or method on the data, or on the data as flat rows where it refuses that.

    Returns:
        Whether the data was flat, and what the function returned.

    Raises:
        Exception: what the function raised for data that is not flat, if it refuses both.
    """
    try:
        return False, function(*inputs)
    except Exception:
        if inputs[0].ndim <= 2:
            raise
        with contextlib.suppress(Exception):
            return True, function(*flattened(inputs, flatten=True))
        raise


def listed_or_not(function: Callable[..., object], inputs: Sequence[Tensor], latents: int) -> tuple[int, object]:
    """Call a decoder on its latents, or on one list of them where it refuses that.

    Args:
        function: the decoder, or a method that decodes.
        inputs: latents and conditions.
        latents: the number of latents.

    Returns:
        The number of latents in a list, 0 for none, and what the decoder returned.

    Raises:
        Exception: what the decoder raised for latents one by one, if it refuses both.
    """
    try:
        return 0, function(*inputs)
    except Exception:
        if latents > 1:
            with contextlib.suppress(Exception):
                return latents, function(*in_a_list(inputs, latents))
        raise


def in_a_list(inputs: Sequence[Tensor], count: int) -> tuple[Any, ...]:
    """Return inputs with the first `count` of them in one list; 0 leaves them as they are."""
    return (list(inputs[:count]), *inputs[count:]) if count else tuple(inputs)


def inputs_for(
    module: nn.Module, specs: Sequence[TensorSpec], rows: int = ROWS, images: Array | None = None
) -> tuple[Tensor, ...]:
    """Return inputs on the device and in the dtype of a module, each (rows, *item): real data, or seeded noise."""
    state = next((p for p in [*module.parameters(), *module.buffers()] if p.is_floating_point()), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for spec in specs:
        value = random_tensor(spec, (rows, *spec.fixed_item), generator)
        if spec.is_integer:
            # Beyond the ends of a table where its size or its first index is misstated.
            value.view(-1)[0], value.view(-1)[-1] = int(spec.high), int(spec.low)
        if spec.role == "data" and images is not None and images.shape[1:] == spec.fixed_item:
            value = torch.as_tensor(images[[row % len(images) for row in range(rows)]])
        inputs.append(value.to(state.device, getattr(torch, spec.dtype) if spec.is_integer else state.dtype))
    return tuple(inputs)


def random_tensor(spec: TensorSpec, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Return random numbers in the range of a tensor: its integers, uniform ones, or standard normal ones."""
    if spec.is_integer:
        dtype = getattr(torch, spec.dtype)
        return torch.randint(int(spec.low), int(spec.high) + 1, tuple(shape), generator=generator, dtype=dtype)
    if spec.is_bounded:
        return spec.low + (spec.high - spec.low) * torch.rand(*shape, generator=generator)
    return torch.randn(*shape, generator=generator)


@contextlib.contextmanager
def as_example(module: nn.Module, *, autocast: bool = False) -> Iterator[None]:
    """Put a module into eval mode without gradients, and restore modes, state and random state afterwards.

    Args:
        module: the module.
        autocast: whether blocks under `torch.autocast` compute in its dtype, which a graph does not.
    """
    context = without_value_checks() if autocast else as_exported()
    with ModuleState(module), torch.no_grad(), torch.random.fork_rng(devices=[]), context:
        module.eval()
        yield


class ModuleState:
    """A context after which the attributes, the buffers and the mode of a module are what they were before.

    A module may remember what it saw: a mask or positions of the first size, the statistics of the last batch. The
    next run shall not find them. Values of parameters are not restored; see `weight_sums`.

    Args:
        module: the module. Objects in its attributes that are changed in place stay changed.
    """

    _TABLES = ("_parameters", "_buffers", "_modules")

    def __init__(self, module: nn.Module) -> None:
        self._children = [
            (child, dict(vars(child)), {name: dict(vars(child)[name]) for name in self._TABLES})
            for child in module.modules()
            if not isinstance(child, torch.jit.ScriptModule)  # its attributes are not Python's
        ]
        self._buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]

    @property
    def is_changed(self) -> bool:
        """Whether an attribute or a buffer is another one than before."""
        pairs = [(vars(child), attributes) for child, attributes, _ in self._children]
        pairs += [(vars(child)[name], table) for child, _, tables in self._children for name, table in tables.items()]
        for now, before in pairs:
            if now.keys() != before.keys() or any(now[name] is not value for name, value in before.items()):
                return True
        return not all(torch.equal(buffer, before) for buffer, before in self._buffers)

    def __enter__(self) -> ModuleState:
        return self

    def __exit__(self, *exception: object) -> None:
        for child, attributes, tables in self._children:
            vars(child).clear()
            vars(child).update(attributes)
            for name, table in tables.items():
                vars(child)[name].clear()
                vars(child)[name].update(table)
        with torch.no_grad():
            for buffer, before in self._buffers:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)


def weight_sums(module: nn.Module) -> dict[str, tuple[str, str]]:
    """Return figures of each parameter by name, which tell whether a run has changed it.

    A layer that initialises itself with the first batch it sees would be exported with whatever example came first.
    """
    return {
        name: (repr(value.sum(dtype=torch.float64).item()), repr(value.abs().max().item() if value.numel() else 0))
        for name, value in module.named_parameters()
        if value.is_floating_point() and not value.is_meta and not is_lazy(value)
    }


def check_weights_stay(module: nn.Module, before: Mapping[str, tuple[str, str]], where: str) -> None:
    """Raise `ModelError` if a parameter is another one than when `weight_sums` gave `before`."""
    for name, sums in weight_sums(module).items():
        if before.get(name, sums) != sums:
            raise ModelError(
                "module changes its weights when it runs",
                where=f"{where}, '{name}'",
                expected="weights that stay, as those of a trained model",
                do="initialise it with real data as training does, and load the weights that this gives",
            )


@contextlib.contextmanager
def without_value_checks() -> Iterator[None]:
    """Let distributions be made without checks of their values, even where a module asks for them.

    The checks are branches on values, which no graph can have, and some imports switch them on again.
    """
    before, checked = Distribution._validate_args, Distribution.__init__

    def unchecked(self: Distribution, *args: Any, **kwargs: Any) -> None:
        checked(self, *args[:2], **{**kwargs, "validate_args": False})  # the third argument is validate_args

    Distribution.set_default_validate_args(False)
    Distribution.__init__ = unchecked  # type: ignore[method-assign]  # the default is not asked where it is stated
    try:
        yield
    finally:
        Distribution.__init__ = checked  # type: ignore[method-assign]
        Distribution.set_default_validate_args(before)


@contextlib.contextmanager
def without_autocast() -> Iterator[None]:
    """Let blocks under `torch.autocast` compute in the dtype of their inputs, as the files do.

    Autocast is for speed on a device; the files are in float32, and lower precisions are made from them.
    """
    entered: Callable[[Any], object] = torch.autocast.__enter__

    def enter(block: Any) -> object:
        stated, block._enabled = block._enabled, False
        try:
            return entered(block)
        finally:
            block._enabled = stated  # a decorator enters the same block at each call

    torch.autocast.__enter__ = enter  # type: ignore[method-assign]  # torch.amp's and torch.cuda.amp's derive from it
    try:
        yield
    finally:
        torch.autocast.__enter__ = entered  # type: ignore[method-assign]


@contextlib.contextmanager
def as_exported() -> Iterator[None]:
    """Run a user's module as its graph computes: without autocast, and without checks of values by distributions."""
    with without_autocast(), without_value_checks():
        yield


def flattened(inputs: Sequence[Tensor], flatten: bool) -> tuple[Tensor, ...]:
    return (inputs[0].flatten(1), *inputs[1:]) if flatten else tuple(inputs)
