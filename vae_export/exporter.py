"""Export a VAE: write the files to a staging folder, verify them, and publish the folder by one rename."""

from __future__ import annotations

import contextlib
import json
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vae_export._version import __version__
from vae_export.artifact.certificate import read_certificate
from vae_export.artifact.folder import CERTIFICATE, Artifact, open_artifact
from vae_export.artifact.golden import GOLDEN_FOLDER
from vae_export.artifact.manifest import MANIFEST, FileContent, FileEntry, Manifest
from vae_export.bundles import Bundle, Key
from vae_export.bundles.reader import check_bundle_free
from vae_export.bundles.signature import signing_key
from vae_export.bundles.writer import NO_LICENCE, write_bundle
from vae_export.capture import CAPTURE_SECONDS, Graph
from vae_export.contract import EVERY_PART, PARTS, PIXELS, Contract, Part, Pixels, float_part
from vae_export.errors import MachineError, ModelError, OutputExistsError, TargetError, UsageError, VaeExportError
from vae_export.formats import FORMATS, OPSET, WriteOptions, versions
from vae_export.io.atomic import write_atomic
from vae_export.io.staging import check_free, check_replaceable, staged_folder
from vae_export.models.checkpoint import Checkpoint
from vae_export.parity import Budget, Certificate, References, golden_vectors, verify
from vae_export.parity.plan import DEFAULT_MINUTES, Limits
from vae_export.parity.size_check import check_translation
from vae_export.precision import CALIBRATED, FULL, PRECISIONS, PrecisionName, infix
from vae_export.report import certificate_page
from vae_export.sandbox.crash_check import Trial, crash_check
from vae_export.sources import Source
from vae_export.system.signals import deferred_signals

#: A regular expression of the paths in an export folder: its files, and what the other commands write beside them.
_EXPORT_FILES = (
    rf"(?:{'|'.join(PARTS)})[-.][^/]+"
    rf"|{GOLDEN_FOLDER}/[^/]+"
    r"|(?:manifest|certificate|timings)\.(?:json|html)"
)


def export(
    source: Source | Checkpoint | References,
    out: str | Path,
    *,
    formats: Sequence[str] = ("onnx",),
    parts: Sequence[Part] | None = None,
    pixels: Sequence[Pixels] = (),
    precisions: Sequence[PrecisionName] = (FULL,),
    budget: Budget | None = None,
    thorough: bool = False,
    minutes: float | None = DEFAULT_MINUTES,
    opset: int = OPSET,
    force: bool = False,
    add: bool = False,
    leave_out: bool = False,
    capture_seconds: float | None = CAPTURE_SECONDS,
    report: Callable[[str], None] = lambda _line: None,
    progress: Callable[[float], None] = lambda _share: None,
) -> tuple[Artifact, Certificate]:
    """Write the parts of a VAE in the given formats to the folder `out`, and verify them there.

    Args:
        source: a checkpoint of this project, or any encoder and decoder with their contract; as `References`, if what
            PyTorch computes for them is wanted again, such as for a later verification.
        out: the folder to create. It appears by one rename, when it is complete and verified.
        formats: names in `vae_export.formats.FORMATS`, each once.
        parts: the parts to export; None exports all parts of the source.
        pixels: layouts of 8-bit images; each adds a decoder that returns uint8 pixels, in fp32 files only.
        precisions: precisions of the numbers in the files. Each format must support at least one of them, and is
            written in each that it supports.
        budget: the largest pixel error and ELBO loss that a lower precision may cause.
        thorough: whether the verification runs every batch size, optimisation level and thread count.
        minutes: time of the verification for each part and format; None for no limit (see `verify`).
        opset: operator set of the ONNX files.
        force: replace an existing export. A folder that is not an export is never replaced.
        add: add the files to the export in `out`, which must be of the same model, written by the same versions. All
            files are verified together, as thoroughly as those that are there, and published by one rename.
        leave_out: leave out a lower precision that this machine cannot run, and report it, instead of failing. It
            depends on the layers: OpenVINO computes some of them in bfloat16 and others not.
        capture_seconds: the seconds that capturing may take, after which the export is refused; None for no limit.
            Symbolic sizes can take minutes in large networks.
        report: called with one line of text at each step, and at the end with the seconds of each step.
        progress: called with the share of the present step that is done, during golden vectors and verification.

    Returns:
        The published artifact and its certificate.

    Raises:
        UsageError: an unknown format, part, layout, precision or opset, or an `out` that exists.
        ModelError: modules that do not keep the contract or that draw random numbers; too few images to calibrate with.
        MachineError: a format that this machine cannot write or run; a full disk.
        ParityError: a file does not compute what PyTorch computes, or exceeds its budget. Nothing is published.
    """
    Limits.of(minutes, 0)  # a bad number is refused before any work
    references = References.of(source)
    captured = references.captured
    captured.seconds = capture_seconds
    plan = _plan(captured.given, formats, parts, pixels, precisions, opset, skip_unusable=leave_out)
    out = Path(out)
    with _advice_in_python(out):
        check_free(out, force=force or add)
    present = open_artifact(out) if add else None
    if force or add:
        _refuse_other_folder(out)
    if (add or force) and not thorough and _is_thorough(out):
        if add:  # all files are verified as thoroughly as those that are there
            thorough = True
        else:
            report("note: replaces a thorough certificate by a shorter one; verify makes a thorough one again")
    present_parts = () if present is None else tuple(entry.part for entry in present.manifest.files)
    watch = Stopwatch()
    with staged_folder(out, force=force or add) as staging:
        with watch.lap("capture"):
            tested = tuple(dict.fromkeys(float_part(part) for part in (*plan.parts, *present_parts)))
            contract = _capture(references, plan, tested, watch, report)
        entries = _write_files(references, plan, staging, watch, report)
        if present is not None:
            _check_same_origin(present, captured.source, contract, entries, opset)
            entries = _with_present_files(present, entries, staging)
        with watch.lap("golden vectors"):
            report("computing golden vectors")
            golden, arrays = golden_vectors(references, tested, [entry.precision for entry in entries], progress)
            for name, data in arrays.items():
                write_atomic(staging / name, data)
        manifest = Manifest(
            contract,
            entries,
            opset if any("onnx" in FORMATS[entry.format].packages for entry in entries) else None,
            _versions(entries),
            captured.source.provenance,
            golden=golden,
            recommended=() if present is None else present.manifest.recommended,
        )
        write_atomic(staging / MANIFEST, manifest.text)
        artifact = Artifact(staging, manifest)
        with watch.lap("verification"):
            certificate = verify(
                artifact,
                references,
                thorough=thorough,
                minutes=minutes,
                trust=True,
                budget=budget,
                report=report,
                progress=progress,
            )
        certificate.require()
        with watch.lap("certificate"):
            certificate.write(artifact.certificate)
            write_atomic(artifact.certificate.with_suffix(".html"), certificate_page(certificate, manifest).encode())
    report(watch.line())
    return Artifact(out, manifest), certificate


def bundle(
    model: Source | Checkpoint | Artifact | str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    formats: Sequence[str] | None = None,
    parts: Sequence[Part] | None = None,
    precisions: Sequence[PrecisionName] | None = None,
    page: bool = False,
    notes: str = "",
    licence: str = NO_LICENCE,
    sign_key: Key | None = None,
    force: bool = False,
    report: Callable[[str], None] = lambda _line: None,
) -> Bundle:
    """Make a bundle: one file with a verified export and all that an application needs to run it.

    Args:
        model: an export, as a folder or an artifact; or a source or checkpoint, which is exported and verified first.
        out: the file to make, such as faces.zip.
        name: the title of the model card; None takes the model's name, or that of the file.
        formats, parts, precisions: what to take, or to export; None takes all that an export has, and exports ONNX in
            float32.
        page: whether to include the certificate as a page.
        notes: a section of the model card, in Markdown, such as the purpose and limits of the model.
        licence: the text of the model's licence.
        sign_key: the Ed25519 private key to sign with: the path of a PEM file, or its bytes; None does not sign.
        force: replace an existing bundle.
        report: called with one line of text at each step of an export.

    Returns:
        The bundle, read back and checked.

    Raises:
        OutputExistsError: `out` exists, and `force` was not given.
        VaeExportError: what `export` and `vae_export.bundles.writer.pack` raise.
    """
    out = Path(out)
    with _advice_in_python(out):
        check_bundle_free(out, force=force)
    key = None if sign_key is None else signing_key(sign_key)
    if isinstance(model, str | Path):
        model = open_artifact(model)
    with contextlib.ExitStack() as stack:
        if not isinstance(model, Artifact):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "export"
            model, _ = export(
                model,
                folder,
                formats=formats or ("onnx",),
                parts=parts,
                precisions=precisions or (FULL,),
                report=report,
            )
        return write_bundle(
            model,
            out,
            name=name or str(model.manifest.provenance.get("name") or out.stem),
            formats=formats,
            parts=parts,
            precisions=precisions,
            page=page,
            notes=notes,
            licence=licence,
            sign_key=key,
            force=force,
        )


@dataclass(frozen=True)
class Variant:
    """One format in one precision. Each part is written once for each variant."""

    format: str
    precision: PrecisionName

    def file_name(self, part: Part) -> str:
        """Return the name of a part's file, such as "decoder.int8.onnx"."""
        return f"{part}{infix(self.precision)}{FORMATS[self.format].suffix}"


@dataclass(frozen=True)
class ExportPlan:
    """The files to write, checked against the source and this machine.

    Attributes:
        parts: the parts to write, in the order of the manifest.
        variants: formats and precisions, float32 first.
        opset: operator set of the ONNX files.
        skip_unusable: whether to leave out a lower precision that this machine cannot run.
    """

    parts: tuple[Part, ...]
    variants: tuple[Variant, ...]
    opset: int
    skip_unusable: bool

    @property
    def is_calibrated(self) -> bool:
        """Whether a precision needs inputs to calibrate with."""
        return any(variant.precision in CALIBRATED for variant in self.variants)


def _plan(
    source: Source,
    formats: Sequence[str],
    parts: Sequence[Part] | None,
    pixels: Sequence[Pixels],
    precisions: Sequence[PrecisionName],
    opset: int,
    *,
    skip_unusable: bool,
) -> ExportPlan:
    """Check all arguments before any work, and return the plan; raise the errors that `export` raises."""
    _check_formats(formats, opset)
    chosen = _chosen_parts(source, parts, pixels)
    variants = _variants(formats, precisions)
    if pixels and set(precisions) != {FULL}:
        got, do = ", ".join(precisions), "export other precisions to a folder of their own"
        raise UsageError("pixels are exported in float32 only", expected=FULL, got=got, do=do)
    contract = source.contract.at()
    for part in chosen:
        for format in formats:
            FORMATS[format].check_part(contract.spec(part))
    return ExportPlan(chosen, variants, opset, skip_unusable)


def _check_formats(formats: Sequence[str], opset: int) -> None:
    if unknown := [format for format in formats if format not in FORMATS]:
        raise UsageError("unknown format", expected=" | ".join(FORMATS), got=unknown[0])
    if not formats or len(set(formats)) != len(formats):
        raise UsageError("formats must be given, each once", got=list(formats))
    for format in formats:
        if (reason := FORMATS[format].unavailable()) is not None:
            raise MachineError(f"format {format} cannot be written here", got=reason)
        FORMATS[format].check(WriteOptions(opset=opset))


def _chosen_parts(source: Source, parts: Sequence[Part] | None, pixels: Sequence[Pixels]) -> tuple[Part, ...]:
    if unknown := [layout for layout in pixels if layout not in PIXELS]:
        raise UsageError("unknown pixels", expected=" | ".join(PIXELS), got=unknown[0])
    if pixels and "decoder" not in source.parts:
        raise UsageError("pixels need a decoder", expected="a source with a decoder", got=" | ".join(source.parts))
    wanted = source.parts if parts is None else parts
    if not wanted:
        raise UsageError("no part was asked for", expected=" | ".join(source.parts))
    if bad := [part for part in wanted if part not in source.parts]:
        raise UsageError("part cannot be made", where=bad[0], expected=" | ".join(source.parts))
    wanted = (*wanted, *(PIXELS[layout] for layout in pixels))
    return tuple(part for part in EVERY_PART if part in wanted)


def _variants(formats: Sequence[str], precisions: Sequence[PrecisionName]) -> tuple[Variant, ...]:
    """Return each format in each requested precision that it supports."""
    if unknown := [precision for precision in precisions if precision not in PRECISIONS]:
        raise UsageError("unknown precision", expected=" | ".join(PRECISIONS), got=unknown[0])
    for format in formats:
        have = FORMATS[format].precisions
        if not set(have) & set(precisions):
            got = ", ".join(precisions) or "none"
            raise UsageError("format has no such precision", where=format, expected=" | ".join(have), got=got)
    return tuple(
        Variant(format, precision)
        for precision in PRECISIONS
        for format in formats
        if precision in precisions and precision in FORMATS[format].precisions
    )


@contextlib.contextmanager
def _advice_in_python(out: Path) -> Iterator[None]:
    """Name the argument in place of the option where an output exists; the command line has asked before."""
    try:
        yield
    except OutputExistsError as error:
        raise OutputExistsError(out, "pass force=True to replace it, or another out") from error


def _refuse_other_folder(out: Path) -> None:
    """Raise `UsageError` unless `out` is an empty folder, or an export and nothing else: `force` must not remove it."""
    if out.exists() and not (out / MANIFEST).exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(
            "not an export folder", where=out, expected=f"a folder with {MANIFEST}", do="choose another --out"
        )
    check_replaceable(out, _EXPORT_FILES, "what export, verify, bench and tune write")


def _is_thorough(out: Path) -> bool:
    """Return whether the export in a folder has a thorough certificate."""
    try:
        return read_certificate(out / CERTIFICATE).document["environment"]["thorough"] is True
    except (VaeExportError, LookupError, TypeError):
        return False


def _check_same_origin(
    present: Artifact, source: Source, contract: Contract, entries: Sequence[FileEntry], opset: int
) -> None:
    """Raise `UsageError` unless an export can take these files: of one model, contract, opset and set of versions."""
    manifest, written_by = present.manifest, _versions(entries)
    has_onnx = any(entry.format == "onnx" for entry in entries)
    differences = {
        "model": manifest.provenance != json.loads(json.dumps(source.provenance)),
        "contract": manifest.contract != contract,
        "ONNX opset": has_onnx and manifest.opset not in (None, opset),
        "version of a package": any(
            manifest.versions.get(name, version) != version for name, version in written_by.items()
        ),
    }
    if different := [name for name, differs in differences.items() if differs]:
        expected, do = "those of the export", "export all files anew with --force"
        got = " and ".join(f"another {name}" for name in different)
        raise UsageError("files cannot be added", where=present.folder, expected=expected, got=got, do=do)


def _with_present_files(present: Artifact, entries: Sequence[FileEntry], folder: Path) -> tuple[FileEntry, ...]:
    """Copy the files of an export that were not written again, and timings, to `folder`; return the entries of all."""
    written = {entry.name for entry in entries}
    kept = [entry for entry in present.manifest.files if entry.name not in written]
    for entry in kept:
        for stored in entry.stored:
            write_atomic(folder / stored.name, present.read(stored))
    for timings in present.folder.glob("timings.*"):
        write_atomic(folder / timings.name, timings.read_bytes())
    return tuple(sorted((*kept, *entries), key=lambda entry: EVERY_PART.index(entry.part)))


def _capture(
    references: References,
    plan: ExportPlan,
    parts: Sequence[Part],
    watch: Stopwatch,
    report: Callable[[str], None],
) -> Contract:
    """Capture all graphs before a file is written, and compute the calibration inputs where a precision needs them.

    Args:
        references: the source, which keeps the graphs and the inputs.
        plan: the files to write.
        parts: the parts that are tested: float parts of the files.
        watch: measures the translations that are made on the way.
        report: called with a line for each part, and for what was narrowed.

    Returns:
        The contract that all graphs keep.
    """
    captured = references.captured
    try:
        contract = captured.narrow(parts, report, partial(_check_translation, plan, watch))
    except ModelError as error:
        raise _naming_other_parts(error, parts) from error
    for note in captured.notes:
        report(note)
    for part in plan.parts:
        captured.graph(part).check_program()
    if plan.is_calibrated:
        report("preparing calibration inputs")
        _ = references.calibration
    return contract


def _naming_other_parts(error: ModelError, parts: Sequence[Part]) -> ModelError:
    """Return the error with the option that exports the parts which it does not speak of."""
    failing = next((part for part in parts if re.match(rf"{part}\b", str(error.where))), None)
    others = [part for part in parts if part not in (failing, "autoencoder")]
    if failing is None or not others:
        return error
    do = f"{error.do + '; ' if error.do else ''}--part {others[0]} leaves the {failing} out"
    return ModelError(error.what, where=error.where, expected=error.expected, got=error.got, do=do)


def _check_translation(plan: ExportPlan, watch: Stopwatch, graph: Graph) -> None:
    """Raise `ModelError` if a file of the plan is ONNX, and the graph cannot be written so for all of its sizes."""
    if any(variant.format == "onnx" for variant in plan.variants):
        with watch.lap("onnx"):
            check_translation(graph, plan.opset)


def _write_files(
    references: References,
    plan: ExportPlan,
    folder: Path,
    watch: Stopwatch,
    report: Callable[[str], None],
) -> tuple[FileEntry, ...]:
    """Write each part in each variant, and return the entries in the order of the parts."""
    entries: list[FileEntry] = []
    for variant in plan.variants:
        contents: Iterable[tuple[Part, FileContent]] = _written(references, plan, variant, watch, report)
        if plan.skip_unusable and variant.precision != FULL:
            contents = list(contents)
            with watch.lap(variant.format):
                reason = _why_unusable(variant.format, dict(contents), references.source.contract)
            if reason is not None:
                report(f"left out: {variant.format} in {variant.precision}: {reason}")
                continue
        for part, content in contents:
            with watch.lap(variant.format):
                entries.append(_save_file(folder, variant, part, content))
            del content  # it can be large, and the next one is about to be made
    if not entries:
        got = ", ".join(dict.fromkeys(variant.precision for variant in plan.variants))
        raise MachineError("no requested format can run on this machine", got=got)
    return tuple(sorted(entries, key=lambda entry: plan.parts.index(entry.part)))


def _written(
    references: References, plan: ExportPlan, variant: Variant, watch: Stopwatch, report: Callable[[str], None]
) -> Iterator[tuple[Part, FileContent]]:
    """Yield the file of each part in a variant, each written when it is asked for."""
    for part in plan.parts:
        report(f"writing {variant.file_name(part)}")
        with deferred_signals(), watch.lap(variant.format):
            content = references.writer.write(part, variant.format, variant.precision, plan.opset)
        yield part, content
        del content


def _save_file(folder: Path, variant: Variant, part: Part, content: FileContent) -> FileEntry:
    """Save a file and its sidecars to a folder, and return its entry of the manifest."""
    name, format = variant.file_name(part), FORMATS[variant.format]
    for stored, data in content.by_name(name).items():
        write_atomic(folder / stored, data)
    return FileEntry.of(
        name,
        part,
        variant.format,
        content,
        variant.precision,
        machine=format.required_machine(content),
        without_vnni=format.without_vnni(variant.precision),
    )


def _why_unusable(format: str, files: Mapping[Part, FileContent], contract: Contract) -> str | None:
    """Return the reason why no provider on this machine can run these files, or None if one can."""
    reason = None
    for provider in FORMATS[format].providers():
        if FORMATS[format].may_crash:
            trials = [Trial(part, part, format, provider, content) for part, content in files.items()]
            if crashes := crash_check(trials, contract):
                reason = f"{format}/{provider} crashed; got {next(iter(crashes.values()))}"
                continue
        try:
            for part, content in files.items():
                FORMATS[format].open(content, contract.spec(part), FORMATS[format].session_options(provider)[0])
        except TargetError as error:
            reason = error.line()
        else:
            return None
    return reason


def _versions(entries: Sequence[FileEntry]) -> dict[str, str]:
    """Return the versions of Python, this package and the packages that wrote these files."""
    ours = {"vae-export": __version__, "python": platform.python_version()}
    return ours | versions({entry.format for entry in entries})


class Stopwatch:
    """A stopwatch that adds up seconds by name, in the order in which each name was first measured."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def lap(self, name: str) -> Iterator[None]:
        """Measure the block without the laps inside, and add its seconds to those of earlier blocks of this name."""
        self.seconds.setdefault(name, 0.0)
        started, before = time.perf_counter(), sum(self.seconds.values())
        try:
            yield
        finally:
            inside = sum(self.seconds.values()) - before
            self.seconds[name] += time.perf_counter() - started - inside

    def line(self) -> str:
        """Return all laps as one line, such as "took 9.1 s: onnx 3.2, golden vectors 1.4, verification 4.5"."""
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.seconds.items())
        return f"took {sum(self.seconds.values()):.1f} s: {parts}"
