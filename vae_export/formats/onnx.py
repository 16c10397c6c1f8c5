"""ONNX files with weights inside, and with contract and provenance in `metadata_props`; ONNX Runtime runs them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from vae_export.artifact.manifest import FileContent
from vae_export.contract import Array, PartSpec
from vae_export.errors import ModelError, UsageError
from vae_export.formats.base import Bound, Finding, Format, Runner, WriteOptions
from vae_export.precision import FULL, PrecisionName
from vae_export.session_options import CPU, OPTIMISATION_LEVELS, SessionOptions

if TYPE_CHECKING:
    from vae_export.capture import Graph
    from vae_export.runtime.session import Session

#: The oldest operator set. For earlier sets, PyTorch uses a converter that can fail silently.
MIN_OPSET = 18
#: The largest protobuf message in bytes.
PROTOBUF_LIMIT = 2**31 - 1


class Onnx(Format):
    """ONNX files of one operator set, with their weights inside."""

    name = "onnx"
    suffix = ".onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")
    summary = "one self-contained file for ONNX Runtime, browsers, phones and most other engines"
    precisions: tuple[PrecisionName, ...] = ("fp32", "fp16", "int8", "int8-static", "int4-weights")

    def check(self, options: WriteOptions) -> None:
        """Raise `UsageError` for an operator set that the installed exporter cannot write."""
        import onnx

        newest = onnx.defs.onnx_opset_version()
        if not MIN_OPSET <= options.opset <= newest:
            raise UsageError("opset cannot be written", expected=f"{MIN_OPSET} to {newest}", got=options.opset)

    def write(self, graph: Graph, options: WriteOptions) -> FileContent:
        """Return one file; raise `UsageError` as `check` does, and `ModelError` if the graph cannot be translated."""
        import onnx

        self.check(options)
        model = onnx.ModelProto()
        model.CopyFrom(graph.onnx(options.opset))
        for key, value in sorted(options.metadata.items()):
            model.metadata_props.add(key=key, value=value)
        if model.ByteSize() > PROTOBUF_LIMIT:
            raise ModelError(
                "model too large for one ONNX file",
                where=graph.spec.part,
                expected=f"{PROTOBUF_LIMIT:,} bytes at most",
                got=f"{model.ByteSize():,}",
            )
        onnx.checker.check_model(model, full_check=True)
        if options.precision != FULL:
            from vae_export.formats.onnx_quantize import convert_precision

            model = convert_precision(model, options.precision, options.calibration)
        return FileContent(model.SerializeToString(deterministic=True))

    def providers(self) -> tuple[str, ...]:
        """Return the providers of ONNX Runtime that this machine has, the CPU first."""
        from vae_export.runtime.session import available_providers

        return available_providers()

    def lint(
        self, content: FileContent, name: str, opset: int | None, precision: PrecisionName = FULL
    ) -> Iterator[Finding]:
        """Return the faults that `vae_export.formats.onnx_lint` finds."""
        from vae_export.capture.onnx_translation import IR_VERSION
        from vae_export.formats.onnx_lint import lint
        from vae_export.formats.onnx_quantize import FOREIGN

        return lint(
            content.data,
            name,
            opset=opset,
            ir_version=None if opset is None else IR_VERSION,
            foreign=FOREIGN.get(precision, frozenset()),
        )

    def session_options(self, provider: str) -> tuple[SessionOptions, ...]:
        """Return all optimisation levels with one and two threads for the CPU; TF32 off and on for a GPU."""
        if provider != CPU:
            return SessionOptions(provider, threads=1), SessionOptions(provider, threads=1, tf32=True)
        levels = reversed(OPTIMISATION_LEVELS)
        return tuple(SessionOptions(provider, threads, level) for level in levels for threads in (1, 2))

    def open(self, content: FileContent, spec: PartSpec, options: SessionOptions) -> Runner:
        """Open a session of ONNX Runtime with the options."""
        from vae_export.runtime.session import Session

        return session_runner(Session(content.data, spec, options))


def session_runner(session: Session) -> Runner:
    """Return a runner of an ONNX Runtime session."""

    @contextlib.contextmanager
    def bind(inputs: Mapping[str, Array]) -> Iterator[Bound]:
        yield Bound(*session.bind(inputs))

    return Runner(bind, session.run)
