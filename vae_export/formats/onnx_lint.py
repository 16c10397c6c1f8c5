"""Lint rules, which find faults by reading the graph of an ONNX file, before it is run.

rule                severity   why
random-operator     error      a graph that draws random numbers gives other outputs in each run
dropout             error      runs at ONNX Runtime's lowest optimisation level, removed at others: results differ
training-branch     error      an If on a training flag: the model was exported in two modes
branch              warning    an If on anything else: probes may not take both branches
baked-batch         error      the first axis of an input or output is a number, and the contract inside does not say so
fixed-reshape       warning    a Reshape to a positive first size, which may be the batch of the example
opset               error      the operator set differs from the manifest's
ir-version          error      the IR version differs from the one that `export` writes
foreign-domain      error      operators outside ONNX's own domain
sidecar             error      a tensor in another file than the file's own sidecar: this one is incomplete
machine-trace       error      a path or source line of the machine that wrote it
unused-initialiser  warning    weights that no node reads
float64             error      a float64 type: slow on some engines, refused by others

Subgraphs and the bodies of functions are also checked. The functions that iterate over a model are public, because
`vae_export.sandbox` uses them too.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from vae_export.artifact.file_metadata import CONTRACT
from vae_export.formats.base import Finding, machine_traces

if TYPE_CHECKING:
    import onnx

#: The two names of ONNX's own operator set. "ai.onnx.ml" is for decision trees and the like, which no VAE needs.
DOMAINS = frozenset({"", "ai.onnx"})


#: The producer of each value of a graph, by name: the node that computes it, or the initialiser that holds it.
_Scope: TypeAlias = "dict[str, onnx.NodeProto | onnx.TensorProto]"

_RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
}
#: Pattern of the names of training flags, such as "training", "is_training" or "net.train_mode".
_TRAINING = re.compile(r"(?<![a-z])(?:is_?)?train(?:ing)?(?![a-z])")


def lint(
    data: bytes,
    name: str,
    *,
    opset: int | None,
    ir_version: int | None = None,
    foreign: Collection[str] = (),
    sidecars: Collection[str] = (),
) -> Iterator[Finding]:
    """Find faults in an ONNX file.

    Args:
        data: the bytes of the file. Protobuf's error is raised if they cannot be parsed.
        name: the name of the file, for the findings.
        opset, ir_version: required versions; None is not checked.
        foreign: allowed operators and operator sets outside ONNX, such as "com.microsoft 1".
        sidecars: names of the files that may hold weights.

    Returns:
        An iterator of the faults.
    """
    import onnx

    allowed = {"foreign-domain": foreign, "sidecar": sidecars}
    for finding in _findings(onnx.load_from_string(data), name, opset, ir_version):
        if finding.detail not in allowed.get(finding.rule, ()):
            yield finding


def _findings(model: onnx.ModelProto, name: str, opset: int | None, ir_version: int | None) -> Iterator[Finding]:
    yield from _versions(model, name, opset, ir_version)
    yield from _batch(model, name)
    yield from _graph(model.graph, name, {})
    for function in model.functions:
        yield from _domains(function.opset_import, f"{name}, function '{function.name}'")
        yield from _nodes(function.node, f"{name}, function '{function.name}'", {})
    yield from machine_traces(_texts(model), name)


def _versions(model: onnx.ModelProto, name: str, opset: int | None, ir_version: int | None) -> Iterator[Finding]:
    yield from _domains(model.opset_import, name)
    for entry in model.opset_import:
        if entry.domain in DOMAINS and opset is not None and entry.version != opset:
            yield Finding("opset", "error", name, f"{entry.version}; the manifest says {opset}")
    if ir_version is not None and model.ir_version != ir_version:
        yield Finding("ir-version", "error", name, f"{model.ir_version}; export writes {ir_version}")


def _domains(imported: Iterable[onnx.OperatorSetIdProto], where: str) -> Iterator[Finding]:
    for entry in imported:
        if entry.domain not in DOMAINS:
            yield Finding("foreign-domain", "error", where, f"{entry.domain} {entry.version}")


def _batch(model: onnx.ModelProto, name: str) -> Iterator[Finding]:
    if _states_fixed_batch(model):
        return
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if not dims or not dims[0].dim_param:
            size = dims[0].dim_value if dims else "no axes"
            yield Finding("baked-batch", "error", f"{name}, tensor '{value.name}'", f"first axis is {size}")


def _states_fixed_batch(model: onnx.ModelProto) -> bool:
    """Whether the contract in the file's metadata has a number as the batch, which opening a file compares with it."""
    for entry in model.metadata_props:
        if entry.key == CONTRACT:
            with contextlib.suppress(ValueError, LookupError, TypeError):
                stated = json.loads(entry.value)
                tensors = [*stated["inputs"], *stated["outputs"]]
                return all(type(tensor["shape"][0]) is int for tensor in tensors)
    return False


def _graph(graph: onnx.GraphProto, name: str, outer: _Scope) -> Iterator[Finding]:
    """Check a graph; `outer` has the values of the enclosing graphs, which the graph may read."""
    import onnx

    double = onnx.TensorProto.DOUBLE
    # Subgraphs may read tensors of the enclosing graph.
    graphs = list(every_graph(graph))
    read = {value for inner in graphs for node in inner.node for value in node.input}
    read |= {value.name for inner in graphs for value in inner.output}
    for tensor_name, tensor in weights(graph):
        where = f"{name}, initialiser '{tensor_name}'"
        yield from _tensor(tensor, where)
    for tensor_name in dict.fromkeys(tensor_name for tensor_name, _ in weights(graph)):
        if tensor_name not in read:
            where = f"{name}, initialiser '{tensor_name}'"
            yield Finding("unused-initialiser", "warning", where, "nothing reads it")
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == double:
            yield Finding("float64", "error", f"{name}, tensor '{value.name}'", "its type")
    yield from _nodes(graph.node, name, outer | {tensor.name: tensor for tensor in graph.initializer})


def _tensor(tensor: onnx.TensorProto, where: str) -> Iterator[Finding]:
    import onnx

    if (location := external_location(tensor)) is not None:
        yield Finding("sidecar", "error", where, location)
    if tensor.data_type == onnx.TensorProto.DOUBLE:
        yield Finding("float64", "error", where, "its type")


def _nodes(nodes: Sequence[onnx.NodeProto], name: str, outer: _Scope) -> Iterator[Finding]:
    scope = outer | {value: node for node in nodes for value in node.output}
    for node in nodes:
        where = f"{name}, node '{node.name or node.op_type}'"
        yield from _node(node, where, scope)
        for graph in subgraphs(node):
            yield from _graph(graph, f"{name}, {node.name}", scope)


def _node(node: onnx.NodeProto, where: str, scope: _Scope) -> Iterator[Finding]:
    import onnx

    if node.domain not in DOMAINS:
        yield Finding("foreign-domain", "error", where, f"{node.domain} {node.op_type}")
    if node.op_type in _RANDOM:
        yield Finding("random-operator", "error", where, node.op_type)
    if node.op_type == "Dropout":
        yield Finding("dropout", "error", where, "left in the graph")
    if node.op_type == "If":
        yield _branch(node, where, scope)
    shape = scope.get("".join(node.input[1:2]))
    if node.op_type == "Reshape" and isinstance(shape, onnx.TensorProto):
        first = onnx.numpy_helper.to_array(shape).flatten()[:1]
        if first.size and first[0] > 0:
            yield Finding("fixed-reshape", "warning", where, f"first size {first[0]}")
    for tensor in constants(node):
        yield from _tensor(tensor, where)
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.i == onnx.TensorProto.DOUBLE:
            yield Finding("float64", "error", where, f"attribute '{attribute.name}'")


def _branch(node: onnx.NodeProto, where: str, scope: _Scope) -> Finding:
    """Return the finding for an If: an error if its condition depends on a training flag, else a warning."""
    for name in _origins(node.input[0], scope) if node.input else ():
        if _TRAINING.search(name.lower()):
            return Finding("training-branch", "error", where, f"on '{name}'")
    return Finding("branch", "warning", where, f"on '{''.join(node.input[:1])}'")


def _origins(value: str, scope: _Scope) -> Iterator[str]:
    """Yield the names of a value and of all values from which it is computed."""
    import onnx

    seen, left = set[str](), [value]
    while left:
        name = left.pop()
        if name and name not in seen:
            seen.add(name)
            yield name
            producer = scope.get(name)
            if isinstance(producer, onnx.NodeProto):
                left += producer.input


def _texts(model: onnx.ModelProto) -> bytes:
    """Return all texts of a model without its weights, whose random bytes can match any pattern by chance."""
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


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs in a node: branches of an If, bodies of loops."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def every_node(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield these nodes and all nodes in their subgraphs."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from every_node(graph.node)


def every_graph(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs in its nodes."""
    yield graph
    for node in every_node(graph.node):
        yield from subgraphs(node)


def weights(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Yield the initialisers of a graph, each with its name in the graph; a sparse initialiser has two tensors."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for sparse in graph.sparse_initializer:
        yield from ((sparse.values.name, tensor) for tensor in (sparse.values, sparse.indices))


def constants(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    """Yield the tensors in a node's attributes, including sparse ones."""
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in (
            *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
            *attribute.sparse_tensors,
        ):
            yield from (sparse.values, sparse.indices)


def external_location(tensor: onnx.TensorProto) -> str | None:
    """Return the name of the external file with a tensor's data, or None if the data are in the tensor."""
    import onnx

    if tensor.data_location != onnx.TensorProto.EXTERNAL and not tensor.external_data:
        return None
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "no location")
