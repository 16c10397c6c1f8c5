"""`export`: write the parts of a run in one or several formats, verified before anything is published."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from vae_export.cli import console
from vae_export.cli.certificate import show_drift, show_gaps
from vae_export.cli.options import (
    ForceOption,
    JsonOption,
    MaxGreyLevelsOption,
    MaxNatsOption,
    RunOption,
    budget_of,
    chosen_run,
)
from vae_export.contract import PARTS, PIXELS, Part, Pixels
from vae_export.errors import UsageError
from vae_export.formats import FORMATS, OPSET
from vae_export.io.staging import check_free
from vae_export.precision import FULL, PRECISIONS, PrecisionName
from vae_export.runs import Run
from vae_export.system.extras import require

ALL = "all"


def export(
    format: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="|".join([*FORMATS, ALL]),
            help="File format; all is every one that can be written here without long compiling. Repeatable.",
            show_default="onnx",
        ),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option("--part", metavar="|".join([*PARTS, ALL]), help="What to export. Repeatable.", show_default=ALL),
    ] = None,
    pixels: Annotated[
        list[str] | None,
        typer.Option(
            "--pixels",
            metavar="|".join(PIXELS),
            help="One decoder more, which gives bytes for a screen. Repeatable.",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            metavar="|".join([*PRECISIONS, ALL]),
            help="Numbers inside the files; inputs and outputs are float32. Repeatable.",
            show_default=FULL,
        ),
    ] = None,
    max_grey_levels: MaxGreyLevelsOption = None,
    max_nats: MaxNatsOption = None,
    opset: Annotated[int, typer.Option("--opset", help="ONNX operator set.")] = OPSET,
    run: RunOption = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Checkpoint file. Default: the run's.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to make. Default: export/ in the run folder.", show_default=False),
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Export a VAE, verified against PyTorch.

    All files are written beside their place, verified there, and published by one rename: an export that does not
    compute what PyTorch computes leaves nothing, and exits 5.
    """
    precisions = _precisions(precision or [FULL])
    formats = _formats(format or ["onnx"], precisions)
    parts = _parts(part or [ALL])
    layouts = _pixels(pixels or [])
    if checkpoint is not None and run is not None:
        raise UsageError("--run and --checkpoint exclude each other", do="name one of them")
    chosen = Run(checkpoint.parent) if checkpoint is not None else chosen_run(run)
    folder = out if out is not None else chosen.export
    check_free(folder, force=force)
    require("export")

    budget = budget_of(max_grey_levels, max_nats)
    from vae_export.exporter import export as export_files
    from vae_export.models.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint if checkpoint is not None else chosen.checkpoint)
    artifact, certificate = export_files(
        loaded,
        folder,
        formats=formats,
        parts=parts,
        pixels=layouts,
        precisions=precisions,
        budget=budget,
        opset=opset,
        force=force,
        leave_out=ALL in (*(format or []), *(precision or [])),
        report=console.message,
    )
    if json:
        console.result_json(
            {
                "folder": str(folder),
                "manifest": artifact.manifest.to_json(),
                "verdict": "pass",
                "comparisons": len(certificate.rows),
            }
        )
        return
    table = Table("file", "bytes", "SHA-256", box=None, pad_edge=False)
    for stored in artifact.manifest.stored:
        table.add_row(stored.name, f"{stored.size:,}", stored.sha256[:16] + "…")
    console.result(table)
    show_drift(certificate)
    show_gaps(certificate)
    console.result(f"verified: {len(certificate.rows)} comparisons with PyTorch passed")
    console.result(f"exported to {folder}")


def _precisions(names: list[str]) -> tuple[PrecisionName, ...]:
    """The precisions that were asked for; `all` means those of each format."""
    _refuse_unknown("precision", names, PRECISIONS)
    return tuple(precision for precision in PRECISIONS if ALL in names or precision in names)


def _formats(names: list[str], precisions: tuple[PrecisionName, ...]) -> tuple[str, ...]:
    """The formats that were asked for, in the order of the registry.

    `all` means all that this machine can write without long compiling, and that have one of the precisions.
    """
    _refuse_unknown("format", names, FORMATS)
    if ALL not in names:
        return tuple(name for name in FORMATS if name in names)
    writable = []
    for name, format in FORMATS.items():
        reason = format.unavailable()
        if reason is None and not set(format.precisions) & set(precisions):
            reason = f"has none of {', '.join(precisions)}"
        if reason is None and format.is_slow and name not in names:
            reason = f"it takes many seconds a part; to have it too: --format all --format {name}"
        if reason is None:
            writable.append(name)
        else:
            console.message(f"left out: {name}: {reason}")
    return tuple(writable)


def _parts(names: list[str]) -> tuple[Part, ...] | None:
    """The parts that were asked for; None means all that can be made."""
    _refuse_unknown("part", names, PARTS)
    return None if ALL in names else tuple(part for part in PARTS if part in names)


def _pixels(names: list[str]) -> tuple[Pixels, ...]:
    """The layouts of bytes that were asked for."""
    _refuse_unknown("pixels", names, PIXELS, every=())
    return tuple(layout for layout in PIXELS if layout in names)


def _refuse_unknown(what: str, names: list[str], known: Iterable[str], every: Iterable[str] = (ALL,)) -> None:
    choices = [*known, *every]
    for name in names:
        if name not in choices:
            raise UsageError(f"unknown {what}", expected=" | ".join(choices), got=name)
