"""Ways through an ONNX model: its graphs, the bodies of its functions, its tensors, wherever they hide.

Lint and admission read the same places: what one of them overlooked, both would.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

#: The two names of ONNX's own operators. "ai.onnx.ml" is for trees and the like, which no VAE needs.
DOMAINS = frozenset({"", "ai.onnx"})


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node carries: branches of an If, bodies of loops."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def every_node(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """These nodes and all those inside their subgraphs."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from every_node(graph.node)


def every_graph(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all those inside its nodes."""
    yield graph
    for node in every_node(graph.node):
        yield from subgraphs(node)


def weights(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """The initialisers of a graph, each with the name that nodes read it by; a sparse one is two tensors."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for sparse in graph.sparse_initializer:
        yield from ((sparse.values.name, tensor) for tensor in (sparse.values, sparse.indices))


def constants(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    """The tensors among a node's own attributes, sparse ones too."""
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in (
            *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
            *attribute.sparse_tensors,
        ):
            yield from (sparse.values, sparse.indices)


def elsewhere(tensor: onnx.TensorProto) -> str | None:
    """Where a tensor's numbers lie, if that is another file; None for one that holds them itself."""
    import onnx

    if tensor.data_location != onnx.TensorProto.EXTERNAL and not tensor.external_data:
        return None
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "no location")
