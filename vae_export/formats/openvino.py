"""OpenVINO's IR: a graph (`.xml`) and its weights (`.bin`), for Intel's CPUs, GPUs and NPUs.

Its CPU plug-in computes in bfloat16 on processors that have AMX unless it is told not to; here it is told, and asked
whether it listened: https://docs.openvino.ai/2026/openvino-workflow/running-inference/optimize-inference/precision-control.html
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_export.companions import Accompanied
from vae_export.contract import BATCH, Array, PartSpec, TensorSpec
from vae_export.errors import ModelError, TargetError
from vae_export.extras import missing, require
from vae_export.findings import Finding, machine_traces
from vae_export.formats.base import Bound, Runner, Setting, WriteOptions
from vae_export.formats.onnx import Onnx
from vae_export.precision import FULL, PrecisionName

if TYPE_CHECKING:
    import openvino

    from vae_export.graphs import Graph

_WEIGHTS = ".bin"
#: OpenVINO's operators that take numbers from a generator.
_DRAWS = ("RandomUniform", "Multinomial")


class OpenVino:
    """IR version 11, translated from our ONNX file by OpenVINO's own reader, weights float32."""

    name = "openvino"
    suffix = ".openvino.xml"
    beside: tuple[str, ...] = (_WEIGHTS,)
    extra = "openvino"
    packages: tuple[str, ...] = ("openvino", "onnx", "onnxscript")
    summary = "OpenVINO's IR for Intel hardware: two files, the graph and `.openvino.bin` with its weights"
    danger = "is checked by nobody before OpenVINO parses it"
    may_crash = True
    is_slow = False
    precisions: tuple[PrecisionName, ...] = (FULL,)

    def unavailable(self) -> str | None:
        error = missing(self.extra, "openvino") or missing("export", "torch", "onnx", "onnxscript")
        return None if error is None else error.line()

    def check(self, options: WriteOptions) -> None:
        """Raise `UsageError` for an operator set that the ONNX file in between cannot be written with."""
        Onnx().check(options)

    def write(self, graph: Graph, options: WriteOptions) -> Accompanied:
        import openvino

        model = _core().read_model(Onnx().write(graph, options))
        # Nodes that the reader adds are numbered through the process; numbered by their place, equal graphs give
        # equal bytes.
        for place, node in enumerate(model.get_ordered_ops()):
            if node.get_friendly_name() == node.get_name():
                node.set_friendly_name(f"{node.get_type_name()}/{place}")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.xml"
            openvino.save_model(model, path, compress_to_fp16=False)
            return Accompanied(path.read_bytes(), {_WEIGHTS: path.with_suffix(_WEIGHTS).read_bytes()})

    def lint(self, data: bytes, name: str, opset: int, precision: PrecisionName = FULL) -> Iterator[Finding]:  # noqa: ARG002 -- opset is ONNX's, and there is one precision
        """Operators that draw, and traces of this machine in the graph."""
        yield from machine_traces(data, name)
        for node in _read(data, name).get_ops():
            if (operator := node.get_type_name()) in _DRAWS:
                yield Finding("random-operator", "error", f"{name}, node '{node.get_friendly_name()}'", operator)

    def machine(self, data: bytes) -> str:  # noqa: ARG002 -- it runs anywhere
        return ""

    def providers(self) -> tuple[str, ...]:
        if missing(self.extra, "openvino") is not None:
            return ()
        devices = _core().available_devices
        return tuple(sorted(devices, key=lambda device: (device != "CPU", device)))

    def settings(self, provider: str) -> tuple[Setting, ...]:
        """On the CPU one thread and two; elsewhere it is the device that decides."""
        return (Setting(), Setting(threads=2)) if provider == "CPU" else (Setting(),)

    def open(self, data: bytes, spec: PartSpec, provider: str, setting: Setting) -> Runner:
        if provider not in (devices := self.providers()):
            require(self.extra, "openvino")
            raise TargetError("device is not there", where=f"openvino/{provider}", expected=" | ".join(devices))
        import numpy as np
        import openvino

        model = _read(data, spec.part)
        _check_signature(model, spec)
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if provider == "CPU":
            options |= {"INFERENCE_NUM_THREADS": setting.threads, "NUM_STREAMS": 1}
        compiled = _core().compile_model(model, provider, options)
        if (used := compiled.get_property("INFERENCE_PRECISION_HINT")) != openvino.Type.f32:
            raise TargetError("device does not compute in float32", where=f"openvino/{provider}", got=used)

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


def _read(data: bytes, where: str) -> openvino.Model:
    if not isinstance(data, Accompanied):
        raise ModelError("OpenVINO model without its weights", where=where, expected=f"a {_WEIGHTS} file beside it")
    return _core().read_model(bytes(data), data.beside[_WEIGHTS])


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
