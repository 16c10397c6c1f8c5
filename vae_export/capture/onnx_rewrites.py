"""Rewrite operators that PyTorch's ONNX exporter or ONNX Runtime cannot take as equal ones that they can."""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from vae_export.capture.program import fx_graphs

_aten = torch.ops.aten
#: Operators with bounds that may be an integer and a float at once.
_CLAMPS = (_aten.clamp.default, _aten.clamp_.default, _aten.hardtanh.default)
#: Places of a grid beyond which sampling gives what it gives here: 0 or the border, whatever the interpolation. Images
#: lie in [-1, 1]. ONNX Runtime gives 0 in place of the border from about 1e6 on.
_FAR_IN_A_GRID = 1e3
_REFLECTION = 2
#: The lowest and the highest slope that `rrelu` draws, unless others are given.
_SLOPES = (1 / 8, 1 / 3)


def rewritten(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return a program without operators that the exporter or ONNX Runtime cannot take, itself where there is none.

    Args:
        program: a captured part. It is not changed.
    """
    if not any(_is_refused(node) for graph in fx_graphs(program) for node in graph.nodes):
        return program
    changed = copy.copy(program)
    changed._graph_module = _rewritten_module(program.graph_module)
    return changed


def _rewritten_module(module: GraphModule) -> GraphModule:
    """Return a copy of a graph and of its regions, with rewritten operators and the same tensors."""
    changed = GraphModule(module, copy.deepcopy(module.graph))
    changed.meta = module.meta
    for name, child in module.named_children():
        if isinstance(child, GraphModule):
            setattr(changed, name, _rewritten_module(child))
    for node in list(changed.graph.nodes):
        if _is_refused(node):
            _rewrite(node)
    changed.recompile()
    return changed


def _is_refused(node: Node) -> bool:
    if node.target in _CLAMPS:
        return node.meta["val"].is_floating_point() and any(type(bound) is int for bound in node.args[1:])
    if node.target is _aten.scaled_dot_product_attention.default:
        return bool(node.meta["val"].ndim != 4)
    if node.target is _aten.cdist.default:
        return bool(len(node.args) < 3 or node.args[2] == 2)
    if node.target is _aten.grid_sampler.default:
        return bool(node.args[3] != _REFLECTION)
    return node.target in (_aten.sort.stable, _aten.argsort.stable, _aten.rrelu.default)


def _rewrite(node: Node) -> None:
    if node.target is _aten.sort.stable:
        # ONNX's TopK takes the lower index of equal numbers first, so that it is stable in both directions.
        values, dim, descending = node.args[0], node.kwargs.get("dim", -1), node.kwargs.get("descending", False)
        node.target, node.args, node.kwargs = _aten.sort.default, (values, dim, descending), {}
    elif node.target in _CLAMPS:
        node.args = tuple(float(value) if type(value) is int else value for value in node.args)
    elif node.target is _aten.argsort.stable:
        dim, descending = (node.kwargs.get(name, default) for name, default in (("dim", -1), ("descending", False)))
        with node.graph.inserting_before(node):
            pair = _call(node.graph, _aten.sort.default, node.args[0], dim, descending)
            _replace(node, _call(node.graph, operator.getitem, pair, 1))
    elif node.target is _aten.cdist.default:
        with node.graph.inserting_before(node):
            _replace(node, _distances(node.graph, node.args[0], node.args[1]))
    elif node.target is _aten.grid_sampler.default:
        with node.graph.inserting_before(node):
            near = _call(node.graph, _aten.clamp.default, node.args[1], -_FAR_IN_A_GRID, _FAR_IN_A_GRID)
        node.args = (node.args[0], near, *node.args[2:])
    elif node.target is _aten.rrelu.default:
        # Without training, its slope is the mean of the slopes that training draws.
        slopes: Any = node.args[1:3] or _SLOPES
        node.target, node.args, node.kwargs = _aten.leaky_relu.default, (node.args[0], sum(slopes) / 2), {}
    else:
        _rewrite_attention(node)


def _replace(node: Node, other: Node) -> None:
    node.replace_all_uses_with(other)
    node.graph.erase_node(node)


def _distances(graph: Graph, one: Any, other: Any) -> Node:
    """Return the Euclidean distances of all pairs of rows, by a matrix product, as PyTorch computes many of them."""
    products = _call(graph, _aten.matmul.default, one, _call(graph, _aten.transpose.int, other, -2, -1))
    lengths = [
        _call(graph, _aten.sum.dim_IntList, _call(graph, _aten.mul.Tensor, rows, rows), [-1], True)
        for rows in (one, other)
    ]
    total = _call(graph, _aten.add.Tensor, lengths[0], _call(graph, _aten.transpose.int, lengths[1], -2, -1))
    squares = _call(graph, _aten.sub.Tensor, total, _call(graph, _aten.mul.Tensor, products, 2.0))
    return _call(graph, _aten.sqrt.default, _call(graph, _aten.clamp.default, squares, 0.0))


def _rewrite_attention(node: Node) -> None:
    """Give attention over other than four axes an axis of one head, or write it out where it has more."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    graph, ndim = node.graph, node.meta["val"].ndim
    with graph.inserting_before(node):
        if ndim < 4:
            for name in names[:4]:
                tensor: Any = given.get(name)
                for _ in range(0 if tensor is None else 4 - ndim):
                    # A mask without the axis of rows is the same for all rows and heads.
                    tensor = _call(graph, _aten.unsqueeze.default, tensor, max(tensor.meta["val"].ndim - 2, 0))
                    given[name] = tensor
            arguments = tuple(given.pop(name) for name in names[:3])
            found = _call(graph, _aten.scaled_dot_product_attention.default, *arguments, **given)
            for _ in range(4 - ndim):
                found = _call(graph, _aten.squeeze.dim, found, found.meta["val"].ndim - 3)
        elif given.get("is_causal"):
            return  # the exporter says that it cannot
        else:
            found = _written_out(graph, given)
    _replace(node, found)


def _written_out(graph: Graph, given: dict[str, Any]) -> Node:
    """Return softmax(query · keyᵀ · scale + mask) · value."""
    query: Node = given["query"]
    mask: Node | None = given.get("attn_mask")
    scale = given.get("scale") or float(query.meta["val"].shape[-1]) ** -0.5
    keys = _call(graph, _aten.transpose.int, given["key"], -2, -1)
    scores = _call(graph, _aten.matmul.default, _call(graph, _aten.mul.Tensor, query, scale), keys)
    if mask is not None and mask.meta["val"].dtype == torch.bool:
        scores = _call(
            graph, _aten.masked_fill.Scalar, scores, _call(graph, _aten.logical_not.default, mask), -torch.inf
        )
    elif mask is not None:
        scores = _call(graph, _aten.add.Tensor, scores, mask)
    return _call(graph, _aten.matmul.default, _call(graph, _aten.softmax.int, scores, -1), given["value"])


def _call(graph: Graph, target: Any, *args: Any, **kwargs: Any) -> Node:
    """Add an operator to a graph, with the shape and dtype of its output."""
    node = graph.call_function(target, args, kwargs)
    values = torch.fx.map_arg((args, kwargs), lambda argument: argument.meta["val"])
    tensor = next(value for value in pytree.tree_leaves(values[0]) if isinstance(value, torch.Tensor))
    with getattr(tensor, "fake_mode"):  # noqa: B009  # values of a captured graph are fake tensors
        node.meta["val"] = target(*values[0], **values[1])
    return node
