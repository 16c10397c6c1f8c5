"""ONNX, written by torch.onnx's exporter and run by ONNX Runtime.

The exporter leaves things in a file that do not belong into something handed on: stack traces with the paths of the
exporting machine, names of its own symbols. They are taken out; contract and provenance go into `metadata_props`.
"""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from vae_export.artifact.manifest import NOT_STATED, FileContent
from vae_export.contract import BATCH, Array, PartSpec
from vae_export.errors import ModelError, UsageError
from vae_export.formats.base import Bound, Finding, Runner, WriteOptions
from vae_export.precision import FULL, PrecisionName
from vae_export.session_options import CPU, OPTIMISATION_LEVELS, SessionOptions
from vae_export.system.extras import missing

if TYPE_CHECKING:
    import onnx

    from vae_export.capture import Graph
    from vae_export.runtime.session import Session

#: The exporter translates to operator set 18 and later ones; what lies below goes through a converter that gives up
#: silently.
MIN_OPSET = 18
#: Written into every file: what opset 20 asks for and older engines still read.
IR_VERSION = 10
#: Above this protobuf cannot hold a message.
PROTOBUF_LIMIT = 2**31 - 1
#: What was translated already, by graph and operator set, for as long as the graph lives.
_TRANSLATED: WeakKeyDictionary[Graph, dict[int, onnx.ModelProto]] = WeakKeyDictionary()


class Onnx:
    """ONNX files of one operator set, with their weights inside."""

    name = "onnx"
    suffix = ".onnx"
    sidecars: tuple[str, ...] = ()
    extra = "export"
    packages: tuple[str, ...] = ("onnx", "onnxscript", "onnxruntime")
    summary = "one self-contained file for ONNX Runtime, browsers, phones and most other engines"
    danger = ""
    may_crash = False
    is_slow = False
    precisions: tuple[PrecisionName, ...] = ("fp32", "fp16", "int8", "int8-static", "int4-weights")

    def unavailable(self) -> str | None:
        error = missing(self.extra, "torch", "onnx", "onnxscript")
        return None if error is None else error.line()

    def check(self, options: WriteOptions) -> None:
        """Raise `UsageError` for an operator set that this machine's exporter cannot write."""
        import onnx

        newest = onnx.defs.onnx_opset_version()
        if not MIN_OPSET <= options.opset <= newest:
            raise UsageError("opset cannot be written", expected=f"{MIN_OPSET} to {newest}", got=options.opset)

    def write(self, graph: Graph, options: WriteOptions) -> FileContent:
        """Raises `UsageError` as `check` does, `ModelError` for what the exporter cannot translate."""
        import onnx

        self.check(options)
        model = onnx.ModelProto()
        model.CopyFrom(self._translated(graph, options.opset))
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

    def _translated(self, graph: Graph, opset: int) -> onnx.ModelProto:
        """The graph as ONNX, once: other formats start from it, and translating takes longer than they do."""
        known = _TRANSLATED.setdefault(graph, {})
        if opset not in known:
            known[opset] = self._translate(graph, opset)
        return known[opset]

    def _translate(self, graph: Graph, opset: int) -> onnx.ModelProto:
        import torch

        spec, said = graph.spec, io.StringIO()
        with (
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
            warnings.catch_warnings(),
            _translations_kept(),
        ):
            # The exporter's own deprecation notes are about its own code.
            warnings.simplefilter("ignore")
            captured = graph.program
            try:
                program = torch.onnx.export(
                    captured,
                    dynamo=True,
                    opset_version=opset,
                    input_names=[tensor.name for tensor in spec.inputs],
                    output_names=[tensor.name for tensor in spec.outputs],
                    external_data=False,
                    verbose=False,
                )
            except torch.onnx.OnnxExporterError as error:
                raise ModelError(
                    "module cannot be written as ONNX", where=spec.part, got=_first_cause(error)
                ) from error
        if program is None:
            raise ModelError("exporter gave no model", where=spec.part, got=said.getvalue())
        model = program.model_proto
        model.ir_version = IR_VERSION
        _clean(model)
        _name_batch(model, spec)
        written = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
        if written.get("ai.onnx") != opset:
            raise UsageError("opset cannot be written", where=spec.part, expected=opset, got=written)
        return model

    def machine(self, content: FileContent) -> str:  # noqa: ARG002 -- it runs anywhere
        return ""

    def providers(self) -> tuple[str, ...]:
        from vae_export.runtime.session import available_providers

        return available_providers()

    def lint(self, content: FileContent, name: str, opset: int, precision: PrecisionName = FULL) -> Iterator[Finding]:
        from vae_export.formats.onnx_lint import lint
        from vae_export.formats.onnx_quantize import FOREIGN

        stated = opset != NOT_STATED
        return lint(
            content.data,
            name,
            opset=opset if stated else None,
            ir_version=IR_VERSION if stated else None,
            foreign=FOREIGN.get(precision, frozenset()),
        )

    def session_options(self, provider: str) -> tuple[SessionOptions, ...]:
        """On the CPU every optimisation level with one thread and with two; on a GPU without TF32 and with it."""
        if provider != CPU:
            return SessionOptions(provider, threads=1), SessionOptions(provider, threads=1, tf32=True)
        levels = reversed(OPTIMISATION_LEVELS)
        return tuple(SessionOptions(provider, threads, level) for level in levels for threads in (1, 2))

    def open(self, content: FileContent, spec: PartSpec, options: SessionOptions) -> Runner:
        from vae_export.runtime.session import Session

        return session_runner(Session(content.data, spec, options))


def session_runner(session: Session) -> Runner:
    """A session of ONNX Runtime as a runner."""

    @contextlib.contextmanager
    def bind(inputs: Mapping[str, Array]) -> Iterator[Bound]:
        yield Bound(*session.bind(inputs))

    return Runner(bind, session.run)


@contextlib.contextmanager
def _translations_kept() -> Iterator[None]:
    """Let the exporter parse its 500 operator translations once a process: anew at each call they are half its time.

    The hook is private to PyTorch, and a type checker sees no way to set it; where it is not there, an export is only
    slower.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:
        yield
        return
    original = ONNXRegistry.from_torchlib
    ONNXRegistry.from_torchlib = classmethod(lambda _, opset_version: _translations(original, opset_version))  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = original  # type: ignore[method-assign]


@functools.cache
def _translations(original: Callable[[int], object], opset_version: int) -> object:
    return original(opset_version)


def _first_cause(error: BaseException) -> str:
    """What the exporter ran into, without the pages that it wraps around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def _clean(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes: they hold source lines and paths, and differ between equal models."""
    graph = model.graph
    model.doc_string = graph.doc_string = ""
    described: tuple[Any, ...] = (
        model,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.initializer,
        *graph.value_info,
    )
    for item in described:
        del item.metadata_props[:]
        item.doc_string = ""


def _name_batch(model: onnx.ModelProto, spec: PartSpec) -> None:
    """Call the batch axis by the contract's name wherever the exporter used a symbol of its own."""
    graph = model.graph
    symbols = {value.type.tensor_type.shape.dim[0].dim_param for value in graph.input} - {""}
    if len(symbols) != 1:
        raise ModelError(
            "batch is not dynamic", where=spec.part, expected="one symbol on every input", got=sorted(symbols)
        )
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in symbols:
                dim.dim_param = BATCH
