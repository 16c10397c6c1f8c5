"""`verify`: compare an export folder, or one model file, with PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vae_export.artifact.certificate import METRIC, read_certificate
from vae_export.artifact.folder import CERTIFICATE, open_artifact
from vae_export.cli import console
from vae_export.cli.command import grouped, option_group
from vae_export.cli.options import (
    BudgetOptions,
    CheckpointOption,
    EffortOptions,
    ExportOption,
    ForceOption,
    JsonOption,
    NamedModelOptions,
    RunOption,
    check_document_free,
    chosen_run,
    opened,
    out_option,
    refuse_together,
    run_of,
)
from vae_export.contract import EVERY_PART, Contract, Part
from vae_export.errors import ParityError, UsageError, VaeExportError
from vae_export.io.atomic import check_writable, write_atomic
from vae_export.runs import Run
from vae_export.system.extras import require

if TYPE_CHECKING:
    from rich.table import Table

    from vae_export.artifact.folder import Artifact
    from vae_export.models.checkpoint import Checkpoint
    from vae_export.parity import CaseResult, Certificate, Degradation, Tolerance
    from vae_export.sources import NamedModel, Source


#: First words of the lines with which `vae_export.parity.verify` begins work that belongs to no single file.
BETWEEN_FILES = ("trying", "measuring")


@option_group("Single file")
class SingleFileOptions:
    """A file that is verified instead of an export."""

    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="One model file without a manifest, instead of an export."),
    ] = None
    part: Annotated[Part | None, typer.Option("--part", help="Part that --file holds.")] = None
    trust: Annotated[
        bool,
        typer.Option(
            "--trust", help="Load a --file in a format other than ONNX, or a changed .pt2: these are programs."
        ),
    ] = False


@option_group("Comparison")
class ComparisonOptions:
    """The extent of the comparison, and what its result is held against."""

    quick: Annotated[
        bool, typer.Option("--quick", help="Batches up to 64, one thread, lowest and highest optimisation.")
    ] = False
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="FORMAT/PROVIDER",
            help="Target to verify, such as onnx/CPU. Repeatable. Default: all that run here.",
        ),
    ] = None
    atol: Annotated[float | None, typer.Option("--atol", help="Absolute tolerance, instead of the measured one.")] = (
        None
    )
    rtol: Annotated[
        float | None,
        typer.Option("--rtol", help="Tolerance relative to an output's largest value, instead of the measured one."),
    ] = None
    allow_unreproduced: Annotated[
        bool,
        typer.Option(
            "--allow-unreproduced",
            help="Judge a file by its outputs alone where it is not what export writes from this model.",
        ),
    ] = False
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="FILE", help="certificate.json that the result must not be worse than."),
    ] = None

    def tolerance(self) -> Tolerance | None:
        """Return the user's own tolerance, None where none was passed. Raises `UsageError` for a bad number."""
        if self.atol is None and self.rtol is None:
            return None
        from vae_export.parity import Tolerance

        return Tolerance(self.atol or 0.0, self.rtol or 0.0)


@grouped
def verify(
    *,
    run: RunOption = None,
    checkpoint: CheckpointOption = None,
    export: ExportOption = None,
    model: NamedModelOptions,
    single: SingleFileOptions,
    comparison: ComparisonOptions,
    effort: EffortOptions,
    budget: BudgetOptions,
    out: Annotated[
        Path | None, out_option("FILE", "Certificate to write. Default: beside the files that are verified.")
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
    rows: Annotated[
        bool,
        typer.Option("--rows", help="With --json: print every test case too.", rich_help_panel="Output"),
    ] = False,
) -> None:
    """Compare exported files with PyTorch.

    Compares every part, format, target, batch size and probe, and writes each figure to a certificate. Exits 3 for a
    file that cannot be read, 4 for one that was altered since the export, 5 for one that does not compute what PyTorch
    computes or is worse than --baseline, 6 where a --target cannot run. Only with --force does a weaker certificate
    (--quick, fewer targets, a wider tolerance of your own, no budget where there was one, --allow-unreproduced) replace
    a thorough one.
    """
    _refuse_combinations(single, comparison, effort, export, json=json, rows=rows)
    if out is not None:
        check_document_free(out, "vae-export-certificate", force=force)
    require("export")
    from vae_export.parity import read_baseline
    from vae_export.parity import verify as compare
    from vae_export.parity.certificate_diff import weaker_points
    from vae_export.report import certificate_page
    from vae_export.sources import Source

    if export is not None:
        open_artifact(export)  # a wrong folder is named before a run is looked for
    targets, tolerance = comparison.target, comparison.tolerance()
    before = None if comparison.baseline is None else read_baseline(comparison.baseline)
    named = model.named(run=run, checkpoint=checkpoint)
    checkpoint, export = _places(run, checkpoint, export, single.file, named)
    place = out or _certificate_place(checkpoint, export, single.file)
    if comparison.baseline is not None and comparison.baseline.resolve() == place.resolve():
        do = "keep it elsewhere, or pass --out"
        raise UsageError("the baseline would be overwritten", where=comparison.baseline, do=do)
    artifact, loaded = _opened(checkpoint, export, single, named, targets, quick=comparison.quick)
    source = Source.of(loaded)
    allowed = budget.budget(source.contract, source.provenance)

    def refuse_weaker(*, thorough: bool) -> None:
        if not force:
            lost = weaker_points(
                _present_document(place),
                artifact.manifest,
                targets=targets,
                tolerance=tolerance,
                budget=allowed,
                thorough=thorough,
                allow_unreproduced=comparison.allow_unreproduced,
            )
            _refuse_weaker(place, lost)

    refuse_weaker(thorough=not comparison.quick)
    check_writable(place.parent)
    with console.report_steps(_files_to_verify(artifact, targets), "verifying", uncounted=BETWEEN_FILES) as report:
        certificate = compare(
            artifact,
            source,
            targets=targets,
            tolerance=tolerance,
            budget=allowed,
            thorough=not comparison.quick,
            minutes=effort.minutes,
            trust=single.trust,
            allow_unreproduced=comparison.allow_unreproduced,
            report=report,
            progress=report.within,
        )
    # Only the verification itself finds out that a network is too costly for every test case.
    refuse_weaker(thorough=certificate.environment["thorough"] or not certificate.passed)
    # A failed certificate is written too: it shows what failed.
    certificate.write(place)
    write_atomic(place.with_suffix(".html"), certificate_page(certificate, artifact.manifest).encode())
    document = certificate.to_json()
    compared = {} if before is None else _compared_with_baseline(before, document)
    if json:
        console.result_json((document if rows else certificate.summary()) | compared)
    else:
        show(certificate, place)
        _show_baseline(compared, comparison.baseline)
    certificate.require()
    _require_not_worse(compared, comparison.baseline)
    if not json:
        console.result(verdict(certificate))


def _refuse_combinations(
    single: SingleFileOptions,
    comparison: ComparisonOptions,
    effort: EffortOptions,
    export: Path | None,
    *,
    json: bool,
    rows: bool,
) -> None:
    """Raise `UsageError` for options that do not go together."""
    refuse_together(quick=comparison.quick, thorough=effort.thorough)
    if rows and not json:
        raise UsageError("--rows goes with --json", do="add --json, or read certificate.json")
    if single.file is not None and (export is not None or single.part is None):
        raise UsageError("--file needs --part, and no --export", expected=" | ".join(EVERY_PART), got=single.part)
    if single.file is None and single.part is not None:
        raise UsageError("--part goes with --file", got=single.part, do="leave out --part to verify an export")


def _places(
    run: Path | None, checkpoint: Path | None, export: Path | None, file: Path | None, model: NamedModel | None
) -> tuple[Path, Path | None]:
    """Return the paths of the checkpoint and the export; those that were not passed are the run's."""
    if model is not None:
        return run_of(model).checkpoint, export or run_of(model).export
    if checkpoint is not None and (export is not None or file is not None):
        return checkpoint, export
    chosen = _run_of_files(checkpoint, export) if run is None else None
    chosen = chosen or chosen_run(run, exported=export is None and file is None)
    return checkpoint or chosen.checkpoint, export or chosen.export


def _certificate_place(checkpoint: Path, export: Path | None, file: Path | None) -> Path:
    """Return the path of the certificate, beside the files that are verified."""
    if file is not None:
        return file.with_name(f"{file.name}.{CERTIFICATE}")
    return (export or checkpoint.parent) / CERTIFICATE


def _compared_with_baseline(before: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of the JSON about a baseline."""
    from vae_export.parity.certificate_diff import is_of_another_model, regressions

    return {
        "regressions": regressions(before, document),
        "baseline_of_another_model": is_of_another_model(before, document),
    }


def _show_baseline(compared: Mapping[str, Any], baseline: Path | None) -> None:
    """Print where the result is worse than the baseline, if there is one."""
    if compared.get("baseline_of_another_model"):
        console.result(f"baseline of another model: {baseline}")
    for line in compared.get("regressions", ()):
        console.result(f"worse than the baseline: {line}")


def _require_not_worse(compared: Mapping[str, Any], baseline: Path | None) -> None:
    """Raise `ParityError` if the result is worse than the baseline."""
    if worse := compared.get("regressions"):
        other = " of another model" if compared["baseline_of_another_model"] else ""
        points = "1 point" if len(worse) == 1 else f"{len(worse)} points"
        raise ParityError(f"worse than the baseline{other} in {points}", where=baseline, got=worse[0])


def _run_of_files(checkpoint: Path | None, export: Path | None) -> Run | None:
    """Return the run that a checkpoint or an export lies in, or None."""
    if checkpoint is not None:
        return Run(checkpoint.parent)
    run = None if export is None else Run(export.absolute().parent)
    return run if run is not None and run.checkpoint.is_file() else None


def _opened(
    checkpoint: Path,
    export: Path | None,
    single: SingleFileOptions,
    model: NamedModel | None,
    targets: Sequence[str] | None,
    *,
    quick: bool,
) -> tuple[Artifact, Source | Checkpoint]:
    """Return the files to verify and the model to compare them with."""
    from vae_export.models.checkpoint import Checkpoint, load_checkpoint
    from vae_export.parity.targets import choose_targets, kinds_of

    if single.file is None or single.part is None:
        artifact = open_artifact(export or checkpoint.parent)
        choose_targets(kinds_of(artifact.manifest), targets)  # a bad one is refused before the model is loaded
        return artifact, load_checkpoint(checkpoint) if model is None else opened(model)
    loaded = load_checkpoint(checkpoint) if model is None else opened(model)
    contract = loaded.config.contract if isinstance(loaded, Checkpoint) else loaded.contract
    return _of_file(single.file, single.part, contract, quick=quick, trust=single.trust), loaded


def _files_to_verify(artifact: Artifact, targets: Sequence[str] | None) -> int:
    """Return how many files the verification reads; a target that no file has is an error later on."""
    formats = None if targets is None else {target.partition("/")[0] for target in targets}
    files = artifact.manifest.known
    return sum(
        formats is None or entry.format in formats or f"{entry.format}+{entry.precision}" in formats for entry in files
    )


def _present_document(place: Path) -> Mapping[str, Any]:
    """Return the document of the certificate at `place`, empty if none can be read."""
    try:
        return read_certificate(place).document
    except VaeExportError:
        return {}


def _refuse_weaker(place: Path, lost: list[str]) -> None:
    """Raise `UsageError` if a thorough certificate, passed or failed, would be replaced by a weaker one."""
    if lost:
        raise UsageError(
            "a weaker certificate would replace a thorough one",
            where=place,
            got="; ".join(lost),
            do="pass --out to write elsewhere, or --force to replace it",
        )


def _of_file(file: Path, part: Part, contract: Contract, *, quick: bool, trust: bool) -> Artifact:
    """Return a single file as an artifact; an ONNX file is checked in the sandbox first."""
    from vae_export.artifact.folder import Artifact
    from vae_export.artifact.manifest import FileContent, FileEntry, Manifest
    from vae_export.formats import FORMATS
    from vae_export.parity.plan import BATCHES, QUICK_BATCHES
    from vae_export.sandbox import read_plain, read_untrusted

    fitting = [format for format in FORMATS.values() if file.name.endswith(format.suffix)]
    if not fitting:
        endings = " | ".join(format.suffix for format in FORMATS.values())
        raise UsageError("unknown format", where=file, expected=f"a name that ends in {endings}")
    format = max(fitting, key=lambda known: len(known.suffix))  # .aoti.pt2 ends in .pt2 too
    if format.danger:
        if not trust:
            do = "pass --trust if you know who made it"
            raise UsageError(f"a file in format {format.name} {format.danger}", where=file, do=do)
        sidecars = {suffix: read_plain(file.with_suffix(suffix)) for suffix in format.sidecars}
        content = FileContent(read_plain(file), sidecars)
    else:
        data = read_untrusted(file, contract, part, batch=max(QUICK_BATCHES if quick else BATCHES))
        content = FileContent(data)
    entry = FileEntry.of(file.name, part, format.name, content)
    return Artifact(file.parent, Manifest(contract, (entry,), None, {}, {}, is_of_single_file=True))


def show(certificate: Certificate, written: Path) -> None:
    """Print everything but the verdict; `written` is the path of the certificate."""
    for part in dict.fromkeys(result.part for result in certificate.results):
        subject = "nats per image" if part == METRIC else part
        console.result(f"{subject}: largest difference from PyTorch in each output")
        console.result(_table(certificate, part))
    for finding in certificate.findings:
        console.result(finding.line())
    for name, mismatch in certificate.node_mismatches.items():
        console.result(f"{name}: {mismatch.line()}")
    show_degradations(certificate)
    show_gaps(certificate)
    console.paragraph(f"certificate: {written}, as a page {written.with_suffix('.html').name}")


def show_degradations(certificate: Certificate) -> None:
    """Print what files of lower precision lose in pixels and nats, and where a budget is missed."""
    if not certificate.degradations:
        return
    is_wide = console.is_wide()
    console.result("degradation: pixels in 8-bit levels, -ELBO in nats")
    columns: dict[str, Callable[[Degradation], str]] = {
        "part": lambda degradation: degradation.part,
        "target": lambda degradation: console.short_target(degradation.target),
        "max level": lambda degradation: _figure(degradation.worst_levels, "{}"),
        "mean level": lambda degradation: _figure(degradation.mean_levels, "{:.3f}"),
        "PSNR": lambda degradation: _figure(degradation.psnr, "{:.1f} dB"),
        "-ELBO, 95 %": lambda degradation: _nats(degradation, "{} ({} to {})" if is_wide else "{}\n({} to {})"),
    }
    if is_wide:
        columns["Fréchet"] = lambda degradation: _figure(degradation.frechet, "{:.2g}")
        columns["of samples"] = lambda degradation: _figure(degradation.frechet_of_samples, "{:.2g}")
    table = console.table(*columns, right=list(columns)[2:])
    for degradation in certificate.degradations:
        table.add_row(*(cell(degradation) for cell in columns.values()))
    console.result(table)
    for line in certificate.over_budget:
        console.result(f"budget missed: {line}")


def _nats(degradation: Degradation, form: str) -> str:
    if degradation.nats is None:
        return "-"
    return form.format(*(f"{n:+z.3f}" for n in (degradation.nats, degradation.nats_low, degradation.nats_high)))


def _figure(figure: float | None, form: str) -> str:
    return "-" if figure is None else form.format(figure)


def show_gaps(certificate: Certificate) -> None:
    """Print what was not verified: a pass says nothing about it."""
    for line in certificate.gaps:
        console.result(f"not verified: {line}")


def verdict(certificate: Certificate) -> str:
    """Return the line of a certificate that passed; it names a tolerance of the user's own."""
    text = f"pass: {len(certificate.results):,} comparisons"
    if unlike := certificate.unreproduced:
        text += f"; by outputs alone, not reproduced: {', '.join(item.file for item in unlike)}"
    if (tolerance := certificate.tolerance) is None:
        return text
    return f"{text}, within your own tolerance: atol {tolerance.atol:g}, rtol {tolerance.rtol:g}"


def _table(certificate: Certificate, part: str) -> Table:
    """Return a line for each target and output of a part.

    It holds the largest absolute difference, the mean difference in that test case, and the largest ratio of a
    difference to the baseline error.
    """
    is_wide = console.is_wide()
    numbers = ("max |Δ|", "mean |Δ|", "× baseline")
    where = ("index", "probe") if is_wide else ()
    table = console.table("target", "output", *numbers, *where, "verdict", right=numbers)
    groups: dict[tuple[str, str], list[CaseResult]] = {}
    for result in certificate.results:
        if result.part == part:
            groups.setdefault((result.target, result.output), []).append(result)
    for (target, output), results in groups.items():
        measured = [result for result in results if result.comparison.max_abs is not None]
        cells = ["-"] * (len(numbers) + len(where))
        if measured:
            worst = max(measured, key=lambda result: result.comparison.max_abs or 0.0)
            ratio = max(result.ratio or 0.0 for result in measured)
            cells = [f"{worst.comparison.max_abs:.2e}", f"{worst.comparison.mean_abs:.2e}", f"{ratio:.2f}"]
            if is_wide:
                cells += [str(worst.comparison.worst_index), f"{worst.probe}, batch {worst.batch}"]
        failed = sum(not result.passed for result in results)
        verdict = f"FAIL ({failed} of {len(results)})" if failed else "pass"
        table.add_row(console.short_target(target), output, *cells, verdict)
    return table
