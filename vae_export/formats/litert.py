"""LiteRT's models for phones and embedded devices, formerly TensorFlow Lite: https://ai.google.dev/edge/litert

litert-torch translates a captured part, and XNNPACK computes it on the CPU. A model computes one row, because
litert-torch 0.10 cannot translate a batch axis of any size, and whoever runs it calls it for each row.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vae_export.artifact.manifest import FileContent
from vae_export.contract import Array, PartSpec
from vae_export.errors import ModelError
from vae_export.formats.base import (
    Finding,
    Format,
    Runner,
    StatedFile,
    WriteOptions,
    check_fixed_sizes,
    machine_traces,
    row_runner,
)
from vae_export.formats.structure import Node, Structure, constant, unused
from vae_export.session_options import SessionOptions
from vae_export.system.extras import missing, require
from vae_export.system.streams import silenced, silenced_descriptors
from vae_export.tensors import signature_text

if TYPE_CHECKING:
    from torch import Tensor, fx, nn

    from vae_export.capture import Graph

#: Bytes 4 to 7 of a model: its FlatBuffer identifier.
_IDENTIFIER = b"TFL3"
#: A sigmoid of this number is 1 in float32, and of its negative 0.
_SIGMOID_LIMIT = 104.0


class LiteRt(Format):
    """Models for one row, run by LiteRT's interpreter with XNNPACK, its default on phones."""

    name = "litert"
    suffix = ".tflite"
    extra = "litert"
    packages = ("ai-edge-litert", "litert-converter", "litert-torch", "torch")
    engine = "ai_edge_litert"
    summary = "LiteRT's (TensorFlow Lite's) model for phones and embedded devices, one row at a time"
    danger = "is checked by nobody before LiteRT maps it"
    may_crash = True
    left_out_of_all = "it cannot compute every network"

    def unavailable(self) -> str | None:
        """Return the reason why models cannot be written, or None."""
        error = missing("export", "torch") or missing(self.extra, "litert_torch", "ai_edge_litert")
        return None if error is None else error.line()

    def write(self, graph: Graph, options: WriteOptions) -> FileContent:  # noqa: ARG002 -- litert-torch writes no metadata
        """Return the model, which stores no metadata; raise `ModelError` if litert-torch cannot translate the graph."""
        check_fixed_sizes(graph.spec, "LiteRT")
        module = graph.single_row()
        _bound_sigmoids(module)
        example = {tensor.name: value[:1] for tensor, value in zip(graph.spec.inputs, graph.example, strict=True)}
        with silenced(), silenced_descriptors():
            import litert_torch

            try:
                model = litert_torch.convert(_named(module, graph.spec), sample_kwargs=example, enable_x64=True)
                return FileContent(bytes(model.model_content()))
            except Exception as error:  # its passes may raise anything
                got = f"{type(error).__name__}: {error}"[:400]
                raise ModelError("graph cannot be translated", where=graph.spec.part, got=got) from error

    def lint(self, content: FileContent, stated: StatedFile) -> Iterator[Finding]:
        """Find traces of this machine; raise `ValueError` for another format. Capture refuses stochastic ops."""
        if content.data[4:8] != _IDENTIFIER:
            raise ValueError("not a LiteRT model")
        yield from machine_traces(content.data, stated.name)

    def structure(self, content: FileContent) -> Structure | None:
        """Return operators, constants, inputs, outputs and metadata; None for several graphs or weights beside them."""
        from ai_edge_litert import schema_py_generated as schema

        if content.data[4:8] != _IDENTIFIER:
            raise ValueError("not a LiteRT model")
        model = schema.ModelT.InitFromPackedBuf(content.data, 0)
        if len(model.subgraphs) != 1 or any(buffer.offset for buffer in model.buffers):
            return None
        (graph,), (signature,) = model.subgraphs, model.signatureDefs
        stored = [b"" if buffer.data is None else bytes(buffer.data) for buffer in model.buffers]
        nodes: dict[int, Node] = {-1: Node("nothing")}  # an optional input that is left out
        for place, index in enumerate(graph.inputs):
            nodes[int(index)] = Node("input", facts={"place": str(place)})
        for index, tensor in enumerate(graph.tensors):
            if index not in nodes and stored[tensor.buffer]:
                nodes[index] = _constant(tensor, stored[tensor.buffer])
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            facts = {key: _text(value) for key, value in vars(operator).items() if key not in _OF_THE_GRAPH}
            facts["operator"] = _text({**vars(code), "version": 0})
            inputs = tuple(nodes[int(index)] for index in operator.inputs)
            for output, index in enumerate(map(int, operator.outputs)):
                typed = facts | {"type": _kind(graph.tensors[index])}
                name = graph.tensors[index].name.decode("utf-8", "replace")
                nodes[index] = Node(f"operator {code.builtinCode}", name, typed, inputs, output)
        named = [
            {f"{item.name.decode()}: {_kind(graph.tensors[item.tensorIndex])}": item.tensorIndex for item in side}
            for side in (signature.inputs, signature.outputs)
        ]
        inputs_text = [f"{text} at {list(graph.inputs).index(index)}" for text, index in named[0].items()]
        metadata = {item.name.decode(): stored[item.buffer].decode("latin-1") for item in model.metadata or ()}
        outputs = {text: nodes[index] for text, index in named[1].items()}
        made = [node for node in nodes.values() if node.kind not in ("input", "nothing")]
        further = (*_further(model), f"{_bytes_beside_values(model, content.data):,} bytes beside its values")
        return Structure(tuple(inputs_text), outputs, metadata, unused(made, outputs.values()), further=further)

    def providers(self) -> tuple[str, ...]:
        """Return the CPU if LiteRT is installed, else nothing. GPUs and NPUs are not tested."""
        return ("cpu",) if missing(self.extra, "ai_edge_litert") is None else ()

    def open(self, content: FileContent, spec: PartSpec, options: SessionOptions) -> Runner:
        """Load a model; raise `TargetError` for any provider but "cpu", and `ModelError` if it cannot be loaded."""
        require(self.extra, "ai_edge_litert")
        self.check_provider(options.provider)
        with silenced(), silenced_descriptors():
            from ai_edge_litert.interpreter import Interpreter

            try:
                interpreter = Interpreter(model_content=content.data, num_threads=options.threads)
                interpreter.allocate_tensors()
                signature = interpreter.get_signature_runner()
            except (RuntimeError, ValueError) as error:
                raise ModelError("LiteRT cannot load the model", where=spec.part, got=error) from error
        details = signature.get_input_details(), signature.get_output_details()
        _check_signature(spec, *details)
        inputs = {name: item["index"] for name, item in details[0].items()}
        outputs = [details[1][tensor.name]["index"] for tensor in spec.outputs]
        return row_runner(spec, _with_batch, functools.partial(_compute, interpreter, inputs, outputs))


#: Fields of an operator that say where it stands in its graph, and not what it computes.
_OF_THE_GRAPH = ("opcodeIndex", "inputs", "outputs", "debugMetadataIndex")


def _text(value: Any) -> str:
    """Return a value of the schema as text: a number, bytes, an array, or an object with fields."""
    if hasattr(value, "__dict__"):
        value = vars(value)
    if isinstance(value, dict):
        return str({key: _text(item) for key, item in sorted(value.items())})
    return str(value.tolist() if hasattr(value, "tolist") else value)


def _kind(tensor: Any) -> str:
    """Return the number of a tensor's type, its sizes, and how it is quantised, if it is."""
    shape = [] if tensor.shape is None else [int(size) for size in tensor.shape]
    is_plain = tensor.quantization is None or tensor.quantization.scale is None
    return f"type {tensor.type} {shape}{'' if is_plain else _text(tensor.quantization)}"


def _further(model: Any) -> tuple[str, ...]:
    """Return what a model of one graph says beside its operators: texts, versions, names, fields of other readers."""
    (graph,), (signature,) = model.subgraphs, model.signatureDefs
    outer = [(model, _OF_THE_MODEL), (graph, ("tensors", "operators", "inputs", "outputs"))]
    outer += [(signature, ("inputs", "outputs"))]
    lines = [f"{key} {_text(value)}" for item, left_out in outer for key, value in _others(item, left_out)]
    lines += [f"operator {_text(code)}" for code in model.operatorCodes]
    lines += [f"operator of note {operator.debugMetadataIndex}" for operator in graph.operators]
    for tensor in graph.tensors:
        said = _others(tensor, ("shape", "type", "buffer", "name"))
        lines.append(f"tensor of type {tensor.type}: {', '.join(f'{key} {_text(value)}' for key, value in said)}")
    for side in ("inputs", "outputs"):
        named = getattr(signature, side)
        lines.append(f"{len(named)} named {side}")
        for index in getattr(graph, side):
            called = [item.name for item in named if item.tensorIndex == index]
            lines.append(f"{graph.tensors[index].name} of {side}, called {called}")
    lines += [f"metadata {item.name}" for item in model.metadata or ()]
    used = {int(tensor.buffer) for tensor in graph.tensors} | {item.buffer for item in model.metadata or ()}
    for place, buffer in enumerate(model.buffers):
        size = 0 if buffer.data is None else len(buffer.data)
        is_read = place in used or not size
        lines.append(f"buffer at {buffer.offset} of {buffer.size}{'' if is_read else f': {size:,} bytes nobody reads'}")
    return tuple(f"{line}, {times} times" for line, times in Counter(lines).items())


#: Fields of a model that its structure has.
_OF_THE_MODEL = ("subgraphs", "buffers", "operatorCodes", "metadata", "signatureDefs")


def _others(item: Any, left_out: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield the fields of an object of the schema but some, in the order of their names."""
    return ((key, value) for key, value in sorted(vars(item).items()) if key not in left_out)


def _bytes_beside_values(model: Any, data: bytes) -> int:
    """Return how many bytes a file has more than its values take when they are written in another order."""
    import flatbuffers

    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return len(data) - len(builder.Output())


def _constant(tensor: Any, data: bytes) -> Node:
    """Return a constant. The bytes of other types than float32 are compared one by one."""
    import numpy as np

    array = np.frombuffer(data, np.float32 if tensor.type == 0 else np.uint8)
    return constant(lambda: array, _kind(tensor), array.shape, data, tensor.name.decode("utf-8", "replace"))


def _bound_sigmoids(module: fx.GraphModule) -> None:
    """Limit the inputs of sigmoids, in place, where that changes no result: XNNPACK's gives NaN for numbers of 1e30."""
    import torch

    aten = torch.ops.aten
    for node in module.graph.find_nodes(op="call_function", target=aten.silu.default):
        with module.graph.inserting_before(node):
            gate = module.graph.call_function(aten.sigmoid.default, (node.args[0],))
            product = module.graph.call_function(aten.mul.Tensor, (node.args[0], gate))
        node.replace_all_uses_with(product)
        module.graph.erase_node(node)
    for node in module.graph.find_nodes(op="call_function", target=aten.sigmoid.default):
        with module.graph.inserting_before(node):
            bounds = (node.args[0], -_SIGMOID_LIMIT, _SIGMOID_LIMIT)
            node.args = (module.graph.call_function(aten.clamp.default, bounds),)
    module.recompile()


def _named(module: nn.Module, spec: PartSpec) -> nn.Module:
    """Return the module with the names of the contract: litert-torch takes them from keywords and from a dictionary."""
    import torch

    class Part(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.training, self.part = False, module

        def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
            outputs = self.part(*(inputs[tensor.name] for tensor in spec.inputs))
            outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
            return {tensor.name: output for tensor, output in zip(spec.outputs, outputs, strict=True)}

    return Part()


def _check_signature(spec: PartSpec, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
    """Raise `ModelError` unless names, types and shapes are those of the contract, for one row."""
    for kind, tensors, details in (("inputs", spec.inputs, inputs), ("outputs", spec.outputs, outputs)):
        wanted = {tensor.name: (tensor.dtype, (1, *tensor.fixed_item)) for tensor in tensors}
        found = {name: (item["dtype"].__name__, tuple(map(int, item["shape"]))) for name, item in details.items()}
        if wanted != found:
            texts = (signature_text((name, *item) for name, item in items.items()) for items in (wanted, found))
            raise ModelError(
                f"{kind} do not match the contract", where=spec.part, expected=next(texts), got=next(texts)
            )


def _with_batch(row: Mapping[str, Array]) -> dict[str, Array]:
    """Return the inputs of one row with a batch axis of 1."""
    return {name: array[None] for name, array in row.items()}


def _compute(
    interpreter: Any, inputs: Mapping[str, int], outputs: Sequence[int], row: Mapping[str, Array]
) -> list[Array]:
    """Return the outputs of one row."""
    for name, array in row.items():
        interpreter.set_tensor(inputs[name], array)
    interpreter.invoke()
    return [interpreter.get_tensor(index) for index in outputs]
