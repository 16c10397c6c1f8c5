"""OpenVINO's IR: a graph (`.xml`) and its weights (`.bin`), for Intel's CPUs, GPUs and NPUs.

Its CPU plug-in computes in bfloat16 on processors that have AMX unless it is told not to. Here a file says what it is
computed in, the plug-in is told, and then asked whether it listened, layer by layer:
https://docs.openvino.ai/2026/openvino-workflow/running-inference/optimize-inference/precision-control.html
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_export.artifact.manifest import FileContent
from vae_export.contract import BATCH, Array, PartSpec, TensorSpec
from vae_export.errors import ModelError, TargetError
from vae_export.formats.base import Bound, Finding, Runner, WriteOptions, machine_traces
from vae_export.formats.onnx import Onnx
from vae_export.precision import FULL, PrecisionName
from vae_export.session_options import SessionOptions
from vae_export.system.extras import missing, require

if TYPE_CHECKING:
    import openvino

    from vae_export.capture import Graph

_WEIGHTS = ".bin"
#: OpenVINO's operators that take numbers from a generator.
_DRAWS = ("RandomUniform", "Multinomial")
#: Where a file says its precision, and what OpenVINO calls that.
_STATED = ["vae_export", "precision"]
_TYPES: dict[PrecisionName, str] = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
#: Layers of a compiled model that decide in which precision it computes: they have the weights.
_WEIGHTED = ("FullyConnected", "MatMul", "Convolution", "Deconvolution")


class OpenVino:
    """IR version 11, translated from our ONNX file by OpenVINO's own reader.

    In fp16 and bf16 the weights are rounded in the file, and the layers compute in that precision or not at all.
    Processors without AMX may take longer for that than for float32, and those with AVX2 alone cannot.
    """

    name = "openvino"
    suffix = ".openvino.xml"
    sidecars: tuple[str, ...] = (_WEIGHTS,)
    extra = "openvino"
    packages: tuple[str, ...] = ("openvino", "onnx", "onnxscript")
    summary = "OpenVINO's IR for Intel hardware: two files, the graph and `.openvino.bin` with its weights"
    danger = "is checked by nobody before OpenVINO parses it"
    may_crash = True
    is_slow = False
    precisions: tuple[PrecisionName, ...] = tuple(_TYPES)

    def unavailable(self) -> str | None:
        error = missing(self.extra, "openvino") or missing("export", "torch", "onnx", "onnxscript")
        return None if error is None else error.line()

    def check(self, options: WriteOptions) -> None:
        """Raise `UsageError` for an operator set that the ONNX file in between cannot be written with."""
        Onnx().check(options)

    def write(self, graph: Graph, options: WriteOptions) -> FileContent:
        import openvino

        model = _core().read_model(Onnx().write(graph, replace(options, precision=FULL)).data)
        if options.precision != FULL:
            _round_weights(model, options.precision)
            model.set_rt_info(options.precision, _STATED)
        # Nodes that the reader adds are numbered through the process; numbered by their place, equal graphs give
        # equal bytes.
        for place, node in enumerate(model.get_ordered_ops()):
            if node.get_friendly_name() == node.get_name():
                node.set_friendly_name(f"{node.get_type_name()}/{place}")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.xml"
            openvino.save_model(model, path, compress_to_fp16=False)
            return FileContent(path.read_bytes(), {_WEIGHTS: path.with_suffix(_WEIGHTS).read_bytes()})

    def lint(self, content: FileContent, name: str, opset: int, precision: PrecisionName = FULL) -> Iterator[Finding]:  # noqa: ARG002 -- opset is ONNX's
        """Operators that draw, traces of this machine in the graph, and another precision than the manifest's."""
        yield from machine_traces(content.data, name)
        model = _read(content, name)
        if (stated := _stated(model)) != precision:
            yield Finding("wrong-precision", "error", name, f"{stated}, where the manifest says {precision}")
        for node in model.get_ops():
            if (operator := node.get_type_name()) in _DRAWS:
                yield Finding("random-operator", "error", f"{name}, node '{node.get_friendly_name()}'", operator)

    def machine(self, content: FileContent) -> str:  # noqa: ARG002 -- it runs anywhere
        return ""

    def providers(self) -> tuple[str, ...]:
        if missing(self.extra, "openvino") is not None:
            return ()
        devices = _core().available_devices
        return tuple(sorted(devices, key=lambda device: (device != "CPU", device)))

    def session_options(self, provider: str) -> tuple[SessionOptions, ...]:
        """On the CPU one thread and two; elsewhere it is the device that decides."""
        counts = (1, 2) if provider == "CPU" else (1,)
        return tuple(SessionOptions(provider, threads=count) for count in counts)

    def open(self, content: FileContent, spec: PartSpec, options: SessionOptions) -> Runner:
        if options.provider not in (devices := self.providers()):
            require(self.extra, "openvino")
            raise TargetError("device is not there", where=f"openvino/{options.provider}", expected=" | ".join(devices))
        import numpy as np
        import openvino

        model = _read(content, spec.part)
        _check_signature(model, spec)
        wanted = _type(model, spec.part)
        properties: dict[str, Any] = {"INFERENCE_PRECISION_HINT": wanted}
        if options.provider == "CPU":
            properties["NUM_STREAMS"] = 1
            if options.threads is not None:
                properties["INFERENCE_NUM_THREADS"] = options.threads
        where = f"openvino/{options.provider}, {spec.part}"
        try:
            compiled = _core().compile_model(model, options.provider, properties)
        except RuntimeError as error:
            what = f"device has no way to compute in {wanted}"
            raise TargetError(what, where=where, got=error, do="name another --precision") from error
        if (used := _used(compiled)) != {wanted}:
            what, do = f"device does not compute in {wanted}", "name another --precision"
            raise TargetError(what, where=where, expected=wanted, got=" and ".join(sorted(used)), do=do)

        @contextlib.contextmanager
        def bind(inputs: Mapping[str, Array]) -> Iterator[Bound]:
            request = compiled.create_infer_request()
            for tensor in spec.inputs:
                request.set_tensor(tensor.name, openvino.Tensor(np.ascontiguousarray(inputs[tensor.name])))
            yield Bound(
                request.infer,
                lambda _: {tensor.name: request.get_tensor(tensor.name).data.copy() for tensor in spec.outputs},
            )

        return Runner(bind)


@functools.cache
def _core() -> openvino.Core:
    """The one of this process, never given back.

    Its CPU plug-in gives the thread that makes it a signal stack, and unmaps that stack when it goes. Where two have
    lived, the second leaves the first one's, unmapped, and the next Ctrl-C is a segmentation fault.
    """
    import openvino

    return openvino.Core()


def _read(content: FileContent, where: str) -> openvino.Model:
    if _WEIGHTS not in content.sidecars:
        raise ModelError("OpenVINO model without its weights", where=where, expected=f"a {_WEIGHTS} file beside it")
    return _core().read_model(content.data, content.sidecars[_WEIGHTS])


def _round_weights(model: openvino.Model, precision: PrecisionName) -> None:
    """Store weights, the float32 constants of two axes and more, in `precision`, and widen them where they are read."""
    import openvino
    import torch
    from openvino import opset15

    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    kind = getattr(openvino.Type, _TYPES[precision])
    for node in model.get_ordered_ops():
        is_constant = node.get_type_name() == "Constant" and node.get_element_type() == openvino.Type.f32
        if not is_constant or node.data.ndim < 2:
            continue
        bits = torch.tensor(node.data).to(dtype).view(torch.uint16).numpy()  # numpy has no bfloat16
        tensor = openvino.Tensor(bits, openvino.Shape(bits.shape), kind)
        widened = opset15.convert(openvino.op.Constant(tensor, shared_memory=False), "f32")
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(widened.output(0))


def _stated(model: openvino.Model) -> str:
    """The precision that a file says it has; one that says nothing is float32."""
    return str(model.get_rt_info(_STATED).value) if model.has_rt_info(_STATED) else FULL


def _type(model: openvino.Model, where: str) -> str:
    """What OpenVINO calls the precision of a file; raises `ModelError` for one that is none of ours."""
    found = _stated(model)
    for precision, name in _TYPES.items():
        if precision == found:
            return name
    raise ModelError("unknown precision", where=where, expected=" | ".join(_TYPES), got=found)


def _used(compiled: openvino.CompiledModel) -> set[str]:
    """In what a compiled model computes: what its device says of it, and of each layer with weights."""
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    notes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    layers = {note["runtimePrecision"].value for note in notes if note["layerType"].value in _WEIGHTED}
    return {hint, *layers}


def _check_signature(model: openvino.Model, spec: PartSpec) -> None:
    for kind, expected, got in (("inputs", spec.inputs, model.inputs), ("outputs", spec.outputs, model.outputs)):
        wanted = [_signature(tensor) for tensor in expected]
        found = [
            (
                port.get_any_name(),
                port.get_element_type().get_type_name(),
                [BATCH if size.is_dynamic else size.get_length() for size in port.get_partial_shape()],
            )
            for port in got
        ]
        if wanted != found:
            raise ModelError(f"{kind} are not those of the contract", where=spec.part, expected=wanted, got=found)


def _signature(tensor: TensorSpec) -> tuple[str, str, list[int | str]]:
    return tensor.name, {"float32": "f32", "uint8": "u8"}[tensor.dtype], list(tensor.shape)
