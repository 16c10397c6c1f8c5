"""Where the time of a long piece of work went.

Export: write every file to a staging folder, verify what was written, publish all of it by one rename.
"""

from __future__ import annotations

import contextlib
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vae_export._version import __version__
from vae_export.artifact.folder import Artifact
from vae_export.artifact.manifest import MANIFEST, NOT_STATED, FileContent, FileEntry, Manifest
from vae_export.capture import Captured
from vae_export.contract import EVERY_PART, PIXELS, Contract, Part, PartSpec, Pixels, float_part
from vae_export.errors import MachineError, TargetError, UsageError
from vae_export.formats import FORMATS, OPSET, WriteOptions, versions
from vae_export.io.atomic import write_atomic
from vae_export.io.staging import check_free, staged_folder
from vae_export.models.checkpoint import Checkpoint
from vae_export.parity import Budget, Certificate, calibration_inputs, golden_vectors, verify
from vae_export.precision import CALIBRATED, FULL, PRECISIONS, PrecisionName, infix
from vae_export.report import certificate_page
from vae_export.sandbox.crash_check import Trial, crash_check
from vae_export.sources import Source
from vae_export.system.signals import deferred_signals


class Stopwatch:
    """Seconds by name, in the order in which each name was first measured."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def lap(self, name: str) -> Iterator[None]:
        """Add what the block takes to what blocks of this name have taken."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def line(self) -> str:
        """took 9.1 s: onnx 3.2, golden vectors 1.4, verification 4.5"""
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.seconds.items())
        return f"took {sum(self.seconds.values()):.1f} s: {parts}"


def export(
    source: Source | Checkpoint,
    out: str | Path,
    *,
    formats: Sequence[str] = ("onnx",),
    parts: Sequence[Part] | None = None,
    pixels: Sequence[Pixels] = (),
    precisions: Sequence[PrecisionName] = (FULL,),
    budget: Budget | None = None,
    opset: int = OPSET,
    force: bool = False,
    leave_out: bool = False,
    report: Callable[[str], None] = lambda _line: None,
) -> tuple[Artifact, Certificate]:
    """Write the parts of a VAE in the given formats to the folder `out`, and verify them there.

    Args:
        source: a checkpoint of ours, or any encoder and decoder with their contract.
        out: made by one rename once everything in it is verified. An existing one is refused without `force`, and
            what is no export folder with it.
        formats: names in `vae_export.formats.FORMATS`.
        parts: None takes all that the source can make.
        pixels: layouts of bytes; for each, one decoder more, which gives them in place of a float32 image. In float32
            files alone.
        precisions: of the files; each format must have one of them, and is written in all that it has.
        budget: what of pixels and nats they may cost.
        opset: of the ONNX files.
        leave_out: a lower precision in which this machine cannot run a format's files is left out with a line, instead
            of an error. A network's layers decide: OpenVINO has bfloat16 for some of them.
        report: called with a line at each step, and at the end with where the time went.

    Returns:
        The published artifact, and the certificate that lies in it.

    Raises:
        UsageError: an unknown format, part, layout, precision or opset, or an `out` that exists.
        ModelError: modules that do not keep the contract, or draw random numbers; too few images to calibrate with.
        MachineError: a format that cannot be written here, or its files not be run; a full disk.
        ParityError: a file does not compute what PyTorch computes, or misses its budget. Nothing is left behind.
    """
    out = Path(out)
    captured = Captured.of(source)
    source = captured.source
    chosen = _chosen(source, formats, parts, pixels)
    kinds = _kinds(formats, precisions)
    if pixels and set(precisions) != {FULL}:
        got, do = ", ".join(precisions), "export other precisions to a folder of their own"
        raise UsageError("pixels are of float32 alone", expected=FULL, got=got, do=do)
    for format in formats:
        FORMATS[format].check(WriteOptions(opset=opset))
    _check_out(out, force=force)
    watch = Stopwatch()
    with watch.lap("capture"):
        graphs = captured.graphs(chosen)
        for part in chosen:
            graphs[part].check_program()
        # Before anything is written: what is too little or no number to calibrate with is known by now.
        calibrated = calibration_inputs(source, graphs) if any(kind[1] in CALIBRATED for kind in kinds) else None
    with staged_folder(out, force=force) as staging:
        entries: list[FileEntry] = []
        for format, precision in kinds:
            files: dict[Part, FileContent] = {}
            for part in chosen:
                report(f"writing {_name(part, format, precision)}")
                metadata = _metadata(graphs[part].spec, source.provenance)
                options = WriteOptions(metadata, opset, precision, None if calibrated is None else calibrated[part])
                with deferred_signals(), watch.lap(format):
                    files[part] = FORMATS[format].write(graphs[part], options)
            if leave_out and precision != FULL:
                with watch.lap(format):
                    reason = _not_here(format, files, source.contract)
                if reason is not None:
                    report(f"left out: {format} in {precision}: {reason}")
                    continue
            for part, content in files.items():
                name = _name(part, format, precision)
                for stored, data in content.by_name(name).items():
                    write_atomic(staging / stored, data)
                entries.append(FileEntry.of(name, part, format, content, precision, FORMATS[format].machine(content)))
        if not entries:
            raise MachineError("nothing that was asked for can be run here", got=", ".join(precisions))
        entries.sort(key=lambda entry: chosen.index(entry.part))
        written = {entry.format for entry in entries}
        with watch.lap("golden vectors"):
            tested = list(dict.fromkeys(map(float_part, chosen)))
            golden, arrays = golden_vectors(captured, tested, [entry.precision for entry in entries], calibrated)
            for name, data in arrays.items():
                write_atomic(staging / name, data)
        manifest = Manifest(
            source.contract,
            tuple(entries),
            opset if "onnx" in written else NOT_STATED,
            {"vae-export": __version__, "python": platform.python_version()}
            | versions([format for format in formats if format in written]),
            source.provenance,
            golden=golden,
        )
        write_atomic(staging / MANIFEST, manifest.text)
        staged = Artifact(staging, manifest)
        with watch.lap("verification"):
            certificate = verify(
                staged, captured, thorough=False, trust=True, budget=budget, calibrated=calibrated, report=report
            )
        certificate.require()
        with watch.lap("certificate"):
            certificate.write(staged.certificate)
            write_atomic(staged.certificate.with_suffix(".html"), certificate_page(certificate, manifest).encode())
    report(watch.line())
    return Artifact(out, manifest), certificate


def _chosen(
    source: Source, formats: Sequence[str], parts: Sequence[Part] | None, pixels: Sequence[Pixels]
) -> tuple[Part, ...]:
    if unknown := [format for format in formats if format not in FORMATS]:
        raise UsageError("unknown format", expected=" | ".join(FORMATS), got=unknown[0])
    if not formats or len(set(formats)) != len(formats):
        raise UsageError("formats must be given, each once", got=list(formats))
    for format in formats:
        if (reason := FORMATS[format].unavailable()) is not None:
            raise MachineError(f"format {format} cannot be written here", got=reason)
    if unknown := [layout for layout in pixels if layout not in PIXELS]:
        raise UsageError("unknown pixels", expected=" | ".join(PIXELS), got=unknown[0])
    if pixels and "decoder" not in source.parts:
        raise UsageError("pixels are a decoder's", expected="a source with a decoder", got=" | ".join(source.parts))
    wanted = source.parts if parts is None else parts
    if not wanted:
        raise UsageError("no part was asked for", expected=" | ".join(source.parts))
    if bad := [part for part in wanted if part not in source.parts]:
        raise UsageError("part cannot be made", where=bad[0], expected=" | ".join(source.parts))
    wanted = (*wanted, *(PIXELS[layout] for layout in pixels))
    return tuple(part for part in EVERY_PART if part in wanted)


def _kinds(formats: Sequence[str], precisions: Sequence[PrecisionName]) -> tuple[tuple[str, PrecisionName], ...]:
    """Every format with every precision that was asked for and that it has."""
    if unknown := [precision for precision in precisions if precision not in PRECISIONS]:
        raise UsageError("unknown precision", expected=" | ".join(PRECISIONS), got=unknown[0])
    for format in formats:
        have = FORMATS[format].precisions
        if not set(have) & set(precisions):
            got = ", ".join(precisions) or "none"
            raise UsageError("format has no such precision", where=format, expected=" | ".join(have), got=got)
    ordered = [precision for precision in PRECISIONS if precision in precisions]
    return tuple(
        (format, precision) for precision in ordered for format in formats if precision in FORMATS[format].precisions
    )


def _name(part: Part, format: str, precision: PrecisionName) -> str:
    return f"{part}{infix(precision)}{FORMATS[format].suffix}"


def _not_here(format: str, files: Mapping[Part, FileContent], contract: Contract) -> str | None:
    """Why nothing on this machine runs these files of a format, or None where something does."""
    reason = None
    for provider in FORMATS[format].providers():
        if FORMATS[format].may_crash:
            scenes = [Trial(part, part, format, provider, content) for part, content in files.items()]
            if ends := crash_check(scenes, contract):
                reason = f"{format}/{provider} crashed; got {next(iter(ends.values()))}"
                continue
        try:
            for part, content in files.items():
                FORMATS[format].open(content, contract.spec(part), FORMATS[format].session_options(provider)[0])
        except TargetError as error:
            reason = error.line()
        else:
            return None
    return reason


def _check_out(out: Path, *, force: bool) -> None:
    check_free(out, force=force)
    # `--force` replaces an export: it must not take away a folder of something else.
    if out.exists() and not (out / MANIFEST).exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(
            "not an export folder", where=out, expected=f"a folder with {MANIFEST}", do="choose another --out"
        )


def _metadata(spec: PartSpec, provenance: Mapping[str, Any]) -> dict[str, str]:
    """What every file says about itself."""
    return {
        "vae_export.part": spec.part,
        "vae_export.contract": json.dumps(spec.to_json(), sort_keys=True),
        "vae_export.provenance": json.dumps(provenance, sort_keys=True, allow_nan=False),
    }
