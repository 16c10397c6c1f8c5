"""An ONNX model as a `Structure`: operators with their attributes, constants, inputs, outputs and metadata.

Nothing in a file is passed over. What has no place of its own in the structure (notes, training information, fields
that this version of onnx does not know, names that are defined twice) is listed as further content.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vae_export.contract import Array
from vae_export.formats.structure import (
    Node,
    Structure,
    array_constant,
    constant,
    plain_version,
    unread,
    unused,
    with_unknown_rows,
)

#: The version in what a file says of its producer, which differs between honest files.
_VERSION = re.compile(r"\d[\w.+]*")

#: The fields of each message that the structure reads, or that do not count, such as names of inner values.
_MODEL = frozenset({"ir_version", "opset_import", "producer_name", "producer_version", "domain", "doc_string"})
_READ: Mapping[str, frozenset[str]] = {
    "ModelProto": _MODEL | {"graph", "metadata_props", "functions"},
    "GraphProto": frozenset({"node", "initializer", "sparse_initializer", "input", "output", "value_info"}),
    "NodeProto": frozenset({"input", "output", "name", "op_type", "domain", "attribute"}),
    "TensorProto": frozenset({"dims", "data_type", "name", "data_location", "external_data"}),
    "SparseTensorProto": frozenset({"values", "indices", "dims"}),
    "ValueInfoProto": frozenset({"name", "type"}),
    "TypeProto": frozenset({"tensor_type"}),
    "Tensor": frozenset({"elem_type", "shape"}),
    "TensorShapeProto": frozenset({"dim"}),
    "Dimension": frozenset({"dim_value", "dim_param"}),
    "AttributeProto": frozenset({"name", "type"}),
    "StringStringEntryProto": frozenset({"key", "value"}),
    "OperatorSetIdProto": frozenset({"domain", "version"}),
}
#: The fields of a tensor and of an attribute of which one holds the value.
_PAYLOADS: Mapping[str, frozenset[str]] = {
    "TensorProto": frozenset(
        {"raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data"}
    ),
    "AttributeProto": frozenset(
        {"f", "i", "s", "t", "g", "sparse_tensor", "tp", "floats", "ints", "strings"}
        | {"tensors", "graphs", "sparse_tensors", "type_protos"}
    ),
}
#: Bytes of a constant that may be the shape of a Reshape, which decides about sizes; larger ones are weights.
_MOST_BYTES_OF_A_SHAPE = 1024
#: Bytes of further content that are compared as they are; more by their hash.
_LONG = 200

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


#: Operators whose output has the shape of their first input.
_CONVERSIONS = ("Cast", "QuantizeLinear", "DequantizeLinear")
#: Operators whose second input is the weight of a convolution.
_CONVOLUTIONS = ("Conv", "ConvTranspose", "ConvInteger")


class _Reader:
    """Reads one model."""

    def __init__(self, model: onnx.ModelProto, sidecars: list[bytes]) -> None:
        self.model, self.sidecars = model, sidecars
        #: Operators that were replaced by the constant that they compute.
        self.folded: list[Node] = []
        self.versions = {entry.domain: entry.version for entry in model.opset_import}
        #: The values with their name and their sizes, where these are stated.
        self.notes: list[tuple[Node, str, str]] = []
        #: Names with sizes that no value has: converters leave those of weights that they replace.
        self.stale: list[str] = []
        #: Offset and length of each weight outside the file.
        self.pieces: list[tuple[int, int]] = []

    def structure(self) -> Structure:
        graph, further = self.model.graph, _further(self.model)
        inputs = {value.name: Node("input", value.name, {"tensor": _typed(value)}) for value in graph.input}
        scope, nodes = self.values(graph, dict(inputs))
        outputs = {_typed(value): scope[value.name] for value in graph.output}
        metadata = {entry.key: entry.value for entry in self.model.metadata_props}
        sets = sorted(f"{domain or 'ai.onnx'} {version}" for domain, version in self.versions.items())
        facts = {
            "operator sets": ", ".join(sets),
            "doc_string": f"{self.model.doc_string}{graph.doc_string}",
            "domain": self.model.domain,
            "producer": f"{self.model.producer_name} {_VERSION.sub('', self.model.producer_version)}".strip(),
            "IR version": str(self.model.ir_version),
        }
        for function in self.model.functions:
            facts[f"function {function.domain} {function.name}"] = _shown(function)
        initialisers = {tensor.name for tensor in graph.initializer}
        initialisers |= {tensor.values.name for tensor in graph.sparse_initializer}
        listed = tuple(
            f"{_typed(value)}{', an initialiser that callers may replace' if value.name in initialisers else ''}"
            for value in graph.input
        )
        notes = self._notes_by_value()
        version = plain_version(self.model.producer_version)
        written_by = {"torch": version} if self.model.producer_name == "pytorch" else {}
        further += tuple(self.stale)
        further += tuple(line for data in self.sidecars for line in unread(data, self.pieces))
        left = unused(nodes, [*outputs.values(), *self.folded])
        return Structure(listed, outputs, metadata, left, notes, further, written_by, facts)

    def _notes_by_value(self) -> dict[bytes, tuple[str, str, str | None]]:
        """Return what is stated of each value (all of it where equal values have other sizes), and its real sizes."""
        computed = _computed_sizes(self.model) if self.notes else {}
        found: dict[bytes, tuple[str, str, str | None]] = {}
        for node, name, text in self.notes:
            _, before, _ = found.get(node.digest, ("", text, None))
            stated = " and ".join(sorted({*before.split(" and "), text}))
            found[node.digest] = str(node), stated, computed.get(name)
        return found

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
        self.notes += [
            (scope[value.name], value.name, _sizes(value)) for value in graph.value_info if value.name in scope
        ]
        unknown = [value for value in graph.value_info if value.name not in scope]
        self.stale += [f"sizes {_sizes(value)} of '{value.name}', which is no value here" for value in unknown]
        return scope, made

    def constant(self, tensor: onnx.TensorProto, name: str) -> Node:
        import onnx
        from onnx import numpy_helper

        dtype = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
        if tensor.data_location != tensor.EXTERNAL:
            found = array_constant(numpy_helper.to_array(tensor), name)
            return Node("constant", name, {**found.facts, "type": dtype}, value=found.value)
        place = {entry.key: entry.value for entry in tensor.external_data}
        start, length = int(place.get("offset", 0)), int(place.get("length", 0))
        self.pieces.append((start, length))
        data = memoryview(self.sidecars[0])[start : start + length] if self.sidecars else memoryview(b"")

        def value() -> Array:
            import numpy as np

            kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            return np.frombuffer(data, kind).reshape(tuple(tensor.dims))

        return constant(value, dtype, tensor.dims, data, name)

    def node(self, node: onnx.NodeProto, output: int, scope: Mapping[str, Node]) -> Node:
        if node.op_type == "Constant" and [attribute.name for attribute in node.attribute] == ["value"]:
            return self.constant(node.attribute[0].t, node.output[0])
        inputs = [scope[name] if name in scope else Node("nothing", name, {"of": name}) for name in node.input]
        while inputs and inputs[-1].kind == "nothing" and not inputs[-1].name:
            inputs.pop()  # optional inputs at the end may be left out
        facts = dict(_defaults(node.op_type, node.domain, self.versions.get(node.domain, 0)))
        if (outputs := max(place for place, name in enumerate(node.output) if name)) > 0:
            facts["outputs"] = str(outputs + 1)  # the number of pieces of a Split follows from it
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                for place, graph in enumerate([attribute.g] if attribute.HasField("g") else attribute.graphs):
                    inputs += self.subgraph(graph, f"{attribute.name} {place}", scope)
            elif attribute.HasField("t"):
                inputs.append(self.constant(attribute.t, f"{node.name}.{attribute.name}"))
                facts[attribute.name] = "a tensor"
            else:
                facts[attribute.name] = _attribute(attribute)
        if node.op_type == "DequantizeLinear" and inputs and inputs[0].kind == "QuantizeLinear":
            # Calibrations may differ a little, but the two operators of one value have one scale and zero point.
            same = [one.digest for one in inputs[1:]] == [one.digest for one in inputs[0].inputs[1:]]
            facts["undoes"] = "what it reads" if same else "another step"
        kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        if kind in _CONVOLUTIONS and facts.get("kernel_shape") == _kernel_shape(inputs):
            facts.pop("kernel_shape", None)  # which ONNX reads from the weight where it is not stated
        if kind == "Reshape" and (shape := with_unknown_rows(inputs[1], _is_row_count)) is not None:
            self.folded.append(inputs[1])
            inputs[1] = _joined(inputs[1], shape)
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


def _further(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return what a model holds that has no place in the structure, a line for each, sorted."""
    size = model.ByteSize()
    # Fields that onnx does not know may be known to other readers.
    model.DiscardUnknownFields()
    found = [f"{size - model.ByteSize()} bytes in unknown fields"] if model.ByteSize() != size else []
    found += _twice("metadata", (entry.key for entry in model.metadata_props))
    found += _twice("operator set", (entry.domain.removeprefix("ai.onnx") for entry in model.opset_import))
    left: list[Any] = [model]
    while left:
        message = left.pop()
        kind = message.DESCRIPTOR.name
        read = _READ.get(kind, frozenset())
        fields = {descriptor.name: value for descriptor, value in message.ListFields()}
        payloads = sorted(_PAYLOADS.get(kind, frozenset()) & fields.keys())
        # A weight in another file is not in this one too, and nothing has two values.
        most = 0 if fields.get("data_location") == 1 else 1
        name = str(fields.get("name") or fields.get("op_type") or kind)
        for field, value in fields.items():
            if value != "" and field not in read and (field not in payloads or len(payloads) > most):
                found.append(f"{field} of {kind} '{name}': {_shown(value)}")
        if fields.get("external_data") and most == 1:
            found.append(f"external data of '{name}', which is not used")
        found += _twice(f"external data of '{name}'", (entry.key for entry in fields.get("external_data", ())))
        found += _twice(f"attribute of '{name}'", (entry.name for entry in fields.get("attribute", ())))
        if kind == "GraphProto":
            computed = [value for node in message.node for value in node.output if value]
            weights = [tensor.name for tensor in message.initializer]
            weights += [tensor.values.name for tensor in message.sparse_initializer]
            found += _twice("value", [*computed, *weights])
            found += _twice("value", [*computed, *(value.name for value in message.input)])
            found += _twice("output", (value.name for value in message.output))
            found += _twice("sizes of", (value.name for value in message.value_info))
        entered = [value for field, value in fields.items() if field in read or field in payloads]
        left += [item for value in entered for item in _messages(value)]
    return tuple(sorted(set(found)))


def _shown(value: Any) -> str:
    """Return the value of a field as text; a long one by its size and hash, because a text of it takes much memory."""
    import numpy as np

    if messages := list(_messages(value)):
        data = b"".join(message.SerializeToString(deterministic=True) for message in messages)
    elif isinstance(value, bytes | str):
        data = value if isinstance(value, bytes) else value.encode("utf-8", "backslashreplace")
    else:
        data = np.asarray(value).tobytes()
    if len(data) <= _LONG:
        return " ".join(str(value).split())
    return f"{len(data):,} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}"


def _messages(value: Any) -> Iterable[Any]:
    """Return the messages in a field of a message."""
    if hasattr(value, "ListFields"):
        return [value]
    if isinstance(value, bytes | str | int | float) or not len(value) or not hasattr(value[0], "ListFields"):
        return ()
    messages: Iterable[Any] = value
    return messages


def _twice(what: str, names: Iterable[str]) -> list[str]:
    """Return a line for each name that occurs more than once: readers differ in which of them counts."""
    return [f"{what} '{name}' {times} times" for name, times in Counter(names).items() if times > 1]


def _kernel_shape(inputs: Sequence[Node]) -> str | None:
    """Return the attribute `kernel_shape` that follows from the weight of a convolution, or None if it is computed."""
    weight = inputs[1] if len(inputs) > 1 else Node("missing")
    if weight.kind == "DequantizeLinear":  # a weight of 8 bits
        weight = weight.inputs[0]
    return None if weight.value is None else f"ints [{', '.join(map(str, weight.value().shape[2:]))}]"


def _joined(node: Node, arrays: Sequence[Array], axis: int = 0) -> Node:
    """Return the constant that a Concat of constants computes: versions of the exporter write the one or the other."""
    import numpy as np

    found = array_constant(np.concatenate(arrays, axis), node.name)
    kind = next(item.facts["type"] for item in node.inputs if item.value is not None)
    return replace(found, facts={**found.facts, "type": kind})


def _is_row_count(node: Node) -> bool:
    """Whether a value is the first size of an input of the graph, which lower precisions convert first."""
    if node.kind != "Shape" or (node.facts.get("start"), node.facts.get("end")) != ("int 0", "int 1"):
        return False
    counted = node.inputs[0]
    while counted.kind in _CONVERSIONS:
        counted = counted.inputs[0]
    return "tensor" in counted.facts


def _typed(value: onnx.ValueInfoProto) -> str:
    """Return name, type and sizes of a tensor, such as "image: float (N, 1, 28, 28)"."""
    import onnx

    tensor = value.type.tensor_type
    sizes = [
        dim.dim_param.replace(" ", "") or (str(dim.dim_value) if dim.HasField("dim_value") else "?")
        for dim in tensor.shape.dim
    ]
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    return f"{value.name}: {kind} ({', '.join(sizes)})"


def _sizes(value: onnx.ValueInfoProto) -> str:
    """Return type and fixed sizes of an inner value; names of open sizes differ between versions."""
    tensor = value.type.tensor_type
    sizes = [str(dim.dim_value) if dim.HasField("dim_value") else "?" for dim in tensor.shape.dim]
    return f"{tensor.elem_type} ({', '.join(sizes)})"


def _computed_sizes(model: onnx.ModelProto) -> dict[str, str]:
    """Return type and fixed sizes of the values that onnx finds from the operators alone, by name.

    Nothing that the file states of inner values counts, and large weights are left out.
    """
    import onnx

    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    bare.graph.name = "graph"
    for part in ("node", "input", "output"):
        getattr(bare.graph, part).extend(getattr(model.graph, part))
    for tensor in model.graph.initializer:
        is_small = tensor.ByteSize() <= _MOST_BYTES_OF_A_SHAPE
        sized = onnx.TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
        bare.graph.initializer.append(tensor if is_small else sized)
    try:
        graph = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    except Exception:  # a graph that onnx cannot follow: nothing is known of its values
        graph = bare.graph
    sizes = {
        tensor.name: f"{tensor.data_type} ({', '.join(map(str, tensor.dims))})" for tensor in bare.graph.initializer
    }
    return sizes | {value.name: _sizes(value) for value in (*graph.value_info, *graph.input, *graph.output)}


def _attribute(attribute: onnx.AttributeProto) -> str:
    """Return the value of an attribute as text; numbers with all their digits."""
    import onnx

    value = onnx.helper.get_attribute_value(attribute)
    return f"{onnx.AttributeProto.AttributeType.Name(attribute.type).lower()} {_plain(value)}"


def _plain(value: object) -> str:
    if isinstance(value, bytes):
        return repr(value)
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
