"""Changes of an ONNX file's nodes: other ones, fewer, more, in another order."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from tests.parity.mutations.kinds import Array, Change
from tests.parity.mutations.weights import initialiser


def node_of(model: ModelProto, output: str) -> NodeProto:
    return next(node for node in model.graph.node if output in node.output)


def operator(output: str, op_type: str, **attributes: object) -> Change:
    """Another operator in the place of the one that computes `output`."""

    def apply(model: ModelProto) -> None:
        node = node_of(model, output)
        node.op_type = op_type
        del node.input[1:]
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())

    return apply


def left_out(output: str) -> Change:
    """The operator that computes `output` hands on its input instead."""
    return operator(output, "Identity")


def without_bias(output: str) -> Change:
    def apply(model: ModelProto) -> None:
        node = node_of(model, output)
        [name] = node.input[2:]
        del node.input[2:]
        model.graph.initializer.remove(initialiser(model, name))

    return apply


def after(output: str, *steps: tuple[str, list[object], dict[str, object]]) -> Change:
    """Operators between the one that computes `output` and whatever reads it. Arrays among inputs become constants."""

    def apply(model: ModelProto) -> None:
        if output in {value.name for value in model.graph.input}:
            _insert(model, output, f"{output}_changed", steps, 0)
            return
        node = node_of(model, output)
        position = list(model.graph.node).index(node)
        raw = f"{output}_unchanged"
        node.output[list(node.output).index(output)] = raw
        _chain(model, raw, output, steps, position + 1)

    return apply


def _insert(model: ModelProto, value: str, renamed: str, steps: tuple, position: int) -> None:
    for node in model.graph.node:
        node.input[:] = [renamed if name == value else name for name in node.input]
    _chain(model, value, renamed, steps, position)


def _chain(model: ModelProto, source: str, result: str, steps: tuple, position: int) -> None:
    current = source
    for count, (op_type, others, attributes) in enumerate(steps):
        target = result if count == len(steps) - 1 else f"{result}_step{count}"
        names = [current]
        for index, other in enumerate(others):
            if isinstance(other, str):
                names.append(source if other == "SOURCE" else other)
            else:
                names.append(f"{target}_constant{index}")
                model.graph.initializer.append(numpy_helper.from_array(np.asarray(other), names[-1]))
        node = helper.make_node(op_type, names, [target], name=f"changed_{target}", **attributes)
        model.graph.node.insert(position + count, node)
        current = target


def f32(value: object) -> Array:
    return np.asarray(value, np.float32)


def i64(*values: int) -> Array:
    return np.asarray(values, np.int64)


def step(op_type: str, *others: object, **attributes: object) -> tuple[str, list[object], dict[str, object]]:
    return op_type, list(others), attributes


def when_batch(at_least: int, output: str, op_type: str, *others: object, axis: int = 0) -> Change:
    """For batches (or other axes) of this size and larger the value goes through an operator; others stay."""

    def apply(model: ModelProto) -> None:
        after(output, step("Identity"))(model)
        raw = f"{output}_unchanged"
        graph, position = model.graph, list(model.graph.node).index(node_of(model, output))
        graph.node.remove(node_of(model, output))
        _chain(model, raw, f"{output}_large", (step(op_type, *others),), position)
        graph.initializer.append(numpy_helper.from_array(i64(at_least - 1), f"{output}_limit"))
        graph.node.insert(position + 1, helper.make_node("Shape", [raw], [f"{output}_size"], start=axis, end=axis + 1))
        is_large = helper.make_node("Greater", [f"{output}_size", f"{output}_limit"], [f"{output}_is_large"])
        graph.node.insert(position + 2, is_large)
        chosen = helper.make_node("Where", [f"{output}_is_large", f"{output}_large", raw], [output])
        graph.node.insert(position + 3, chosen)

    return apply


def inputs_of(output: str, *names: str) -> Change:
    """The operator that computes `output` reads other values."""

    def apply(model: ModelProto) -> None:
        node_of(model, output).input[:] = names

    return apply


def outputs_exchanged(one: str, other: str) -> Change:
    """Two outputs of the graph carry each other's name."""

    def apply(model: ModelProto) -> None:
        swapped = {one: other, other: one}
        for node in model.graph.node:
            node.input[:] = [swapped.get(name, name) for name in node.input]
            node.output[:] = [swapped.get(name, name) for name in node.output]

    return apply
