"""OpenVINO's IR: a graph (`.xml`) and its weights (`.bin`), for Intel CPUs, GPUs and NPUs.

OpenVINO's precision depends on the processor: by default, its CPU plug-in computes in bfloat16 on processors with AMX.
Here a file states its precision, `open` passes it to the plug-in, and each compiled layer is checked:
https://docs.openvino.ai/2026/openvino-workflow/running-inference/optimize-inference/precision-control.html
"""

from __future__ import annotations

import contextlib
import functools
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_export.artifact.manifest import FileContent
from vae_export.contract import Array, Part, PartSpec
from vae_export.errors import ModelError, TargetError
from vae_export.formats.base import BoundCall, Finding, Format, Runner, StatedFile, WriteOptions, machine_traces
from vae_export.formats.onnx import Onnx
from vae_export.formats.structure import Node, Structure, array_constant, plain_version, unread, with_unknown_rows
from vae_export.precision import FULL, PrecisionName
from vae_export.session_options import SessionOptions
from vae_export.system.extras import missing, require
from vae_export.tensors import TensorSpec, signature_text

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    import openvino

    from vae_export.capture import Graph

_WEIGHTS = ".bin"
#: OpenVINO operators that draw random numbers.
_STOCHASTIC = ("RandomUniform", "Multinomial")
#: Operators that keep values from one call to the next.
_STATEFUL = ("ReadValue", "Assign")
#: The entry of a model's runtime info that states its precision.
_PRECISION_ENTRY = ["vae_export", "precision"]
#: The entry that states the version of OpenVINO.
_WRITER_ENTRY = "OpenVINO Runtime"
#: OpenVINO's names of the precisions.
_ELEMENT_TYPES: dict[PrecisionName, str] = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
#: Operators with graphs inside.
_WITH_GRAPHS = ("If", "Loop", "TensorIterator")
#: Compiled layers with weights, whose precision is the model's.
_WEIGHTED_LAYERS = ("FullyConnected", "MatMul", "Convolution", "Deconvolution")


class OpenVino(Format):
    """IR version 11, translated from our ONNX file by OpenVINO's own reader.

    In fp16 and bf16 the weights are rounded in the file. A file is refused where the processor cannot compute in its
    precision, for example with AVX2 alone. Without AMX, both may be slower than float32.
    """

    name = "openvino"
    suffix = ".openvino.xml"
    sidecars = (_WEIGHTS,)
    extra = "openvino"
    packages = ("openvino", "onnx", "onnxscript")
    engine = "openvino"
    known_providers = ("CPU", "GPU", "NPU")
    summary = "OpenVINO's IR for Intel hardware: two files, the graph and `.openvino.bin` with its weights"
    danger = "is checked by nobody before OpenVINO parses it"
    may_crash = True
    precisions: tuple[PrecisionName, ...] = tuple(_ELEMENT_TYPES)

    def unavailable(self) -> str | None:
        """Return the reason why IR cannot be written, or None."""
        error = missing(self.extra, "openvino") or missing("export", "torch", "onnx", "onnxscript")
        return None if error is None else error.line()

    def check(self, options: WriteOptions) -> None:
        """Raise `UsageError` for an operator set that the intermediate ONNX file cannot have."""
        Onnx().check(options)

    def write(self, graph: Graph, options: WriteOptions) -> FileContent:
        """Return the graph, with its weights as the sidecar `.bin`, rounded to the precision."""
        import openvino

        model = _read_onnx(Onnx().write(graph, replace(options, precision=FULL)), graph.spec.part)
        if options.precision != FULL:
            _round_weights(model, options.precision)
            model.set_rt_info(options.precision, _PRECISION_ENTRY)
        # The reader numbers its new nodes with a counter of the process. They are renamed by position, so that equal
        # graphs give equal bytes.
        for place, node in enumerate(model.get_ordered_ops()):
            if node.get_friendly_name() == node.get_name():
                node.set_friendly_name(f"{node.get_type_name()}/{place}")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.xml"
            openvino.save_model(model, path, compress_to_fp16=False)
            return FileContent(path.read_bytes(), {_WEIGHTS: path.with_suffix(_WEIGHTS).read_bytes()})

    def lint(self, content: FileContent, stated: StatedFile) -> Iterator[Finding]:
        """Find stochastic operators and state, traces of this machine, and a precision unlike the manifest's."""
        yield from machine_traces(content.data, stated.name)
        model = _read(content, stated.name)
        if (found := _stated_precision(model)) != stated.precision:
            yield Finding(
                "wrong-precision", "error", stated.name, f"{found}, where the manifest says {stated.precision}"
            )
        for node in model.get_ops():
            if (operator := node.get_type_name()) in _STOCHASTIC:
                yield Finding("random-operator", "error", f"{stated.name}, node '{node.get_friendly_name()}'", operator)
            if operator in _STATEFUL:
                yield Finding("hidden-state", "error", f"{stated.name}, node '{node.get_friendly_name()}'", operator)

    def structure(self, content: FileContent) -> Structure | None:
        """Return operators, constants, inputs, outputs and notes of the graph; None where a node holds a graph."""
        model = _read(content, self.name)
        nodes: dict[str, Node] = {}
        for node in model.get_ordered_ops():
            kind, name = node.get_type_name(), node.get_friendly_name()
            if kind in _WITH_GRAPHS:
                return None
            if kind == "Constant":
                nodes[node.get_name()] = _constant(node)
                continue
            facts = {key: repr(value) for key, value in node.get_attributes().items()}
            sources = [port.get_source_output() for port in node.inputs()]
            inputs = [nodes[source.get_node().get_name()] for source in sources]
            places = [source.get_index() for source in sources]
            facts |= {f"output of input {place}": str(index) for place, index in enumerate(places) if index}
            if kind == "Reshape" and (shape := with_unknown_rows(inputs[1], _is_row_count)) is not None:
                inputs[1] = _of_integers(shape, inputs[1].name)
            if kind == "Reshape" and inputs[1].value is not None and inputs[1].value().all():
                del facts["special_zero"]  # what a size of 0 means, where none is
            if kind == "Parameter":
                facts["place"] = str(model.get_parameters().index(node))
            nodes[node.get_name()] = Node(kind, name, facts, tuple(inputs))
        inputs_text, outputs_text = ([_port(port) for port in ports] for ports in (model.inputs, model.outputs))
        results = (nodes[port.get_node().get_name()] for port in model.outputs)
        metadata = dict[str, str]()
        if model.has_rt_info("framework"):
            metadata = {key: str(value) for key, value in model.get_rt_info("framework").value.items()}
        outputs = dict(zip(outputs_text, results, strict=True))
        writer = str(model.get_rt_info(_WRITER_ENTRY).value) if model.has_rt_info(_WRITER_ENTRY) else ""
        written_by = {"openvino": plain_version(writer)} if writer else {}
        return Structure(
            tuple(inputs_text),
            outputs,
            metadata,
            further=_further(content, model),
            written_by=written_by,
            facts={"precision": _stated_precision(model)},
        )

    def providers(self) -> tuple[str, ...]:
        """Return the devices that OpenVINO finds, the CPU first."""
        if missing(self.extra, "openvino") is not None:
            return ()
        devices = core().available_devices
        return tuple(sorted(devices, key=lambda device: (device != "CPU", device)))

    def session_options(self, provider: str) -> tuple[SessionOptions, ...]:
        """Return options for one and two threads for the CPU; other devices ignore the number of threads."""
        counts = (1, 2) if provider == "CPU" else (1,)
        return tuple(SessionOptions(provider, threads=count) for count in counts)

    def open(self, content: FileContent, spec: PartSpec, options: SessionOptions) -> Runner:
        """Compile a file; raise `TargetError` if the device is missing or cannot compute in the file's precision."""
        require(self.extra, "openvino")
        self.check_provider(options.provider)
        import numpy as np
        import openvino

        model = _read(content, spec.part)
        _check_signature(model, spec)
        compiled = _compile(model, options, spec.part)

        @contextlib.contextmanager
        def bind(inputs: Mapping[str, Array]) -> Iterator[BoundCall]:
            request = compiled.create_infer_request()
            for tensor in spec.inputs:
                request.set_tensor(tensor.name, openvino.Tensor(np.ascontiguousarray(inputs[tensor.name])))
            yield BoundCall(
                request.infer,
                lambda _: {tensor.name: request.get_tensor(tensor.name).data.copy() for tensor in spec.outputs},
            )

        return Runner(bind)


@functools.cache
def core() -> openvino.Core:
    """Return the one OpenVINO core of this process, which lives as long as the process.

    Its CPU plug-in gives the thread that creates it a signal stack, and unmaps that stack when the core is deleted. If
    a second core is deleted, it restores the first one's unmapped stack, and the next Ctrl-C is a segmentation fault.
    """
    import openvino

    return openvino.Core()


def _read_onnx(content: FileContent, part: Part) -> openvino.Model:
    if not content.sidecars:
        return core().read_model(content.data)
    with tempfile.TemporaryDirectory() as folder:
        for name, data in content.by_name(f"{part}.onnx").items():
            (Path(folder) / name).write_bytes(data)
        return core().read_model(Path(folder) / f"{part}.onnx")


def _read(content: FileContent, where: str) -> openvino.Model:
    if _WEIGHTS not in content.sidecars:
        raise ModelError("OpenVINO model without its weights", where=where, expected=f"a {_WEIGHTS} file beside it")
    return core().read_model(content.data, content.sidecars[_WEIGHTS])


def _compile(model: openvino.Model, options: SessionOptions, part: Part) -> openvino.CompiledModel:
    """Compile a model in the precision that it states; raise `TargetError` if the device computes in another one."""
    wanted = _element_type(model, part)
    properties: dict[str, Any] = {"INFERENCE_PRECISION_HINT": wanted}
    if options.provider == "CPU":
        properties["NUM_STREAMS"] = 1
        if options.threads is not None:
            properties["INFERENCE_NUM_THREADS"] = options.threads
    where, do = f"openvino/{options.provider}, {part}", "name another --precision"
    try:
        compiled = core().compile_model(model, options.provider, properties)
    except RuntimeError as error:
        raise TargetError(f"device cannot compute in {wanted}", where=where, got=error, do=do) from error
    if (used := compute_types(compiled)) != {wanted}:
        got = " and ".join(sorted(used))
        raise TargetError(f"device does not compute in {wanted}", where=where, expected=wanted, got=got, do=do)
    return compiled


def compute_types(compiled: openvino.CompiledModel) -> set[str]:
    """Return the element types that a compiled model computes in, such as {"bf16", "f32"}.

    The set contains the device's type for the whole model and the types of the layers with weights, because a processor
    may support a precision only for some layers.
    """
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    notes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    layers = {note["runtimePrecision"].value for note in notes if note["layerType"].value in _WEIGHTED_LAYERS}
    return {hint, *layers}


def _round_weights(model: openvino.Model, precision: PrecisionName) -> None:
    """Store weights, float32 constants of two or more axes, in `precision`; convert them where they are read."""
    import openvino
    import torch
    from openvino import opset15

    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    kind = getattr(openvino.Type, _ELEMENT_TYPES[precision])
    for node in model.get_ordered_ops():
        is_constant = node.get_type_name() == "Constant" and node.get_element_type() == openvino.Type.f32
        if not is_constant or node.data.ndim < 2:
            continue
        bits = torch.tensor(node.data).to(dtype).view(torch.uint16).numpy()  # numpy has no bfloat16
        tensor = openvino.Tensor(bits, openvino.Shape(bits.shape), kind)
        widened = opset15.convert(openvino.op.Constant(tensor, shared_memory=False), "f32")
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(widened.output(0))


def _constant(node: openvino.Node) -> Node:
    """Return a constant of a graph. numpy does not know all of OpenVINO's types: its bits are compared."""
    array = node.data
    found = array_constant(array, node.get_friendly_name())
    facts = {**found.facts, "type": node.get_element_type().get_type_name(), "shape": str(list(node.shape))}
    return Node("constant", found.name, facts, value=found.value)


def _is_row_count(node: Node) -> bool:
    """Whether a value is the first size of an input of the graph."""
    first = [array.value().tolist() for array in node.inputs[1:] if array.value is not None]
    is_first = node.kind == "Slice" and first == [[0], [1], [1], [0]]  # start, stop, step, axis
    return is_first and node.inputs[0].kind == "ShapeOf" and node.inputs[0].inputs[0].kind == "Parameter"


def _of_integers(arrays: Sequence[Array], name: str) -> Node:
    """Return the constant of 64-bit integers that these pieces make."""
    import numpy as np

    found = array_constant(np.concatenate(arrays).astype(np.int64), name)
    return replace(found, facts={**found.facts, "type": "i64", "shape": f"[{sum(map(len, arrays))}]"})


def _further(content: FileContent, model: openvino.Model) -> tuple[str, ...]:
    """Return what the text of a graph says beside its operators: notes, its name, its form.

    OpenVINO's own transformations follow the notes, such as one that a layout must be exchanged. Other readers follow
    what OpenVINO passes over: versions of operators, sizes of inner values, layers that no output depends on.

    Raises:
        ValueError: the text has a declaration, which the writer never makes and other parsers follow.
    """
    from xml.etree import ElementTree

    if b"<!" in content.data:
        raise ValueError("a comment or a declaration")
    root = ElementTree.fromstring(content.data)  # noqa: S314 -- no declaration, and OpenVINO has parsed it
    found = [f"name {root.get('name')}"]
    for layer in root.iterfind("layers/layer"):
        for note in layer.iter("attribute"):
            # The names of operators that became one are no facts.
            fact = {key: value for key, value in note.attrib.items() if "fused_names" not in note.get("name", "")}
            found.append(f"note of {layer.get('type')}: {sorted(fact.items())}")
    found += [
        f"note {ElementTree.tostring(item, 'unicode').strip()}"
        for item in root.iterfind("rt_info/*")
        if item.tag != "framework" and item.get("name") != _WRITER_ENTRY
    ]
    found += [f"element {tag}" for tag in {item.tag for item in root} - {"layers", "edges", "rt_info"}]
    found += _form(_without_writer(root))
    layers, operators = root.findall("layers/layer"), model.get_ordered_ops()
    found += [f"{more} layers that no output depends on"] if (more := len(layers) - len(operators)) else []
    by_name = {node.get_friendly_name(): node for node in operators}
    for layer in layers:
        if (node := by_name.get(layer.get("name", ""))) is not None:
            found += _unlike(layer, node)
    stored = [data for data in root.iterfind("layers/layer/data") if "offset" in data.attrib]
    pieces = [(int(data.get("offset", 0)), int(data.get("size", 0))) for data in stored]
    return (*found, *unread(content.sidecars[_WEIGHTS], pieces))


def _without_writer(root: Element) -> Element:
    """Remove the version of the writer, which is compared elsewhere: OpenVINO did not state it before 2026."""
    notes, writer = root.find("rt_info"), root.find(f"rt_info/info[@name='{_WRITER_ENTRY}']")
    if (
        notes is not None
        and writer is not None
        and writer.keys() == ["name", "value"]
        and not (len(writer) or writer.text)
    ):
        notes.remove(writer)
    return root


def _form(root: Element) -> Iterator[str]:
    """Yield the elements, the attributes that each of them has, and texts where none belong."""
    for element in root.iter():
        if element.tag not in ("data", "attribute"):
            yield from (f"{name} of <{element.tag}>" for name in element.attrib)
        yield from (f"<{child.tag}> in <{element.tag}>" for child in element)
        texts = [element.tail] if element.tag == "dim" else [element.text, element.tail]
        yield from (f"text {text.strip()[:80]}" for text in texts if text and text.strip())


def _unlike(layer: Element, node: openvino.Node) -> Iterator[str]:
    """Yield what the text of a layer says, and OpenVINO passes over: versions, attributes and sizes of others."""
    kind, version = layer.get("type"), layer.get("version")
    if version != (read := node.get_type_info().version_id):
        yield f"{kind} of {version}; OpenVINO reads {read}"
    attributes = node.get_attributes()
    known = {*attributes, *(("offset", "size") if kind == "Const" else ())}
    for name, text in (item for data in layer.iterfind("data") for item in data.attrib.items()):
        if name not in known:
            yield f"{name} of {kind}"
        elif isinstance(attributes.get(name), str) and attributes[name] != text:
            yield f"{name} of {kind} is {text}; OpenVINO reads {attributes[name]}"
    if (stated := _stated_ports(layer)) != (computed := _ports(node)):
        yield f"sizes of {kind} are {stated}; OpenVINO computes {computed}"


def _stated_ports(layer: Element) -> list[tuple[str | None, list[str | None]]]:
    """Return type and sizes of the inputs and outputs of a layer, as its text states them."""
    ports = (*layer.iterfind("input/port"), *layer.iterfind("output/port"))
    return [(port.get("precision"), [size.text for size in port.iterfind("dim")]) for port in ports]


def _ports(node: openvino.Node) -> list[tuple[str, list[str]]]:
    """Return type and sizes of the inputs and outputs of an operator, as its text should state them."""
    found = []
    outputs = [] if node.get_type_name() == "Result" else node.outputs()
    for port in (*node.inputs(), *outputs):
        kind, shape = port.get_element_type().get_type_name(), port.get_partial_shape()
        sizes = ["-1" if size.is_dynamic else str(size.get_length()) for size in shape]
        precision = "BOOL" if kind == "boolean" else re.sub("^F(?=[0-9])", "FP", kind.upper())
        found.append((precision, sizes))
    return found


def _port(port: openvino.Output) -> str:
    """Return names, type and sizes of an input or an output."""
    names = [port.get_any_name(), *sorted(port.get_names() - {port.get_any_name()})]
    return f"{', '.join(names)}: {port.get_element_type().get_type_name()} {port.get_partial_shape()}"


def _stated_precision(model: openvino.Model) -> str:
    """Return the precision that a file states; without a statement it is float32."""
    return str(model.get_rt_info(_PRECISION_ENTRY).value) if model.has_rt_info(_PRECISION_ENTRY) else FULL


def _element_type(model: openvino.Model, where: str) -> str:
    """Return OpenVINO's name of a file's precision; raise `ModelError` for a precision that is unknown."""
    found = _stated_precision(model)
    for precision, name in _ELEMENT_TYPES.items():
        if precision == found:
            return name
    raise ModelError("unknown precision", where=where, expected=" | ".join(_ELEMENT_TYPES), got=found)


def _check_signature(model: openvino.Model, spec: PartSpec) -> None:
    for kind, expected, got in (("inputs", spec.inputs, model.inputs), ("outputs", spec.outputs, model.outputs)):
        wanted = [_signature(tensor) for tensor in expected]
        found = [
            (
                port.get_any_name(),
                port.get_element_type().get_type_name(),
                [-1 if size.is_dynamic else size.get_length() for size in port.get_partial_shape()],
            )
            for port in got
        ]
        if wanted != found:
            texts = signature_text(wanted), signature_text(found)
            raise ModelError(f"{kind} do not match the contract", where=spec.part, expected=texts[0], got=texts[1])


def _signature(tensor: TensorSpec) -> tuple[str, str, list[int]]:
    """Return name, element type and sizes, with -1 for a dynamic one: OpenVINO has no names for them."""
    kind = {"float32": "f32", "uint8": "u8", "int32": "i32", "int64": "i64"}[tensor.dtype]
    return tensor.name, kind, [size if isinstance(size, int) else -1 for size in tensor.shape]
