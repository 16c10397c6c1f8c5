"""A file in ONNX Runtime's own format as a `Structure`. Its tables lie in the order of a hash table, which differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.AttributeType import AttributeType
from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import InferenceSession
from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.TensorDataType import TensorDataType
from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.TensorTypeAndShape import TensorTypeAndShape

from vae_export.contract import Array
from vae_export.formats.ort_tables import further_tables
from vae_export.formats.structure import Node, Structure, constant, plain_version, unused

#: Names of the types of tensors and of attributes by number.
_TYPES = {number: name.lower() for name, number in vars(TensorDataType).items() if isinstance(number, int)}
_ATTRIBUTES = {number: name for name, number in vars(AttributeType).items() if isinstance(number, int)}


def ort_structure(data: bytes) -> Structure:
    """Return the structure of a file; the FlatBuffers reader's errors are raised for a damaged one."""
    session = InferenceSession.GetRootAs(data)
    model = session.Model()
    graph = model.Graph()
    types = {arg.Name().decode(): _typed(arg.Type()) for arg in _each(graph, "NodeArgs")}
    constants = {tensor.Name().decode() for tensor in _each(graph, "Initializers")}
    inputs = [name.decode() for name in _each(graph, "Inputs")]
    given = {name: Node("input", name, {"tensor": f"{name}: {types.get(name)}"}) for name in inputs}
    scope, made = _values(graph, given)
    outputs = {f"{name}: {types.get(name)}": scope[name] for name in (one.decode() for one in _each(graph, "Outputs"))}
    listed = tuple(
        f"{name}: {types.get(name)}{', an initialiser that callers may replace' if name in constants else ''}"
        for name in inputs
    )
    metadata = {item.Key().decode(): item.Value().decode() for item in _each(model, "MetadataProps")}
    sets = sorted(f"{_text(item.Domain()) or 'ai.onnx'} {item.Version()}" for item in _each(model, "OpsetImport"))
    facts = {"operator sets": ", ".join(sets), "IR version": str(model.IrVersion())}
    texts = ("Domain", "ProducerName", "DocString", "GraphDocString")
    facts |= {name: _text(getattr(model, name)()) for name in texts}
    facts["model version"] = str(model.ModelVersion())
    keys = Counter(_text(item.Key()) for item in _each(model, "MetadataProps"))
    further = [f"metadata '{key}' {times} times" for key, times in keys.items() if times > 1]
    further += [*_notes(graph), *_wrong_edges(graph), *_kernels(session.KernelTypeStrResolver()), *further_tables(data)]
    # Names of open sizes differ between versions.
    sizes = {arg.Name().decode(): _typed(arg.Type(), open_size="?") for arg in _each(graph, "NodeArgs")}
    further += [f"sizes {text} of '{name}', which is no value" for name, text in sizes.items() if name not in scope]
    stated: dict[bytes, set[str]] = {}
    for name in sizes.keys() & scope.keys():
        stated.setdefault(scope[name].digest, set()).add(sizes[name])
    named = {node.digest: str(node) for node in scope.values()}
    notes = {digest: (named[digest], " and ".join(sorted(found)), None) for digest, found in stated.items()}
    producer = _text(model.ProducerVersion()) if facts["ProducerName"] == "pytorch" else ""
    written_by = {"torch": plain_version(producer)} if producer else {}
    facts["optimisations when it is loaded"] = "none" if graph.RuntimeOptimizations() is None else "some"
    left = unused(made, outputs.values())
    return Structure(listed, outputs, metadata, left, notes, tuple(further), written_by, facts)


def _values(graph: Any, scope: Mapping[str, Node]) -> tuple[dict[str, Node], list[Node]]:
    """Return the values of a graph by name, with those of the graphs around it, and the nodes of this graph."""
    constants = {tensor.Name().decode(): _constant(tensor) for tensor in _each(graph, "Initializers")}
    values, made = {**scope, **constants}, list(constants.values())
    if graph.SparseInitializersLength():
        raise ValueError("sparse initialisers")
    left = {node.Index(): node for node in _each(graph, "Nodes")}
    while left:
        ready = [index for index, node in left.items() if all(_text(name) in values for name in _read(node))]
        if not ready:
            raise ValueError("a node reads a value that nothing computes")
        for index in ready:
            node = left.pop(index)
            for output, name in enumerate(_each(node, "Outputs")):
                if name:
                    values[name.decode()] = _node(node, output, values)
                    made.append(values[name.decode()])
    return values, made


def _read(node: Any) -> list[bytes]:
    return [name for kind in ("Inputs", "ImplicitInputs") for name in _each(node, kind) if name]


def _node(node: Any, output: int, values: Mapping[str, Node]) -> Node:
    inputs = [values[_text(name)] if name else Node("nothing") for name in _each(node, "Inputs")]
    facts = {"since version": str(node.SinceVersion()), "fused": str(node.Type())}
    if (outputs := node.OutputsLength()) > 1:
        facts["outputs"] = str(outputs)  # the number of pieces of a Split follows from it
    for item in _each(node, "Attributes"):
        name, kind = item.Name().decode(), _ATTRIBUTES[item.Type()]
        if kind == "TENSOR":
            inputs.append(_constant(item.T()))
        elif kind in ("GRAPH", "GRAPHS"):
            for graph in [item.G()] if kind == "GRAPH" else _each(item, "Graphs"):
                entered = enumerate(map(_text, _each(graph, "Inputs")))
                given = {one: Node("input", one, {"of": f"{name}, {place}"}) for place, one in entered}
                scope, _ = _values(graph, {**values, **given})
                inputs += [Node("result", name, {"of": name}, (scope[_text(one)],)) for one in _each(graph, "Outputs")]
        elif kind in ("FLOAT", "INT", "STRING"):
            facts[name] = repr({"FLOAT": item.F, "INT": item.I, "STRING": item.S}[kind]())
        else:
            facts[name] = repr(list(_each(item, {"FLOATS": "Floats", "INTS": "Ints", "STRINGS": "Strings"}[kind])))
    kind = ".".join(filter(None, (_text(node.Domain()), _text(node.OpType()))))
    return Node(kind, _text(node.Name()) or _text(node.Outputs(0)), facts, tuple(inputs), output)


def _constant(tensor: Any) -> Node:
    import onnx

    shape = tuple(int(size) for size in _each(tensor, "Dims"))
    data = b"" if tensor.RawDataIsNone() or not tensor.RawDataLength() else tensor.RawDataAsNumpy().tobytes()
    kind = _TYPES[tensor.DataType()]
    if tensor.ExternalDataOffset() != -1 or tensor.StringDataLength():
        raise ValueError("weights outside the file, or texts")

    def value() -> Array:
        import numpy as np

        dtype = onnx.helper.tensor_dtype_to_np_dtype(getattr(onnx.TensorProto, kind.upper()))
        return np.frombuffer(data, dtype).reshape(shape)

    return constant(value, kind, shape, data, _text(tensor.Name()))


def _notes(graph: Any) -> Iterator[str]:
    """Yield the texts beside the operators that a reader may show."""
    for kind in ("NodeArgs", "Nodes", "Initializers"):
        yield from (f"note {text}" for item in _each(graph, kind) if (text := _text(item.DocString())))
    attributes = (item for node in _each(graph, "Nodes") for item in _each(node, "Attributes"))
    yield from (f"note {text}" for item in attributes if (text := _text(item.DocString())))
    types = [item.Type() for item in _each(graph, "NodeArgs")]
    yield from (f"meaning {text}" for item in types if item is not None and (text := _text(item.Denotation())))
    yield from (f"engine {text}" for node in _each(graph, "Nodes") if (text := _text(node.ExecutionProviderType())))


def _wrong_edges(graph: Any) -> Iterator[str]:
    """Yield the edges that are not those of the names: ONNX Runtime orders operators by its edges."""
    nodes = {node.Index(): node for node in _each(graph, "Nodes")}
    outputs = {index: list(_each(node, "Outputs")) for index, node in nodes.items()}
    inputs = {index: list(_each(node, "Inputs")) for index, node in nodes.items()}
    by_name = {name: index for index, names in outputs.items() for name in names if name}
    expected = {
        (by_name[name], outputs[by_name[name]].index(name), index, place)
        for index, names in inputs.items()
        for place, name in enumerate(names)
        if name in by_name
    }
    stated = set[tuple[int, int, int, int]]()
    for node in _each(graph, "NodeEdges"):
        index = node.NodeIndex()
        into = {(edge.NodeIndex(), edge.SrcArgIndex(), index, edge.DstArgIndex()) for edge in _each(node, "InputEdges")}
        out = {(index, edge.SrcArgIndex(), edge.NodeIndex(), edge.DstArgIndex()) for edge in _each(node, "OutputEdges")}
        stated |= into | out
    for edge in sorted(stated ^ expected):
        yield f"edge {edge[0]}:{edge[1]} to {edge[2]}:{edge[3]}"


def _kernels(resolver: Any) -> Iterator[str]:
    """Yield the types of operators by which ONNX Runtime chooses its kernels."""
    for operator in () if resolver is None else _each(resolver, "OpKernelTypeStrArgs"):
        for kind in _each(operator, "KernelTypeStrArgs"):
            places = sorted((arg.ArgType(), arg.Index()) for arg in _each(kind, "Args"))
            yield f"kernels of {_text(operator.OpId())}: {_text(kind.KernelTypeStr())} at {places}"


def _typed(info: Any, open_size: str = "") -> str:
    """Return type and sizes of a tensor, with this text or else its name for each open size."""
    if info is None or info.Value() is None:
        return "unknown"
    found, table = TensorTypeAndShape(), info.Value()
    found.Init(table.Bytes, table.Pos)
    shape = found.Shape()
    values = [] if shape is None else [dim.Value() for dim in _each(shape, "Dim")]
    sizes = (
        ("?" if one is None else (open_size if one.DimParam() else "") or _text(one.DimParam()) or str(one.DimValue()))
        for one in values
    )
    return f"{_TYPES[found.ElemType()]} ({', '.join(sizes)})"


def _each(table: Any, name: str) -> Iterator[Any]:
    """Yield the items of a vector of a FlatBuffers table."""
    for place in range(getattr(table, f"{name}Length")()):
        yield getattr(table, name)(place)


def _text(text: bytes | None) -> str:
    return (text or b"").decode()
