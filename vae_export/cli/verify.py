"""`verify`: is what lies in an export folder, or in one ONNX file, what PyTorch computes?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from vae_export.artifact.certificate import read_certificate
from vae_export.cli import console
from vae_export.cli.options import (
    CheckpointOption,
    ExportOption,
    ForceOption,
    JsonOption,
    MaxGreyLevelsOption,
    MaxNatsOption,
    RunOption,
    budget_of,
    chosen_run,
)
from vae_export.contract import EVERY_PART, Contract, Part
from vae_export.errors import ParityError, UsageError, VaeExportError
from vae_export.io.atomic import check_writable, write_atomic
from vae_export.io.staging import check_free
from vae_export.runs import Run
from vae_export.system.extras import require

if TYPE_CHECKING:
    from vae_export.artifact.folder import Artifact
    from vae_export.models.checkpoint import Checkpoint
    from vae_export.parity import CaseResult, Certificate


def verify(
    run: RunOption = None,
    checkpoint: CheckpointOption = None,
    export: ExportOption = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            metavar="FILE",
            help="One model file without a manifest, instead of an export.",
            show_default=False,
            rich_help_panel="Model",
        ),
    ] = None,
    part: Annotated[
        Part | None,
        typer.Option("--part", help="Part that --file holds.", show_default=False, rich_help_panel="Model"),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Load a --file in a format other than ONNX: most such files are programs.",
            rich_help_panel="Model",
        ),
    ] = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Batches up to 64, one thread, lowest and highest optimisation.",
            rich_help_panel="Comparison",
        ),
    ] = False,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="FORMAT/PROVIDER",
            help="Such as onnx/CPUExecutionProvider. Repeatable. Default: all that run here.",
            show_default=False,
            rich_help_panel="Comparison",
        ),
    ] = None,
    atol: Annotated[
        float | None,
        typer.Option(
            "--atol",
            help="Absolute tolerance, instead of the measured one.",
            show_default=False,
            rich_help_panel="Comparison",
        ),
    ] = None,
    rtol: Annotated[
        float | None,
        typer.Option(
            "--rtol",
            help="Tolerance relative to an output's largest value, instead of the measured one.",
            show_default=False,
            rich_help_panel="Comparison",
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline",
            metavar="FILE",
            help="certificate.json that the result must not be worse than.",
            show_default=False,
            rich_help_panel="Comparison",
        ),
    ] = None,
    max_grey_levels: MaxGreyLevelsOption = None,
    max_nats: MaxNatsOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Certificate to write. Default: beside the files that are verified.",
            show_default=False,
            rich_help_panel="Output",
        ),
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Compare exported files with PyTorch.

    Compares every part, format, target, batch size and probe, and writes each figure to a certificate. Exits 3 for a
    file that cannot be read, 4 for one that was altered since the export, 5 for one that does not compute what PyTorch
    computes or is worse than --baseline, 6 where a --target cannot run. Only with --force does a weaker certificate
    (--quick, fewer targets, a wider tolerance of your own, no budget where there was one) replace a thorough one.
    """
    if file is not None and (export is not None or part is None):
        raise UsageError("--file needs --part, and no --export", expected=" | ".join(EVERY_PART), got=part)
    if file is None and part is not None:
        raise UsageError("--part goes with --file", got=part, do="an export is verified whole")
    if out is not None:
        if out.suffix != ".json":
            raise UsageError("--out is for the JSON; the page goes beside it", where=out, expected="a name in .json")
        for path in (out, out.with_suffix(".html")):
            check_free(path, force=force)
    require("export")
    from vae_export.parity import Tolerance, read_baseline, regressions
    from vae_export.parity import verify as compare
    from vae_export.parity.certificate_diff import weaker_points
    from vae_export.report import certificate_page

    tolerance = None if atol is None and rtol is None else Tolerance(atol or 0.0, rtol or 0.0)
    budget = budget_of(max_grey_levels, max_nats)
    before = None if baseline is None else read_baseline(baseline)
    if checkpoint is None or (export is None and file is None):
        chosen = Run(checkpoint.parent) if checkpoint is not None and run is None else chosen_run(run)
        checkpoint, export = checkpoint or chosen.checkpoint, export or chosen.export
    place = out or (
        file.with_name(f"{file.name}.certificate.json") if file else (export or checkpoint.parent) / "certificate.json"
    )
    if baseline is not None and baseline.resolve() == place.resolve():
        raise UsageError("the baseline would be overwritten", where=baseline, do="keep it elsewhere, or pass --out")
    artifact, loaded = _opened(checkpoint, export, file, part, quick=quick, trust=trust)
    if not force:
        lost = weaker_points(
            _there(place), artifact.manifest, targets=target, tolerance=tolerance, budget=budget, thorough=not quick
        )
        _refuse_losses(place, lost)
    check_writable(place.parent)
    certificate = compare(
        artifact,
        loaded,
        targets=target,
        tolerance=tolerance,
        budget=budget,
        thorough=not quick,
        trust=trust,
        report=console.message,
    )
    # A failed one is written too: it is the evidence.
    certificate.write(place)
    write_atomic(place.with_suffix(".html"), certificate_page(certificate, artifact.manifest).encode())
    worse = [] if before is None else regressions(before, certificate.to_json())
    if json:
        console.result_json(certificate.to_json() | ({} if before is None else {"regressions": worse}))
    else:
        show(certificate, place)
        for line in worse:
            console.result(f"worse than the baseline: {line}")
    certificate.require()
    if worse:
        raise ParityError(f"worse than the baseline in {len(worse)} ways", where=baseline, got=worse[0])
    if not json:
        console.result(verdict(certificate))


def _opened(
    checkpoint: Path, export: Path | None, file: Path | None, part: Part | None, *, quick: bool, trust: bool
) -> tuple[Artifact, Checkpoint]:
    """What is to be verified, and what it is held against."""
    from vae_export.artifact.folder import open_artifact
    from vae_export.models.checkpoint import load_checkpoint

    if file is None or part is None:
        return open_artifact(export or checkpoint.parent), load_checkpoint(checkpoint)
    loaded = load_checkpoint(checkpoint)
    return _of_file(file, part, loaded.config.contract, quick=quick, trust=trust), loaded


def _there(place: Path) -> Mapping[str, Any]:
    """The document of the certificate that is there; empty where there is none that can be read."""
    try:
        return read_certificate(place).document
    except VaeExportError:
        return {}


def _refuse_losses(place: Path, lost: list[str]) -> None:
    """A look at less does not take the place of a thorough certificate, passed or failed, unasked."""
    if lost:
        raise UsageError(
            "the certificate there is thorough, and would be replaced by one that says less",
            where=place,
            got="; ".join(lost),
            do="pass --out to write elsewhere, or --force to replace it",
        )


def _of_file(file: Path, part: Part, contract: Contract, *, quick: bool, trust: bool) -> Artifact:
    """A single file as an artifact; an ONNX file passes every check for files of unknown origin first."""
    from vae_export.artifact.folder import Artifact
    from vae_export.artifact.manifest import NOT_STATED, FileContent, FileEntry, Manifest
    from vae_export.formats import FORMATS
    from vae_export.parity.reference import BATCHES, QUICK_BATCHES
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
    return Artifact(file.parent, Manifest(contract, (entry,), NOT_STATED, {}, {}))


def show(certificate: Certificate, written: Path) -> None:
    """Everything but the verdict; `written` is where the certificate lies."""
    console.result(_table(certificate))
    for finding in certificate.findings:
        console.result(finding.line())
    for name, divergence in certificate.node_mismatches.items():
        console.result(f"{name}: {divergence.line()}")
    show_drift(certificate)
    show_gaps(certificate)
    console.result(f"certificate: {written}, as a page {written.with_suffix('.html').name}")


def show_drift(certificate: Certificate) -> None:
    """What files of lower precision cost, in pixels and nats."""
    if not certificate.degradations:
        return
    table = Table(
        "part",
        "target",
        "worst, levels",
        "mean, levels",
        "PSNR",
        "−ELBO, 95 %",
        "Fréchet",
        "of samples",
        box=None,
        pad_edge=False,
    )
    for drift in certificate.degradations:
        interval = (
            None if drift.nats is None else f"{drift.nats:+z.3f} ({drift.nats_low:+z.3f} to {drift.nats_high:+z.3f})"
        )
        table.add_row(
            drift.part,
            drift.target,
            _or_dash(drift.worst_levels, "{}"),
            _or_dash(drift.mean_levels, "{:.3f}"),
            _or_dash(drift.psnr, "{:.1f} dB"),
            interval or "-",
            _or_dash(drift.frechet, "{:.2g}"),
            _or_dash(drift.frechet_of_samples, "{:.2g}"),
        )
    console.result(table)
    for line in certificate.over_budget:
        console.result(f"budget missed: {line}")


def _or_dash(figure: float | None, form: str) -> str:
    return "-" if figure is None else form.format(figure)


def show_gaps(certificate: Certificate) -> None:
    """What was not verified: a pass says nothing of it."""
    for line in certificate.gaps:
        console.result(f"not verified: {line}")


def verdict(certificate: Certificate) -> str:
    """The line of a certificate that passed; a band of the user's own is part of it."""
    text = f"pass: {len(certificate.results):,} comparisons"
    if (tolerance := certificate.tolerance) is None:
        return text
    return f"{text}, within your own band: atol {tolerance.atol:g}, rtol {tolerance.rtol:g}"


def _table(certificate: Certificate) -> Table:
    """One line for each part, target and output: where it differs most from PyTorch, and its largest ratio anywhere."""
    heads = (
        "part",
        "target",
        "output",
        "max |Δ|",
        "mean |Δ| there",
        "index",
        "probe",
        "× rounding, at most",
        "verdict",
    )
    table = Table(*heads, box=None, pad_edge=False)
    groups: dict[tuple[str, str, str], list[CaseResult]] = {}
    for row in certificate.results:
        groups.setdefault((row.part, row.target, row.output), []).append(row)
    for names, rows in groups.items():
        failed = [row for row in rows if not row.passed]
        measured = [row for row in rows if row.comparison.max_abs is not None]
        verdict = f"FAIL ({len(failed)} of {len(rows)})" if failed else "pass"
        if not measured:
            table.add_row(*names, "-", "-", "-", "-", "-", verdict)
            continue
        worst = max(measured, key=lambda row: row.comparison.max_abs or 0.0)
        figures = worst.comparison
        table.add_row(
            *names,
            f"{figures.max_abs:.2e}",
            f"{figures.mean_abs:.2e}",
            str(figures.worst_index),
            f"{worst.probe}, batch {worst.batch}",
            f"{max(row.ratio or 0.0 for row in measured):.2f}",
            verdict,
        )
    return table
