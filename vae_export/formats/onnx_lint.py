"""Rules that an ONNX file of ours keeps, read from its graph before it is run.

rule                severity   why
random-operator     error      a graph that draws gives other values each time and cannot be verified
dropout             error      ONNX Runtime's optimiser removes what runs at its lowest level: results differ
training-branch     error      an If on a training flag is a model that was exported in the wrong mode
baked-batch         error      the first axis of an input or output is a number
fixed-reshape       warning    a Reshape to a positive first size, which may be a batch that was baked in
opset               error      another operator set than the manifest's
ir-version          error      an IR version that the manifest's versions do not write
foreign-domain      error      operators of a domain other than ONNX's own
sidecar             error      a tensor in another file: the file does not stand alone
machine-trace       error      a path or source line of the machine that wrote it
unused-initialiser  warning    weights that nothing reads
float64             error      a double among the types: slow where it is allowed, refused where it is not
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vae_export.findings import Finding, machine_traces

if TYPE_CHECKING:
    import onnx

_RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
}
#: Nothing of ONNX's own lives elsewhere; "ai.onnx.ml" is for trees and the like.
_DOMAINS = {"", "ai.onnx"}


def lint(data: bytes, name: str, *, opset: int | None, ir_version: int | None = None) -> Iterator[Finding]:
    """Findings about the ONNX file `name`. `opset` and `ir_version` are what was asked for; None is not checked."""
    import onnx

    model = onnx.load_from_string(data)
    yield from _versions(model, name, opset, ir_version)
    yield from _batch(model, name)
    yield from _graph(model.graph, name)
    yield from machine_traces(_texts(model), name)


def _versions(model: onnx.ModelProto, name: str, opset: int | None, ir_version: int | None) -> Iterator[Finding]:
    for entry in model.opset_import:
        if entry.domain not in _DOMAINS:
            yield Finding("foreign-domain", "error", name, f"{entry.domain} {entry.version}")
        elif opset is not None and entry.version != opset:
            yield Finding("opset", "error", name, f"{entry.version}, not {opset}")
    if ir_version is not None and model.ir_version != ir_version:
        yield Finding("ir-version", "error", name, f"{model.ir_version}, not {ir_version}")


def _batch(model: onnx.ModelProto, name: str) -> Iterator[Finding]:
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if not dims or not dims[0].dim_param:
            size = dims[0].dim_value if dims else "no axes"
            yield Finding("baked-batch", "error", f"{name}, tensor '{value.name}'", f"first axis is {size}")


def _graph(graph: onnx.GraphProto, name: str) -> Iterator[Finding]:
    import onnx

    double = onnx.TensorProto.DOUBLE
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    read = {value for node in graph.node for value in node.input} | {value.name for value in graph.output}
    for tensor in graph.initializer:
        where = f"{name}, initialiser '{tensor.name}'"
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield Finding("sidecar", "error", where, _location(tensor))
        if tensor.data_type == double:
            yield Finding("float64", "error", where, "its type")
        if tensor.name not in read and not any(_reads(node, tensor.name) for node in graph.node):
            yield Finding("unused-initialiser", "warning", where, "nothing reads it")
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == double:
            yield Finding("float64", "error", f"{name}, tensor '{value.name}'", "its type")
    for node in graph.node:
        yield from _node(node, tensors, name)


def _node(node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto], name: str) -> Iterator[Finding]:
    import onnx

    where = f"{name}, node '{node.name or node.op_type}'"
    if node.domain not in _DOMAINS:
        yield Finding("foreign-domain", "error", where, node.domain)
    if node.op_type in _RANDOM:
        yield Finding("random-operator", "error", where, node.op_type)
    if node.op_type == "Dropout":
        yield Finding("dropout", "error", where, "left in the graph")
    if node.op_type == "If":
        training = any("training" in value.lower() for value in node.input)
        yield Finding("training-branch", "error", where, "on a training flag" if training else "on a condition")
    if node.op_type == "Reshape" and (shape := tensors.get("".join(node.input[1:2]))) is not None:
        first = onnx.numpy_helper.to_array(shape).flatten()[:1]
        if first.size and first[0] > 0:
            yield Finding("fixed-reshape", "warning", where, f"first size {first[0]}")
    for attribute in node.attribute:
        if attribute.t.data_type == onnx.TensorProto.DOUBLE or (
            node.op_type == "Cast" and attribute.i == onnx.TensorProto.DOUBLE
        ):
            yield Finding("float64", "error", where, f"attribute '{attribute.name}'")
        for graph in (attribute.g, *attribute.graphs):
            yield from _graph(graph, f"{name}, {node.name}")


def _reads(node: onnx.NodeProto, tensor: str) -> bool:
    """Whether a subgraph of `node` reads a tensor of the graph around it."""
    graphs = [graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs)]
    return any(tensor in inner.input or _reads(inner, tensor) for graph in graphs for inner in graph.node)


def _location(tensor: onnx.TensorProto) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "no location")


def _texts(model: onnx.ModelProto) -> bytes:
    """Every text of a model, and no weights: among random bytes any pattern turns up at last."""
    return "\n".join(_strings(model)).encode("utf-8", "replace")


def _strings(message: Any) -> Iterator[str]:
    for _, value in message.ListFields():
        if isinstance(value, str):
            yield value
        elif hasattr(value, "ListFields"):
            yield from _strings(value)
        elif not isinstance(value, bytes | int | float):
            for item in value:
                if isinstance(item, str):
                    yield item
                elif hasattr(item, "ListFields"):
                    yield from _strings(item)
                else:
                    break  # numbers, or bytes: weights
