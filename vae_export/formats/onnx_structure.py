"""An ONNX model as a `Structure`: operators with their attributes, constants, inputs, outputs and metadata."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vae_export.contract import Array
from vae_export.formats.structure import Node, Structure, array_constant, constant, unused

#: The version in what a file says of its producer, which differs between honest files.
_VERSION = re.compile(r"\d[\w.+]*")

if TYPE_CHECKING:
    import onnx


def onnx_structure(data: bytes, sidecars: Iterable[bytes] = ()) -> Structure:
    """Return the structure of an ONNX file.

    Args:
        data: the bytes of the file. Protobuf's error is raised if they cannot be parsed.
        sidecars: the bytes of the file that holds the weights of a large model.
    """
    import onnx

    return _Reader(onnx.load_model_from_string(data), list(sidecars)).structure()


class _Reader:
    """Reads one model."""

    def __init__(self, model: onnx.ModelProto, sidecars: list[bytes]) -> None:
        self.model, self.sidecars = model, sidecars
        #: Operators that were replaced by the constant that they compute.
        self.folded: list[Node] = []
        self.versions = {entry.domain: entry.version for entry in model.opset_import}

    def structure(self) -> Structure:
        graph = self.model.graph
        inputs = {value.name: Node("input", value.name, {"tensor": _typed(value)}) for value in graph.input}
        scope, nodes = self.values(graph, dict(inputs))
        outputs = {_typed(value): scope[value.name] for value in graph.output}
        metadata = {entry.key: entry.value for entry in self.model.metadata_props}
        metadata["operator sets"] = ", ".join(
            sorted(f"{domain or 'ai.onnx'} {version}" for domain, version in self.versions.items())
        )
        metadata |= {"doc_string": f"{self.model.doc_string}{graph.doc_string}", "domain": self.model.domain}
        metadata |= {"producer": f"{self.model.producer_name} {_VERSION.sub('', self.model.producer_version)}".strip()}
        metadata["IR version"] = str(self.model.ir_version)
        for function in self.model.functions:
            metadata[f"function {function.domain} {function.name}"] = str(function)
        initialisers = {tensor.name for tensor in graph.initializer}
        initialisers |= {tensor.values.name for tensor in graph.sparse_initializer}
        listed = tuple(
            f"{_typed(value)}{', an initialiser that callers may replace' if value.name in initialisers else ''}"
            for value in graph.input
        )
        return Structure(listed, outputs, metadata, unused(nodes, [*outputs.values(), *self.folded]))

    def values(self, graph: onnx.GraphProto, scope: dict[str, Node]) -> tuple[dict[str, Node], list[Node]]:
        """Return the values of a graph by name, with those of the graphs around it, and the nodes of this graph."""
        made: list[Node] = []
        for tensor in graph.initializer:
            scope[tensor.name] = self.constant(tensor, tensor.name)
            made.append(scope[tensor.name])
        for sparse in graph.sparse_initializer:
            parts = tuple(self.constant(tensor, sparse.values.name) for tensor in (sparse.values, sparse.indices))
            scope[sparse.values.name] = Node("sparse constant", sparse.values.name, {"shape": str(sparse.dims)}, parts)
            made.append(scope[sparse.values.name])
        for node in graph.node:
            for output, name in enumerate(node.output):
                if name:
                    scope[name] = self.node(node, output, scope)
                    made.append(scope[name])
        return scope, made

    def constant(self, tensor: onnx.TensorProto, name: str) -> Node:
        import onnx
        from onnx import numpy_helper

        dtype = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
        if not tensor.external_data:
            found = array_constant(numpy_helper.to_array(tensor), name)
            return Node("constant", name, {**found.facts, "type": dtype}, value=found.value)
        place = {entry.key: entry.value for entry in tensor.external_data}
        start, length = int(place.get("offset", 0)), int(place.get("length", 0))
        data = memoryview(self.sidecars[0])[start : start + length] if self.sidecars else memoryview(b"")

        def value() -> Array:
            import numpy as np

            kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            return np.frombuffer(data, kind).reshape(tuple(tensor.dims))

        return constant(value, dtype, tensor.dims, data, name)

    def node(self, node: onnx.NodeProto, output: int, scope: Mapping[str, Node]) -> Node:
        if node.op_type == "Constant" and [attribute.name for attribute in node.attribute] == ["value"]:
            return self.constant(node.attribute[0].t, node.output[0])
        inputs = [scope[name] if name in scope else Node("nothing", name) for name in node.input]
        while inputs and inputs[-1].kind == "nothing" and not inputs[-1].name:
            inputs.pop()  # optional inputs at the end may be left out
        facts = dict(_defaults(node.op_type, node.domain, self.versions.get(node.domain, 0)))
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                for place, graph in enumerate([attribute.g] if attribute.HasField("g") else attribute.graphs):
                    inputs += self.subgraph(graph, f"{attribute.name} {place}", scope)
            elif attribute.HasField("t"):
                inputs.append(self.constant(attribute.t, f"{node.name}.{attribute.name}"))
                facts[attribute.name] = "a tensor"
            else:
                facts[attribute.name] = _attribute(attribute)
        kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        if kind in ("Conv", "ConvTranspose") and facts.get("kernel_shape") == _kernel_shape(inputs):
            del facts["kernel_shape"]  # which ONNX reads from the weight where it is not stated
        if kind == "Reshape" and (shape := _batch_as_unknown(inputs[1])) is not None:
            self.folded.append(inputs[1])
            inputs[1] = shape
        found = Node(kind, node.name or node.output[0], facts, tuple(inputs), output)
        if kind == "Concat" and all(item.value is not None for item in inputs):
            self.folded.append(found)
            return _joined(found, [item.value() for item in inputs if item.value], axis=node.attribute[0].i)
        return found

    def subgraph(self, graph: onnx.GraphProto, name: str, outer: Mapping[str, Node]) -> list[Node]:
        """Return the outputs of a graph in a node, as if the node read them."""
        inner = {
            value.name: Node("input", value.name, {"of": f"{name}, {place}"}) for place, value in enumerate(graph.input)
        }
        scope, _ = self.values(graph, {**outer, **inner})
        return [
            Node("result", f"{name}.{value.name}", {"of": name}, (scope[value.name],))
            for value in graph.output
            if value.name in scope
        ]


def _kernel_shape(inputs: Sequence[Node]) -> str | None:
    """Return the attribute `kernel_shape` that follows from the weight of a convolution, or None if it is computed."""
    if len(inputs) < 2 or inputs[1].value is None:
        return None
    return f"ints [{', '.join(map(str, inputs[1].value().shape[2:]))}]"


def _joined(node: Node, arrays: Sequence[Array], axis: int = 0) -> Node:
    """Return the constant that a Concat of constants computes: versions of the exporter write the one or the other."""
    import numpy as np

    found = array_constant(np.concatenate(arrays, axis), node.name)
    kind = next(item.facts["type"] for item in node.inputs if item.value is not None)
    return replace(found, facts={**found.facts, "type": kind})


def _batch_as_unknown(shape: Node) -> Node | None:
    """Return the shape of a Reshape with -1 in place of the number of rows, as later versions of the exporter write it.

    The shape is a Concat of positive constants and of `Shape(start=0, end=1)` of an input of the graph, once. With it a
    Reshape gives the same as with -1, or fails: then no input passes, which the comparison of outputs finds.

    Returns:
        A constant, or None for any other shape.
    """
    import numpy as np

    rows = [item for item in shape.inputs if item.value is None]
    if shape.kind != "Concat" or len(rows) != 1 or rows[0].kind != "Shape":
        return None
    [batch], [counted] = rows, rows[0].inputs
    if (batch.facts.get("start"), batch.facts.get("end")) != ("int 0", "int 1") or "tensor" not in counted.facts:
        return None
    arrays = [np.array([-1]) if item.value is None else item.value() for item in shape.inputs]
    sizes = [array for array, item in zip(arrays, shape.inputs, strict=True) if item is not batch]
    return _joined(shape, arrays) if sizes and all((array > 0).all() for array in sizes) else None


def _typed(value: onnx.ValueInfoProto) -> str:
    """Return name, type and sizes of a tensor, such as "image: float (N, 1, 28, 28)"."""
    import onnx

    tensor = value.type.tensor_type
    sizes = [dim.dim_param.replace(" ", "") or str(dim.dim_value) for dim in tensor.shape.dim]
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    return f"{value.name}: {kind} ({', '.join(sizes)})"


def _attribute(attribute: onnx.AttributeProto) -> str:
    """Return the value of an attribute as text; numbers with all their digits."""
    import onnx

    value = onnx.helper.get_attribute_value(attribute)
    return f"{onnx.AttributeProto.AttributeType.Name(attribute.type).lower()} {_plain(value)}"


def _plain(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, int | float | str):
        return repr(value)
    if hasattr(value, "SerializeToString"):
        return str(value)
    return f"[{', '.join(map(_plain, value))}]" if isinstance(value, Iterable) else repr(value)


@functools.cache
def _defaults(operator: str, domain: str, version: int) -> Mapping[str, str]:
    """Return the default values of an operator's attributes, because a file may state them or leave them out."""
    import onnx

    try:
        schema = onnx.defs.get_schema(operator, version, "" if domain == "ai.onnx" else domain)
    except onnx.defs.SchemaError:
        return {}
    return {
        name: _attribute(attribute.default_value)
        for name, attribute in schema.attributes.items()
        if attribute.default_value.type
    }
