"""`verify`: is what lies in an export folder, or in one ONNX file, what PyTorch computes?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vae_export.cli import console
from vae_export.cli.options import ForceOption, JsonOption, RunOption, chosen_run
from vae_export.contract import PARTS, Contract, Part
from vae_export.errors import ParityError, UsageError
from vae_export.extras import require
from vae_export.files import check_free, write_atomic
from vae_export.runs import Run

if TYPE_CHECKING:
    from vae_export.artifact import Artifact
    from vae_export.parity import Certificate, Row, Tolerance


def verify(
    run: RunOption = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", help="Checkpoint to compare with. Default: the run's.", show_default=False),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option("--export", help="Export folder. Default: export/ in the run folder.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", help="One model file without a manifest, in place of an export.", show_default=False),
    ] = None,
    part: Annotated[
        str | None, typer.Option("--part", metavar="|".join(PARTS), help="What --file is.", show_default=False)
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            help="format/provider, such as onnx/CPUExecutionProvider. Repeatable. Default: all that run here.",
            show_default=False,
        ),
    ] = None,
    atol: Annotated[
        float | None,
        typer.Option("--atol", help="Your own band, absolute, in place of the measured one.", show_default=False),
    ] = None,
    rtol: Annotated[
        float | None,
        typer.Option("--rtol", help="The same, relative to an output's largest value.", show_default=False),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Batches up to 64, one thread, lowest and highest optimisation.")
    ] = False,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", help="Fail if worse than this certificate.json.", show_default=False),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Load TorchScript and .pt2 of unknown origin: they are programs.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Where the certificate goes. Default: beside what is verified.", show_default=False),
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Compare exported files with PyTorch.

    Every part, format, target, batch size and probe; the certificate says each figure. Exits 3 for a file that cannot
    be read, 4 where it is not the one that was exported, 5 where it does not compute what PyTorch computes or is worse
    than --baseline, 6 where a --target cannot run.
    """
    if file is not None and (export is not None or part not in PARTS):
        raise UsageError("--file needs --part, and no --export", expected=" | ".join(PARTS), got=part)
    if file is None and part is not None:
        raise UsageError("--part goes with --file", got=part, do="an export is verified whole")
    if out is not None:
        if out.suffix == ".html":
            raise UsageError("--out is for the JSON; the page goes beside it", where=out, expected="a name in .json")
        for path in (out, out.with_suffix(".html")):
            check_free(path, force=force)
    require("export")
    from vae_export.parity import Tolerance, read_baseline, regressions

    tolerance = None if atol is None and rtol is None else Tolerance(atol or 0.0, rtol or 0.0)
    before = None if baseline is None else read_baseline(baseline)
    if checkpoint is None or (export is None and file is None):
        chosen = Run(checkpoint.parent) if checkpoint is not None and run is None else chosen_run(run)
        checkpoint, export = checkpoint or chosen.checkpoint, export or chosen.export
    place = out or (
        file.with_name(f"{file.name}.certificate.json") if file else (export or checkpoint.parent) / "certificate.json"
    )
    if baseline is not None and baseline.resolve() == place.resolve():
        raise UsageError("the baseline would be overwritten", where=baseline, do="keep it elsewhere, or pass --out")
    certificate = _compare(checkpoint, export, file, part, target, tolerance, quick, trust, place)
    worse = [] if before is None else regressions(before, certificate.to_json())
    if json:
        console.result_json(certificate.to_json() | ({} if before is None else {"regressions": worse}))
    else:
        _show(certificate, place)
        for line in worse:
            console.result(f"worse than the baseline: {line}")
    certificate.require()
    if worse:
        raise ParityError(f"worse than the baseline in {len(worse)} ways", where=baseline, got=worse[0])
    if not json:
        console.result(f"pass: {len(certificate.rows):,} comparisons")


def _compare(
    checkpoint: Path,
    export: Path | None,
    file: Path | None,
    part: str | None,
    targets: list[str] | None,
    tolerance: Tolerance | None,
    quick: bool,
    trust: bool,
    place: Path,
) -> Certificate:
    """Verify, and write the certificate to `place`. A failed one is written too: it is the evidence."""
    from vae_export.artifact import open_artifact
    from vae_export.checkpoint import load_checkpoint
    from vae_export.parity import verify as compare
    from vae_export.report import certificate_page

    if file is not None:
        loaded = load_checkpoint(checkpoint)
        name: Part = next(known for known in PARTS if known == part)
        artifact = _of_file(file, name, loaded.config.contract, trust=trust)
    else:
        artifact = open_artifact(export or checkpoint.parent)
        loaded = load_checkpoint(checkpoint)
    certificate = compare(
        artifact, loaded, targets=targets, tolerance=tolerance, thorough=not quick, trust=trust, report=console.message
    )
    certificate.write(place)
    write_atomic(place.with_suffix(".html"), certificate_page(certificate, artifact.manifest).encode())
    return certificate


def _of_file(file: Path, part: Part, contract: Contract, *, trust: bool) -> Artifact:
    """A single file as an artifact; an ONNX file passes every check for files of unknown origin first."""
    from vae_export.artifact import Artifact
    from vae_export.formats import FORMATS
    from vae_export.manifest import NOT_STATED, FileEntry, Manifest

    format = next((format for format in FORMATS.values() if file.name.endswith(format.suffix)), None)
    if format is None:
        endings = " | ".join(format.suffix for format in FORMATS.values())
        raise UsageError("unknown format", where=file, expected=f"a name that ends in {endings}")
    if format.is_program:
        if not trust:
            do = "pass --trust if you know who made it"
            raise UsageError(f"a {format.name} file is a program that loading runs", where=file, do=do)
        data = file.read_bytes()
    else:
        from vae_export.admission import admit

        data = admit(file, contract, part)
    entry = FileEntry.of(file.name, part, format.name, data)
    return Artifact(file.parent, Manifest(contract, (entry,), NOT_STATED, {}, {}))


def _show(certificate: Certificate, written: Path) -> None:
    console.result(_table(certificate))
    for finding in certificate.findings:
        console.result(finding.line())
    for name, divergence in certificate.divergences.items():
        console.result(f"{name}: {divergence.line()}")
    for name, reason in certificate.unusable.items():
        console.message(f"not verified: {name}: {reason}")
    console.result(f"certificate: {written}, as a page {written.with_suffix('.html').name}")


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
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in certificate.rows:
        groups.setdefault((row.part, row.target, row.output), []).append(row)
    for names, rows in groups.items():
        failed = [row for row in rows if not row.passed]
        measured = [row for row in rows if row.measure.max_abs is not None]
        verdict = f"FAIL ({len(failed)} of {len(rows)})" if failed else "pass"
        if not measured:
            table.add_row(*names, "-", "-", "-", "-", "-", verdict)
            continue
        worst = max(measured, key=lambda row: row.measure.max_abs or 0.0)
        figures = worst.measure
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
