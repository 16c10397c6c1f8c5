"""`export`: write the parts of a run in one or several formats, verified before anything is published."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from vae_export.cli import console
from vae_export.cli.command import choices_option
from vae_export.cli.options import (
    ALL,
    CheckpointOption,
    ForceOption,
    JsonOption,
    MaxGreyLevelsOption,
    MaxNatsOption,
    RunOption,
    budget_of,
    chosen_run,
    refuse_together,
)
from vae_export.cli.verify import show_degradations, show_gaps
from vae_export.contract import PARTS, PIXELS
from vae_export.errors import ParityError
from vae_export.formats import FORMATS, OPSET
from vae_export.io.staging import check_free
from vae_export.precision import FULL, PRECISIONS, PrecisionName
from vae_export.runs import Run
from vae_export.system.extras import require

T = TypeVar("T", bound=str)


def export(
    format: Annotated[
        list[str] | None,
        choices_option(
            "--format",
            [*FORMATS, ALL],
            help="File format; all: every one that can be written here in a few seconds. Repeatable. Default: onnx.",
            section="Files",
        ),
    ] = None,
    part: Annotated[
        list[str] | None,
        choices_option("--part", [*PARTS, ALL], help="Part to export. Repeatable. Default: all.", section="Files"),
    ] = None,
    precision: Annotated[
        list[str] | None,
        choices_option(
            "--precision",
            [*PRECISIONS, ALL],
            help="Numbers inside the files; inputs and outputs are float32. Repeatable. Default: fp32.",
            section="Files",
        ),
    ] = None,
    pixels: Annotated[
        list[str] | None,
        choices_option(
            "--pixels", PIXELS, help="Add a decoder that returns uint8 pixels. Repeatable.", section="Files"
        ),
    ] = None,
    opset: Annotated[int, typer.Option("--opset", help="ONNX operator set.", rich_help_panel="Files")] = OPSET,
    max_grey_levels: MaxGreyLevelsOption = None,
    max_nats: MaxNatsOption = None,
    run: RunOption = None,
    checkpoint: CheckpointOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FOLDER",
            help="Folder to make. Default: export/ in the run folder.",
            show_default=False,
            rich_help_panel="Output",
        ),
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Export a VAE, verified against PyTorch.

    All files are written beside their final place, verified there, and published by one rename. An export that does
    not compute what PyTorch computes leaves nothing behind and exits 5.
    """
    precisions = _chosen(PRECISIONS, precision or [FULL])
    formats = _formats(format or ["onnx"], precisions)
    refuse_together(run=run, checkpoint=checkpoint)
    chosen = Run(checkpoint.parent) if checkpoint is not None else chosen_run(run)
    folder = out if out is not None else chosen.export
    check_free(folder, force=force)
    require("export")

    budget = budget_of(max_grey_levels, max_nats)
    from vae_export.exporter import export as export_files
    from vae_export.models.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint if checkpoint is not None else chosen.checkpoint)
    parts = PARTS if part is None or ALL in part else _chosen(PARTS, part)
    layouts = _chosen(tuple(PIXELS), pixels or [])
    kinds = sum(len(set(FORMATS[name].precisions) & set(precisions)) for name in formats)
    try:
        # Every file is written and then verified.
        with console.report_steps(2 * kinds * (len(parts) + len(layouts)), "writing", "verifying") as report:
            artifact, certificate = export_files(
                loaded,
                folder,
                formats=formats,
                parts=None if part is None or ALL in part else parts,
                pixels=layouts,
                precisions=precisions,
                budget=budget,
                opset=opset,
                force=force,
                leave_out=ALL in (*(format or []), *(precision or [])),
                report=report,
                progress=report.within,
            )
    except ParityError as error:
        advice = "allow more degradation, or leave out this precision" if budget is not None else None
        do = "; ".join(filter(None, [f"nothing was written to {folder}", error.do or advice]))
        raise ParityError(error.what, where=error.where, expected=error.expected, got=error.got, do=do) from error
    if json:
        console.result_json(
            {
                "folder": str(folder),
                "manifest": artifact.manifest.to_json(),
                "verdict": "pass",
                "comparisons": len(certificate.results),
            }
        )
        return
    table = console.table("file", "bytes", "SHA-256", right=["bytes"])
    for stored in artifact.manifest.stored:
        table.add_row(stored.name, f"{stored.size:,}", stored.sha256[:16] + "…")
    console.result(table)
    show_degradations(certificate)
    show_gaps(certificate)
    console.result(f"verified: {len(certificate.results)} comparisons with PyTorch passed")
    console.result(f"exported to {folder}")


def _chosen(known: Iterable[T], names: list[str]) -> tuple[T, ...]:
    """Return the names that were chosen, each once and in the order of `known`; `all` stands for all of them."""
    return tuple(name for name in known if ALL in names or name in names)


def _formats(names: list[str], precisions: tuple[PrecisionName, ...]) -> tuple[str, ...]:
    """Return the formats that were chosen, in the order of the registry.

    `all` stands for those that this machine can write in a few seconds and that have one of the precisions.
    """
    if ALL not in names:
        return _chosen(FORMATS, names)
    writable = []
    for name, format in FORMATS.items():
        reason = format.unavailable()
        if reason is None and not set(format.precisions) & set(precisions):
            reason = f"it has no precision {' or '.join(precisions)}"
        if reason is None and format.is_slow and name not in names:
            reason = f"it takes many seconds a part; to have it too: --format all --format {name}"
        if reason is None:
            writable.append(name)
        else:
            console.message(f"left out: {name}: {reason}")
    return tuple(writable)
