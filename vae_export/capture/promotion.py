"""Make a part compute in float64, as the reference of float32 files.

`module.double()` converts weights, and not what a module fixes in its code: `x.float()`, `torch.eye(8, dtype=float32)`,
plain tensors. Such a module fails or rounds to float32 inside. Its captured program is promoted in its place: weights,
constants and every dtype in the graph.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from vae_export.capture.copying import copy_sharing_weights
from vae_export.capture.program import example_inputs, user_code
from vae_export.contract import PartSpec

#: What each dtype becomes.
_PROMOTED = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
}


def float64_module(module: nn.Module, spec: PartSpec, program: Callable[[], ExportedProgram]) -> nn.Module:
    """Return a part in float64: a copy of the module where that computes in float64 throughout, or else its program.

    Args:
        module: the module of a part, float32.
        spec: the part.
        program: returns the captured part.

    Returns:
        A module with the inputs and outputs of the part, in float64. Names of parameters and buffers are those of the
        given module; plain tensors are buffers where the program was promoted.
    """
    double = _double_copy(module, spec)
    return promoted_program(program()) if double is None else double


def _double_copy(module: nn.Module, spec: PartSpec) -> nn.Module | None:
    """Return a copy of the module in float64, or None if it fails or computes in lower precision inside."""
    double = copy_sharing_weights(module).double()
    rows = 1 if isinstance(spec.inputs[0].batch, str) else None
    inputs = [_promoted(value) for value in example_inputs(spec, rows)]
    finder = DtypeFinder(_PROMOTED)
    try:
        with user_code(torch.float64), finder:
            double(*inputs)
    except Exception:  # a user's module raises any error where two dtypes meet
        return None
    return None if finder.found else double


def promoted_program(program: ExportedProgram) -> nn.Module:
    """Return a program as a module that computes in float64. The program is not changed.

    Args:
        program: a captured part, float32.
    """
    module: torch.fx.GraphModule = program.module()
    _promote_graph(module)
    return module


class DtypeFinder(TorchDispatchMode):
    """Notes whether an operator returns numbers of some dtypes.

    Args:
        dtypes: the dtypes.

    Attributes:
        found: whether one did.
    """

    def __init__(self, dtypes: Container[torch.dtype]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self._dtypes = dtypes
        self.found = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        outputs = func(*args, **(kwargs or {}))
        self.found |= any(
            isinstance(leaf, Tensor) and leaf.dtype in self._dtypes for leaf in pytree.tree_leaves(outputs)
        )
        return outputs


def _promote_graph(module: torch.fx.GraphModule) -> None:
    """Promote the tensors, the regions and the dtypes of a graph in place."""
    for child in module.modules():
        # New objects, because the program has the old ones.
        for name, parameter in child._parameters.items():
            if parameter is not None:
                child._parameters[name] = nn.Parameter(_promoted(parameter.detach()), requires_grad=False)
        for name, buffer in child._buffers.items():
            if buffer is not None:
                child._buffers[name] = _promoted(buffer)
        for name, value in list(vars(child).items()):
            if isinstance(value, Tensor):  # a constant; as a buffer, it is rounded like a weight
                delattr(child, name)
                child.register_buffer(name, _promoted(value.detach()), persistent=False)
    for name, child in list(module.named_children()):
        if isinstance(child, torch.fx.GraphModule):
            region = torch.fx.GraphModule(child, copy.deepcopy(child.graph))
            _promote_graph(region)
            setattr(module, name, region)
    for node in list(module.graph.nodes):
        node.meta.clear()  # it has shapes and dtypes of the capture
        if node.op == "call_module":  # torch's checks of the inputs' sizes and dtypes
            module.graph.erase_node(node)
        elif isinstance(node.target, torch._ops.OpOverload):
            node.args = map_aggregate(node.args, _promoted_dtype)
            node.kwargs = map_aggregate(node.kwargs, _promoted_dtype)
    module.recompile()


def _promoted(tensor: Tensor) -> Tensor:
    return tensor.to(_PROMOTED.get(tensor.dtype, tensor.dtype))


def _promoted_dtype(argument: Any) -> Any:
    return _PROMOTED.get(argument, argument) if isinstance(argument, torch.dtype) else argument
