"""ONNX files with weights inside, and with contract and provenance in `metadata_props`; ONNX Runtime runs them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vae_export.artifact.manifest import FileContent, sidecar_name
from vae_export.contract import Array, PartSpec
from vae_export.errors import ModelError, UsageError
from vae_export.formats.base import BoundCall, Finding, Format, Runner, StatedFile, WriteOptions
from vae_export.formats.structure import Structure
from vae_export.precision import FULL, PrecisionName
from vae_export.session_options import (
    CPU,
    EXACT_INT8,
    EXACT_INT8_ENTRY,
    EXACT_LEVELS,
    OPTIMISATION_LEVELS,
    PROVIDERS,
    SessionOptions,
)

if TYPE_CHECKING:
    from vae_export.capture import Graph
    from vae_export.runtime.session import Session

#: The oldest operator set. Those below 18 are made by ONNX's converter, which refuses some operators.
MIN_OPSET = 11
#: The most bytes of weights in one file: a protobuf message ends at 2^31 - 1 bytes, and needs some for the graph.
MAX_INSIDE = 2**31 - 2**27
#: Precisions whose products are of unsigned and signed bytes.
_EIGHT_BITS: frozenset[PrecisionName] = frozenset({"int8", "int8-static"})
#: Suffix of the sidecar with the weights of a model that is too large for one file.
WEIGHTS = ".data"


class Onnx(Format):
    """ONNX files of one operator set, with their weights inside.

    A model that is too large for one file has its weights in a sidecar.

    Args:
        max_inside: the most bytes of weights inside.
    """

    name = "onnx"
    suffix = ".onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")
    engine = "onnxruntime"
    known_providers = PROVIDERS
    summary = "one self-contained file for ONNX Runtime, browsers, phones and most other engines"
    precisions: tuple[PrecisionName, ...] = ("fp32", "fp16", "int8", "int8-static", "int4-weights")

    def __init__(self, max_inside: int = MAX_INSIDE) -> None:
        self.max_inside = max_inside

    def check(self, options: WriteOptions) -> None:
        """Raise `UsageError` for an operator set that the installed exporter cannot write."""
        import onnx

        newest = onnx.defs.onnx_opset_version()
        if not MIN_OPSET <= options.opset <= newest:
            raise UsageError("opset cannot be written", expected=f"{MIN_OPSET} to {newest}", got=options.opset)

    def write(self, graph: Graph, options: WriteOptions) -> FileContent:
        """Return one file; raise `UsageError` as `check` does, and `ModelError` if the graph cannot be translated."""
        import onnx

        from vae_export.capture.advice import advice_for_operators
        from vae_export.capture.program import operator_names

        self.check(options)
        translation = graph.onnx(options.opset, self.max_inside).stating(options.metadata)
        try:
            onnx.checker.check_model(translation.without_weights(), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            got = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            do = advice_for_operators(operator_names(graph.program))
            raise ModelError("module cannot be written as ONNX", where=graph.spec.part, got=got, do=do) from error
        is_large = translation.size > self.max_inside
        if options.precision != FULL:
            if is_large:
                raise ModelError(
                    f"model too large to be converted to {options.precision}",
                    where=graph.spec.part,
                    expected=f"{self.max_inside:,} bytes of weights at most",
                    got=f"{translation.size:,}",
                )
            from vae_export.formats.onnx_quantize import convert_precision

            model = convert_precision(translation.complete(), options.precision, options.calibration)
            return FileContent(model.SerializeToString(deterministic=True))
        if not is_large:
            return FileContent(translation.one_file())
        data, weights = translation.two_files(sidecar_name(f"{graph.spec.part}{self.suffix}", WEIGHTS))
        return FileContent(data, {WEIGHTS: weights})

    def check_provider(self, provider: str) -> None:
        """Raise `TargetError` unless this build of ONNX Runtime has the provider."""
        from vae_export.runtime.session import check_provider

        check_provider(provider)

    def providers(self) -> tuple[str, ...]:
        """Return the providers of ONNX Runtime that this machine has, the CPU first."""
        from vae_export.runtime.session import available_providers

        return available_providers()

    def lint(self, content: FileContent, stated: StatedFile) -> Iterator[Finding]:
        """Return the faults that `vae_export.formats.onnx_lint` finds."""
        from vae_export.capture.onnx_translation import ir_version
        from vae_export.formats.onnx_lint import lint
        from vae_export.formats.onnx_quantize import FOREIGN

        return lint(
            content.data,
            stated.name,
            opset=stated.opset,
            ir_version=None if stated.opset is None else ir_version(stated.opset),
            foreign=FOREIGN.get(stated.precision, frozenset()),
            sidecars=[sidecar_name(stated.name, suffix) for suffix in content.sidecars],
        )

    def structure(self, content: FileContent) -> Structure:
        """Return operators, constants, inputs, outputs and metadata of the graph."""
        from vae_export.formats.onnx_structure import onnx_structure

        return onnx_structure(content.data, content.sidecars.values())

    def session_options(self, provider: str) -> tuple[SessionOptions, ...]:
        """Return all optimisation levels with one and two threads for the CPU; TF32 off and on for a GPU."""
        if provider != CPU:
            return SessionOptions(provider, threads=1), SessionOptions(provider, threads=1, tf32=True)
        levels = reversed(OPTIMISATION_LEVELS)
        return tuple(SessionOptions(provider, threads, level) for level in levels for threads in (1, 2))

    def options_to_test(self, provider: str, precision: PrecisionName) -> tuple[SessionOptions, ...]:
        """Return those of `session_options`; for 8 bits on the CPU, those that are exact, and the switch for it."""
        options = self.session_options(provider)
        if provider != CPU or precision not in _EIGHT_BITS:
            return options
        from vae_export.runtime.session import adds_in_16_bits

        if adds_in_16_bits():
            options = tuple(option for option in options if option.optimisation in EXACT_LEVELS)
        return (*options, replace(options[0], switches=(EXACT_INT8,)))

    def without_vnni(self, precision: PrecisionName) -> Mapping[str, str]:
        """Return the entry of the session's configuration with which products of bytes are exact everywhere."""
        return dict([EXACT_INT8_ENTRY]) if precision in _EIGHT_BITS else {}

    def open(self, content: FileContent, spec: PartSpec, options: SessionOptions) -> Runner:
        """Open a session of ONNX Runtime with the options."""
        from vae_export.runtime.session import Session

        return session_runner(Session(content.data, spec, options, _named_sidecars(content)))

    def open_stored(
        self, path: Path, read: Callable[[], FileContent], spec: PartSpec, options: SessionOptions
    ) -> Runner:
        """Open a session of ONNX Runtime, which reads the file itself and maps the one with its weights."""
        from vae_export.runtime.session import Session

        del read
        return session_runner(Session(path, spec, options))


def _named_sidecars(content: FileContent) -> dict[str, bytes]:
    """Return the bytes of the file with the weights by the name that the model has for it."""
    if not content.sidecars:
        return {}
    import onnx

    from vae_export.formats.onnx_lint import external_location

    tensors = onnx.load_model_from_string(content.data).graph.initializer
    names = {location for tensor in tensors if (location := external_location(tensor)) is not None}
    return {name: data for name in names for data in content.sidecars.values()}


def session_runner(session: Session) -> Runner:
    """Return a runner of an ONNX Runtime session."""

    @contextlib.contextmanager
    def bind(inputs: Mapping[str, Array]) -> Iterator[BoundCall]:
        yield BoundCall(*session.bind(inputs))

    return Runner(bind, session.run)
