"""Lint rules for TorchScript, whose files are programs: what makes one give other outputs in another call.

rule             severity   why
random-operator  error      a graph that draws random numbers gives other outputs in each run
hidden-state     error      it writes to its own weights or attributes: a later call may give other outputs
mode-branch      error      it asks whether gradients are on, or for the time: modes of the process change its outputs
branch           warning    an If on values or a loop: probes may not take both branches
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vae_export.formats.base import Finding

#: Operators that read a mode of the process or the clock, or that set one.
_MODES = frozenset(
    {
        "aten::is_grad_enabled",
        "aten::set_grad_enabled",
        "aten::is_inference",
        "aten::is_leaf",
        "aten::requires_grad_",
        "aten::manual_seed",
        "aten::seed",
        "aten::initial_seed",
        "aten::is_autocast_enabled",
        "aten::is_autocast_cpu_enabled",
        "aten::autocast_increment_nesting",
        "prim::requires_grad",
        "prim::TimePoint",
    }
)
_BRANCHES = frozenset({"prim::If", "prim::Loop"})
_TYPE_FACTS = frozenset({"prim::Constant", "aten::is_floating_point", "aten::is_complex"})
#: Nodes whose outputs are kept in the file, so that writing to them changes the next call.
_STATE = frozenset({"prim::GetAttr", "prim::Constant"})
#: Types of values that cannot be written to.
_IMMUTABLE = frozenset({"BoolType", "ComplexType", "DeviceObjType", "FloatType", "IntType", "NoneType", "StringType"})
#: Names of arguments of an operator that draws nothing if they are 0 or false.
_SWITCHES = ("train", "training", "dropout_p", "dropout")


def lint_program(module: Any, name: str) -> Iterator[Finding]:
    """Find what makes a program give other outputs in another call.

    Args:
        module: the loaded `torch.jit.ScriptModule`.
        name: the name of the file, for the findings.

    Returns:
        An iterator of the faults.
    """
    graph = module.inlined_graph
    kept = _kept_values(graph)
    for node in _every_node(graph):
        kind = node.kind()
        if kind in _BRANCHES and not (kind == "prim::If" and _follows_from_types(next(node.inputs()))):
            yield Finding("branch", "warning", name, kind)
        elif kind == "prim::SetAttr":
            yield Finding("hidden-state", "error", name, f"it sets its attribute '{node.s('name')}'")
        elif kind in _MODES:
            yield Finding("mode-branch", "error", name, kind)
        elif _draws(node):
            yield Finding("random-operator", "error", name, kind)
        elif any(value.debugName() in kept for value in _written(node)):
            yield Finding("hidden-state", "error", name, f"{kind} writes to a value that is kept in the file")


def _every_node(block: Any) -> Iterator[Any]:
    """Yield the nodes of a graph or block, of their blocks, and of graphs in their attributes."""
    for node in block.nodes():
        yield node
        for inner in _inner(node):
            yield from _every_node(inner)


def _inner(node: Any) -> Iterator[Any]:
    yield from node.blocks()
    yield from (node.g(attribute) for attribute in node.attributeNames() if node.kindOf(attribute) == "g")


def _draws(node: Any) -> bool:
    """Whether the operator draws random numbers; dropout in eval mode and attention without dropout do not."""
    import torch

    namespace, _, operator = node.kind().partition("::")
    packet = getattr(getattr(torch.ops, namespace, None), operator, None) if namespace != "prim" else None
    if packet is None:
        return False
    overloads = (getattr(packet, overload) for overload in packet.overloads())
    if not any(torch.Tag.nondeterministic_seeded in overload.tags for overload in overloads):
        return False
    constants = {argument.name: value.toIValue() for argument, value in _arguments(node) if _is_constant(value)}
    return not any(name in constants and not constants[name] for name in _SWITCHES)


def _follows_from_types(value: Any) -> bool:
    """Whether a truth value follows from the dtypes of tensors, as in the branches that PyTorch's own `div` has."""
    node = value.node()
    if node.kind() == "prim::If":
        chosen = [list(block.outputs())[value.offset()] for block in node.blocks()]
        return all(map(_follows_from_types, [next(node.inputs()), *chosen]))
    return node.kind() in _TYPE_FACTS


def _is_constant(value: Any) -> bool:
    return bool(value.node().kind() == "prim::Constant")


def _arguments(node: Any) -> list[tuple[Any, Any]]:
    """Return the arguments of an operator's schema with the values that are passed; none for an unknown operator."""
    import torch

    if node.schema() == "(no schema)":
        return []
    schema = torch._C.parse_schema(node.schema())
    return list(zip(schema.arguments, node.inputs(), strict=False))


def _written(node: Any) -> list[Any]:
    """Return the values that an operator writes to."""
    return [value for argument, value in _arguments(node) if argument.alias_info and argument.alias_info.is_write]


def _kept_values(graph: Any) -> set[str]:
    """Return the names of the values that are kept in the file, or that are views of one or hold one."""
    import torch

    kept = {str(value.debugName()) for value in graph.inputs() if isinstance(value.type(), torch.ClassType)}
    before = -1
    while len(kept) != before:
        before = len(kept)
        for node in _every_node(graph):
            if node.kind() in _STATE or (_may_alias(node) and _reads(node.inputs(), kept)):
                kept |= _mutable(node.outputs())
            for block in node.blocks():
                if _reads(block.outputs(), kept):
                    kept |= _mutable(node.outputs())
                if node.kind() == "prim::Loop" and _reads([*node.inputs(), *block.outputs()], kept):
                    kept |= _mutable(block.inputs())
    return kept


def _mutable(values: Any) -> set[str]:
    """Return the names of the values that can be written to."""
    return {str(value.debugName()) for value in values if value.type().kind() not in _IMMUTABLE}


def _may_alias(node: Any) -> bool:
    """Whether an output of the node may be one of its inputs, a view of one, or a list or tuple that holds one."""
    import torch

    if node.kind().startswith("prim::"):
        return node.kind() not in ("prim::NumToTensor", "prim::Uninitialized", "prim::device", "prim::dtype")
    if node.schema() == "(no schema)":
        return False
    return any(returned.alias_info is not None for returned in torch._C.parse_schema(node.schema()).returns)


def _reads(values: Any, kept: set[str]) -> bool:
    return any(str(value.debugName()) in kept for value in values)
