"""`bench`: how fast each exported file is, beside PyTorch and beside what this machine can do at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vae_export.bench.results import BATCHES, THREADS, TIMINGS, Plan
from vae_export.cli import console
from vae_export.cli.command import choices_option
from vae_export.cli.options import ALL, ForceOption, JsonOption, RunOption, chosen_run
from vae_export.contract import EVERY_PART
from vae_export.errors import TargetError, UsageError
from vae_export.io.atomic import check_writable, write_atomic
from vae_export.io.staging import check_free
from vae_export.precision import FULL
from vae_export.system.extras import require

if TYPE_CHECKING:
    from vae_export.bench.results import Figure, Timings


def bench(
    part: Annotated[
        list[str] | None,
        choices_option(
            "--part", [*EVERY_PART, ALL], help="Part to measure. Repeatable. Default: decoder.", section="Measurement"
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="FORMAT/PROVIDER",
            help="Such as onnx/CPUExecutionProvider, compile/cpu or runtime/CPUExecutionProvider. Repeatable. "
            "eager/cpu is always measured. Default: all that run here.",
            show_default=False,
            rich_help_panel="Measurement",
        ),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(
            "--batch",
            help=f"Rows of a call. Repeatable. Default: {', '.join(map(str, BATCHES))}.",
            show_default=False,
            rich_help_panel="Measurement",
        ),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(
            "--threads",
            help=f"CPU threads within an operator. Repeatable. Default: {', '.join(map(str, THREADS))}.",
            show_default=False,
            rich_help_panel="Measurement",
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            "--rounds",
            help=f"Number of measurements of each. Default: {Plan().rounds}, with --quick {Plan.quick().rounds}.",
            show_default=False,
            rich_help_panel="Measurement",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Short rounds, for a first look.", rich_help_panel="Measurement")
    ] = False,
    run: RunOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help=f"JSON file to write. Default: {TIMINGS} in the export.",
            show_default=False,
            rich_help_panel="Output",
        ),
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Measure the speed of exported files.

    Measures latency, throughput, memory and load time by part, target, batch size and threads, beside PyTorch and the
    roofline of this machine. Each target runs in its own process, and all take turns, round after round: a crash costs
    one line, and load on the machine slows all alike. Exits 3 for files without a certificate, 5 where it did not
    pass, 6 where a --target cannot run; after a crash of one the figures of the others are kept.
    """
    usual = Plan.quick() if quick else Plan()
    chosen_parts = part or ["decoder"]
    plan = replace(
        usual,
        parts=tuple(name for name in EVERY_PART if ALL in chosen_parts or name in chosen_parts),
        batches=tuple(batch or BATCHES),
        threads=tuple(threads or THREADS),
        rounds=usual.rounds if rounds is None else rounds,
    )
    if out is not None and out.suffix != ".json":
        raise UsageError("--out is for the JSON; the page goes beside it", where=out, expected="a name in .json")
    chosen = chosen_run(run)
    place = out or chosen.export / TIMINGS
    for path in (place, place.with_suffix(".html")):
        check_free(path, force=force)
    require("export")

    from vae_export.artifact.certificate import read_certificate
    from vae_export.artifact.folder import open_artifact
    from vae_export.bench.benchmark import bench as measure
    from vae_export.report import timings_page

    artifact = open_artifact(chosen.export)
    if ALL in chosen_parts:
        have = {entry.part for entry in artifact.manifest.files}
        plan = replace(plan, parts=tuple(name for name in EVERY_PART if name in have))
    record = read_certificate(artifact.certificate)
    check_writable(place.parent)
    timings = measure(artifact, chosen.checkpoint, record, plan, targets=target, report=console.message)
    timings.write(place)
    write_atomic(place.with_suffix(".html"), timings_page(timings, record).encode())
    if json:
        console.result_json(timings.to_json())
    else:
        _show(timings)
        console.result(f"timings: {place}, as a page {place.with_suffix('.html').name}")
    for name, reason in timings.unusable.items():
        if name.partition(", ")[2] in (target or ()):  # the others are measured, and written; but this was asked for
            raise TargetError("could not be measured to the end", where=name, got=reason)


def _show(timings: Timings) -> None:
    """A table for each part and number of threads; then which file is the quickest at each batch size."""
    for part in timings.plan["parts"]:
        for threads in timings.plan["threads"]:
            console.result(f"{part}, {threads} thread{'' if threads == 1 else 's'}: median, times as fast as eager")
            console.result(_table(timings, part, threads))
        for batch in timings.plan["batches"]:
            exact, best = timings.best(part, batch, FULL), timings.best(part, batch)
            for text, figure in (("float32 file", exact), ("file", best if best != exact else None)):
                if figure is not None:
                    console.result(f"quickest {text} for {part}, batch {batch}: {_line(figure)}")
    for name, reason in timings.unusable.items():
        console.result(f"not measured: {name}: {reason}")


def _table(timings: Timings, part: str, threads: int) -> Table:
    from vae_export.report.text import duration, size

    batches = timings.plan["batches"]
    heads = ("side", *(f"batch {batch}" for batch in batches), "load", "memory", "file")
    table = Table(*heads, box=None, pad_edge=False)
    for side in timings.sides:
        if side.part != part:
            continue
        figures = timings.row(part, side.side, threads)
        cells = [f"{duration(figures[b].p50_seconds)} {figures[b].speedup.median:.2f}×" for b in batches]
        memory = size(max(figure.memory_bytes for figure in figures.values()))
        file = "" if side.file_bytes is None else size(side.file_bytes)
        table.add_row(side.side, *cells, duration(side.load_seconds), memory, file)
    table.add_row("limit", *_limits(timings, part, threads))
    return table


def _limits(timings: Timings, part: str, threads: int) -> list[str]:
    from vae_export.report.text import duration

    limits: Mapping[int, float] = {
        limit.batch: limit.seconds for limit in timings.limits if (limit.part, limit.threads) == (part, threads)
    }
    return [duration(limits[batch]) for batch in timings.plan["batches"]]


def _line(figure: Figure) -> str:
    from vae_export.report.text import duration, percent

    text = (
        f"{figure.side} with {figure.threads} thread{'' if figure.threads == 1 else 's'}, "
        f"{duration(figure.p50_seconds)} (p90 {duration(figure.p90_seconds)}, p99 {duration(figure.p99_seconds)}), "
        f"{figure.rows_per_second:,.0f} rows/s, {figure.speedup.median:.2f}× eager "
        f"({figure.speedup.low:.2f} to {figure.speedup.high:.2f})"
    )
    return text if figure.reached is None else f"{text}, {percent(figure.reached.median)} of the limit"
