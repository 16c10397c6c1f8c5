"""`export`: write the parts of a run in one or several formats, verified before anything is published."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from vae_export.artifact.manifest import MANIFEST
from vae_export.cli import console
from vae_export.cli.command import choices_option, grouped, option_group
from vae_export.cli.options import (
    ALL,
    BudgetOptions,
    CheckpointOption,
    EffortOptions,
    ForceOption,
    JsonOption,
    NamedModelOptions,
    RunOption,
    chosen_run,
    opened,
    out_option,
    refuse_together,
    run_of,
)
from vae_export.cli.verify import BETWEEN_FILES, show_degradations, show_gaps
from vae_export.contract import PARTS, PIXELS
from vae_export.errors import OutputExistsError, ParityError, UsageError
from vae_export.formats import FORMATS, OPSET
from vae_export.io.staging import check_free
from vae_export.precision import FULL, PRECISIONS, PrecisionName
from vae_export.runs import Run
from vae_export.system.extras import require

if TYPE_CHECKING:
    from vae_export.artifact.folder import Artifact
    from vae_export.models.checkpoint import Checkpoint
    from vae_export.parity import Certificate
    from vae_export.sources import NamedModel, Source

T = TypeVar("T", bound=str)


@option_group("Files")
class OutputFileOptions:
    """The files to write."""

    format: Annotated[
        list[str] | None,
        choices_option(
            "--format",
            [*FORMATS, ALL],
            help="File format; all: every one that can be written here in a few seconds. Repeatable. Default: onnx.",
        ),
    ] = None
    part: Annotated[
        list[str] | None,
        choices_option("--part", [*PARTS, ALL], help="Part to export. Repeatable. Default: all."),
    ] = None
    precision: Annotated[
        list[str] | None,
        choices_option(
            "--precision",
            [*PRECISIONS, ALL],
            help="Numbers inside the files; inputs and outputs are float32. Repeatable. Default: fp32.",
        ),
    ] = None
    pixels: Annotated[
        list[str] | None,
        choices_option("--pixels", PIXELS, help="Add a decoder that returns uint8 pixels. Repeatable."),
    ] = None
    opset: Annotated[
        int, typer.Option("--opset", help="ONNX operator set; one below 18 only where it can express the model.")
    ] = OPSET
    capture_minutes: Annotated[
        float,
        typer.Option(
            "--capture-minutes", min=0, help="Most minutes to capture the parts with torch.export; 0: no limit."
        ),
    ] = 10.0


@grouped
def export(
    *,
    files: OutputFileOptions,
    effort: EffortOptions,
    budget: BudgetOptions,
    run: RunOption = None,
    checkpoint: CheckpointOption = None,
    model: NamedModelOptions,
    out: Annotated[Path | None, out_option("FOLDER", "Folder to make. Default: export/ in the run folder.")] = None,
    force: ForceOption = False,
    add: Annotated[
        bool,
        typer.Option(
            "--add", help="Add the files to an export of the same model; all are verified.", rich_help_panel="Output"
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Export a VAE, verified against PyTorch.

    All files are written beside their final place, verified there, and published by one rename. An export that does
    not compute what PyTorch computes leaves nothing behind and exits 5.
    """
    refuse_together(run=run, checkpoint=checkpoint)
    named = model.named(run=run, checkpoint=checkpoint)
    if named is not None:
        chosen = run_of(named)
    else:
        chosen = Run(checkpoint.parent) if checkpoint is not None else chosen_run(run)
    folder = out if out is not None else chosen.export
    artifact, certificate = export_to(
        folder, files, effort, budget, lambda: _loaded(named, checkpoint or chosen.checkpoint), force=force, add=add
    )
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
    console.result(f"verified: {len(certificate.results):,} comparisons with PyTorch passed")
    console.result(f"exported to {folder}")


def _check_free(folder: Path, *, force: bool) -> None:
    """Raise `OutputExistsError` if a folder exists and `force` is false; an export can be added to as well."""
    try:
        check_free(folder, force=force)
    except OutputExistsError as error:
        if not (folder / MANIFEST).exists():
            raise
        do = "pass --force to replace it, --add to add files to it, or --out to write elsewhere"
        raise OutputExistsError(folder, do) from error


def _loaded(model: NamedModel | None, checkpoint: Path) -> Source | Checkpoint:
    from vae_export.models.checkpoint import load_checkpoint

    return load_checkpoint(checkpoint) if model is None else opened(model)


def export_to(
    folder: Path,
    files: OutputFileOptions,
    effort: EffortOptions,
    budget: BudgetOptions,
    load: Callable[[], Source | Checkpoint],
    *,
    force: bool,
    add: bool = False,
) -> tuple[Artifact, Certificate]:
    """Check the options, load the model and export it to a folder, with progress on stderr."""
    precisions = _chosen(PRECISIONS, files.precision or [FULL])
    formats = _formats(files.format or ["onnx"], precisions)
    refuse_together(force=force, add=add)
    if add and not folder.exists():
        raise UsageError("no export to add to", where=folder, do="export without --add first")
    _check_free(folder, force=force or add)
    require("export")

    from vae_export.exporter import export as export_files
    from vae_export.sources import Source

    source = Source.of(load())
    allowed = budget.budget(source.contract, source.provenance)
    parts = _chosen(PARTS, files.part or [ALL])
    layouts = _chosen(tuple(PIXELS), files.pixels or [])
    kinds = sum(len(set(FORMATS[name].precisions) & set(precisions)) for name in formats)
    try:
        graphs = len(parts) + len(layouts)
        # Each graph is captured, each file is written and verified, and golden vectors are one step.
        with console.report_steps(
            graphs + 2 * kinds * graphs + 1,
            *("capturing", "writing", "computing", "verifying"),
            uncounted=("preparing", *BETWEEN_FILES),
        ) as report:
            return export_files(
                source,
                folder,
                formats=formats,
                parts=None if ALL in (files.part or [ALL]) else parts,
                pixels=layouts,
                precisions=precisions,
                budget=allowed,
                thorough=effort.thorough,
                minutes=effort.minutes,
                opset=files.opset,
                capture_seconds=60 * files.capture_minutes or None,
                force=force,
                add=add,
                leave_out=ALL in (*(files.format or []), *(files.precision or [])),
                report=report,
                progress=report.within,
            )
    except ParityError as error:
        advice = "allow more degradation, or leave out this precision" if allowed is not None else None
        do = "; ".join(filter(None, [f"nothing was written to {folder}", error.do or advice]))
        raise ParityError(error.what, where=error.where, expected=error.expected, got=error.got, do=do) from error


def _chosen(known: Iterable[T], names: list[str]) -> tuple[T, ...]:
    """Return the names that were chosen, each once and in the order of `known`; `all` stands for all of them."""
    return tuple(name for name in known if ALL in names or name in names)


def _formats(names: list[str], precisions: tuple[PrecisionName, ...]) -> tuple[str, ...]:
    """Return the formats that were chosen, in the order of the registry.

    `all` stands for those that this machine can write from any network in a few seconds, in one of the precisions.
    """
    if ALL not in names:
        return _chosen(FORMATS, names)
    writable = []
    for name, format in FORMATS.items():
        reason = format.unavailable()
        if reason is None and not set(format.precisions) & set(precisions):
            reason = f"it has no precision {' or '.join(precisions)}"
        if reason is None and format.left_out_of_all and name not in names:
            reason = f"{format.left_out_of_all}; to have it too: --format all --format {name}"
        if reason is None:
            writable.append(name)
        else:
            console.note(f"left out: {name}: {reason}")
    return tuple(writable)
