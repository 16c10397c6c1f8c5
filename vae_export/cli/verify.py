"""`verify`: is what lies in an export folder still what PyTorch computes?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vae_export.cli import console
from vae_export.cli.options import ForceOption, JsonOption, RunOption, chosen_run
from vae_export.extras import require
from vae_export.files import check_free

if TYPE_CHECKING:
    from vae_export.parity import Certificate, Row


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
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            help="format/provider, such as onnx/CPUExecutionProvider. Repeatable. Default: all that run here.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Where the certificate goes. Default: certificate.json of the export.", show_default=False
        ),
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Compare exported files with PyTorch.

    Every part, format, target, batch size and probe; the certificate says each figure. Exits 4 where a file is not the
    one that was exported, 5 where it does not compute what PyTorch computes, 6 where a --target cannot run.
    """
    if out is not None:
        check_free(out, force=force)
    require("export")
    if checkpoint is None or export is None:
        chosen = chosen_run(run)
        checkpoint, export = checkpoint or chosen.checkpoint, export or chosen.export

    from vae_export.artifact import open_artifact
    from vae_export.checkpoint import load_checkpoint
    from vae_export.exporter import require as require_pass
    from vae_export.parity import verify as compare

    artifact = open_artifact(export)
    loaded = load_checkpoint(checkpoint)
    certificate = compare(artifact, loaded, targets=target, report=console.message)
    # A failed certificate is written too: it is the evidence.
    written = out if out is not None else artifact.certificate
    certificate.write(written)
    if json:
        console.result_json(certificate.to_json())
    else:
        console.result(_table(certificate))
        for name, reason in certificate.unusable.items():
            console.message(f"not verified: {name}: {reason}")
        console.result(f"certificate: {written}")
    require_pass(certificate)
    if not json:
        console.result(f"pass: {len(certificate.rows)} comparisons")


def _table(certificate: Certificate) -> Table:
    """One line for each part, target and output: its worst row, over all probes and batch sizes."""
    table = Table(
        "part",
        "target",
        "output",
        "max |Δ|",
        "mean |Δ|",
        "worst index",
        "probe",
        "error / band",
        "verdict",
        box=None,
        pad_edge=False,
    )
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in certificate.rows:
        groups.setdefault((row.part, row.target, row.output), []).append(row)
    for names, rows in groups.items():
        failed = [row for row in rows if not row.passed]
        worst = max(
            failed or rows, key=lambda row: float("inf") if row.measure.max_abs is None else row.measure.max_abs
        )
        figures = worst.measure
        cells = (
            ("-", "-", "-", worst.probe, worst.reason)
            if figures.fault is not None or figures.error is None
            else (
                f"{figures.max_abs:.2e}",
                f"{figures.mean_abs:.2e}",
                str(figures.worst_index),
                f"{worst.probe}, batch {worst.batch}",
                f"{figures.error / worst.band:.2f}",
            )
        )
        table.add_row(*names, *cells, f"FAIL ({len(failed)} of {len(rows)})" if failed else "pass")
    return table
