"""Rewrite operators that PyTorch's ONNX exporter or ONNX Runtime cannot take as equal ones that they can."""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.utils import _pytree as pytree

from vae_export.capture.program import fx_graphs

_aten = torch.ops.aten
#: Operators with bounds that may be an integer and a float at once.
_CLAMPS = (_aten.clamp.default, _aten.clamp_.default, _aten.hardtanh.default)
#: Places of a grid beyond which sampling gives what it gives here: 0 or the border, whatever the interpolation. Images
#: lie in [-1, 1]. ONNX Runtime gives 0 in place of the border from about 1e6 on.
_FAR_IN_A_GRID = 1e3
_REFLECTION = 2
#: Mean pooling to a given size, with the number of its axes. The exporter takes the windows of the example's size.
_MEANS = {
    _aten.adaptive_avg_pool1d.default: 1,
    _aten.adaptive_avg_pool2d.default: 2,
    _aten.adaptive_avg_pool3d.default: 3,
}
#: Max pooling to a given size, which gives values and places; the exporter has none of any size.
_MAXIMA = {
    _aten.adaptive_max_pool1d.default: 1,
    _aten.adaptive_max_pool2d.default: 2,
    _aten.adaptive_max_pool3d.default: 3,
}
#: Nearest neighbours, with the number of their axes, and what is added to a place. ONNX Runtime rounds the ratio of two
#: sizes in another way, and takes another neighbour for some of them, such as 14 and 32.
_NEAREST: dict[Any, tuple[int, float]] = {
    _aten.upsample_nearest1d.vec: (1, 0.0),
    _aten.upsample_nearest2d.vec: (2, 0.0),
    _aten.upsample_nearest3d.vec: (3, 0.0),
    _aten._upsample_nearest_exact1d.vec: (1, 0.5),
    _aten._upsample_nearest_exact2d.vec: (2, 0.5),
    _aten._upsample_nearest_exact3d.vec: (3, 0.5),
}
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
    if node.target in _MAXIMA:
        return all(user.target is operator.getitem and user.args[1] == 0 for user in node.users)
    if node.target in _MEANS:
        axes = _MEANS[node.target]
        sizes = zip(_argument_value(node, 0).shape[-axes:], _argument_value(node, 1), strict=True)
        return any(isinstance(size, torch.SymInt) and pooled != 1 for size, pooled in sizes)
    if node.target in _NEAREST:
        return _has_another_neighbour(node)
    if node.target is _aten.repeat_interleave.self_int:
        return isinstance(_argument_value(node, 1), torch.SymInt)
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
    elif node.target in _MEANS:
        with node.graph.inserting_before(node):
            _replace(node, _mean_pooled(node.graph, node.args[0], node.args[1], _MEANS[node.target]))
    elif node.target in _MAXIMA:
        with node.graph.inserting_before(node):
            values = _max_pooled(node.graph, node.args[0], node.args[1], _MAXIMA[node.target])
        for user in list(node.users):
            _replace(user, values)
        node.graph.erase_node(node)
    elif node.target in _NEAREST:
        with node.graph.inserting_before(node):
            _replace(node, _nearest(node.graph, node, *_NEAREST[node.target]))
    elif node.target is _aten.repeat_interleave.self_int:
        with node.graph.inserting_before(node):
            _replace(node, _repeated(node.graph, node))
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


def _argument_value(node: Node, place: int) -> Any:
    """Return the value of an argument when the graph was captured."""
    return torch.fx.map_arg(node.args[place], lambda argument: argument.meta["val"])


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


def _mean_pooled(graph: Graph, tensor: Any, sizes: Any, axes: int) -> Node:
    """Return the means of windows along the last axes, each axis by a product with a matrix of the windows' weights."""
    for axis, pooled in zip(range(-axes, 0), sizes, strict=True):
        ones = _call(graph, _aten.to.dtype, _windows(graph, tensor, axis, pooled), tensor.meta["val"].dtype)
        weights = _call(graph, _aten.div.Tensor, ones, _call(graph, _aten.sum.dim_IntList, ones, [0], True))
        moved = _call(graph, _aten.transpose.int, tensor, axis, -1)
        tensor = _call(graph, _aten.transpose.int, _call(graph, _aten.matmul.default, moved, weights), axis, -1)
    return tensor  # type: ignore[no-any-return]  # a node


def _max_pooled(graph: Graph, tensor: Any, sizes: Any, axes: int) -> Node:
    """Return the largest values of windows along the last axes, each axis with places outside of a window left out."""
    for axis, pooled in zip(range(-axes, 0), sizes, strict=True):
        outside = _call(graph, _aten.logical_not.default, _windows(graph, tensor, axis, pooled))
        moved = _call(graph, _aten.unsqueeze.default, _call(graph, _aten.transpose.int, tensor, axis, -1), -1)
        within = _call(graph, _aten.masked_fill.Scalar, moved, outside, -torch.inf)
        tensor = _call(graph, _aten.transpose.int, _call(graph, _aten.amax.default, within, [-2]), axis, -1)
    return tensor  # type: ignore[no-any-return]  # a node


def _windows(graph: Graph, tensor: Any, axis: int, pooled: int) -> Node:
    """Return which places of an axis lie in which window of pooling to a size, (places, windows), bool."""
    size = graph.call_function(_aten.sym_size.int, (tensor, axis))
    size.meta["val"] = tensor.meta["val"].shape[axis]
    # Window i has the places j from floor(i · size / pooled) to before ceil((i + 1) · size / pooled).
    first = _call(graph, _aten.unsqueeze.default, _call(graph, _aten.arange.default, pooled), 0)
    place = _call(graph, _aten.unsqueeze.default, _call(graph, _aten.arange.default, size), 1)
    behind = _call(graph, _aten.mul.Tensor, _call(graph, _aten.add.Tensor, first, 1), size)
    is_before_end = _call(graph, _aten.lt.Tensor, _call(graph, _aten.mul.Tensor, place, pooled), behind)
    next_place = _call(graph, _aten.mul.Tensor, _call(graph, _aten.add.Tensor, place, 1), pooled)
    is_after_start = _call(graph, _aten.gt.Tensor, next_place, _call(graph, _aten.mul.Tensor, first, size))
    return _call(graph, _aten.logical_and.default, is_before_end, is_after_start)


def _repeated(graph: Graph, node: Node) -> Node:
    """Return each entry along an axis as often as a symbol says. The exporter repeats along another axis then."""
    given: dict[str, Any] = dict(zip(("tensor", "repeats", "dim"), node.args, strict=False)) | dict(node.kwargs)
    tensor, repeats, axis = given["tensor"], given["repeats"], given.get("dim")
    if axis is None:
        tensor, axis = _call(graph, _aten.reshape.default, tensor, [-1]), 0
    ndim = tensor.meta["val"].ndim
    axis %= ndim
    apart = _call(graph, _aten.unsqueeze.default, tensor, axis + 1)
    sizes = [-1] * (axis + 1) + [repeats] + [-1] * (ndim - axis - 1)
    return _call(graph, _aten.flatten.using_ints, _call(graph, _aten.expand.default, apart, sizes), axis, axis + 1)


def _has_another_neighbour(node: Node) -> bool:
    """Whether an axis is given a size, or scaled to one, that is no multiple of its own for all values of symbols."""
    axes, _ = _NEAREST[node.target]
    before, after = _argument_value(node, 0).shape[-axes:], node.meta["val"].shape[-axes:]
    if node.args[1] is None and not all(isinstance(size, int) for size in after):
        return False  # scaled by a number; there is no node that has the size
    return not all(statically_known_true(large % small == 0) for small, large in zip(before, after, strict=True))


def _nearest(graph: Graph, node: Node, axes: int, offset: float) -> Node:
    """Return the nearest neighbours along the last axes, with the indices computed in float32 as PyTorch does."""
    tensor: Any = node.args[0]
    given: Any = node.args[1] or node.meta["val"].shape[-axes:]
    scales: Any = node.args[2] if node.args[1] is None else None
    one = _call(graph, _aten.ones.default, [1])
    for axis in range(-axes, 0):
        before = graph.call_function(_aten.sym_size.int, (tensor, axis))
        before.meta["val"] = tensor.meta["val"].shape[axis]
        length = _call(graph, _aten.mul.Tensor, one, before)
        if scales is None:
            ratio = _call(graph, _aten.div.Tensor, length, _call(graph, _aten.mul.Tensor, one, given[axis]))
        else:
            ratio = _call(graph, _aten.mul.Tensor, one, 1.0 / scales[axis])
        place = _call(graph, _aten.to.dtype, _call(graph, _aten.arange.default, given[axis]), torch.float32)
        if offset:
            place = _call(graph, _aten.add.Tensor, place, offset)
        found = _call(graph, _aten.floor.default, _call(graph, _aten.mul.Tensor, place, ratio))
        last = _call(graph, _aten.sub.Tensor, length, 1.0)
        index = _call(graph, _aten.to.dtype, _call(graph, _aten.minimum.default, found, last), torch.int64)
        tensor = _call(graph, _aten.index_select.default, tensor, axis, index)
    return tensor  # type: ignore[no-any-return]  # a node


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
    known = [*pytree.tree_leaves(values[0]), *(other.meta.get("val") for other in graph.nodes)]
    tensor = next(value for value in known if isinstance(value, torch.Tensor))
    with getattr(tensor, "fake_mode"):  # noqa: B009  # values of a captured graph are fake tensors
        node.meta["val"] = target(*values[0], **values[1])
    return node
