"""`bench`: how fast each exported file is, beside PyTorch and beside what this machine can do at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vae_export.bench.results import BATCHES, THREADS, TIMINGS, BenchPlan
from vae_export.cli import console
from vae_export.cli.command import choices_option, grouped, option_group
from vae_export.cli.options import (
    ALL,
    ForceOption,
    JsonOption,
    NamedModelOptions,
    RunOption,
    SizeOption,
    check_document_free,
    chosen_run,
    out_option,
    run_of,
)
from vae_export.contract import EVERY_PART
from vae_export.errors import TargetError
from vae_export.io.atomic import check_writable, write_atomic
from vae_export.precision import FULL
from vae_export.system.extras import require

if TYPE_CHECKING:
    from rich.table import Table

    from vae_export.bench.results import BenchResult, Timings


@option_group("Measurement")
class MeasurementOptions:
    """The measurements of `bench`; see `BenchPlan`."""

    part: Annotated[
        list[str] | None,
        choices_option("--part", [*EVERY_PART, ALL], help="Part to measure. Repeatable. Default: decoder."),
    ] = None
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="FORMAT/PROVIDER",
            help="Target to measure, such as onnx/CPU, compile/cpu or runtime/CPU. Repeatable. "
            "eager/cpu is always measured. Default: all that run here.",
        ),
    ] = None
    batch: Annotated[
        list[int] | None,
        typer.Option("--batch", help=f"Rows of a call. Repeatable. Default: {', '.join(map(str, BATCHES))}."),
    ] = None
    threads: Annotated[
        list[int] | None,
        typer.Option(
            "--threads",
            help=f"CPU threads within an operator. Repeatable. Default: {', '.join(map(str, THREADS))}.",
        ),
    ] = None
    rounds: Annotated[
        int | None,
        typer.Option(
            "--rounds",
            help=f"Number of measurements of each. Default: {BenchPlan().rounds}, "
            f"with --quick {BenchPlan.quick().rounds}.",
        ),
    ] = None
    quick: Annotated[bool, typer.Option("--quick", help="Short rounds, for a first look.")] = False

    def plan(self) -> BenchPlan:
        """Return the plan; with `--part all` it has every part there is. Raises `UsageError` for a bad value."""
        usual = BenchPlan.quick() if self.quick else BenchPlan()
        chosen = self.part or ["decoder"]
        return replace(
            usual,
            parts=tuple(name for name in EVERY_PART if ALL in chosen or name in chosen),
            batches=tuple(self.batch or BATCHES),
            threads=tuple(self.threads or THREADS),
            rounds=usual.rounds if self.rounds is None else self.rounds,
        )


@grouped
def bench(
    *,
    measurement: MeasurementOptions,
    size: SizeOption = None,
    run: RunOption = None,
    model: NamedModelOptions,
    out: Annotated[Path | None, out_option("FILE", f"JSON file to write. Default: {TIMINGS} in the export.")] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Measure the speed of exported files.

    Measures latency, throughput, memory and load time by part, target, batch size and threads, beside PyTorch and the
    roofline of this machine. Each target runs in its own process, and all take turns, round after round: a crash costs
    one line, and load on the machine slows all alike. Exits 3 for files without a certificate, 5 where it did not
    pass, 6 where a --target cannot run; after a crash of one the figures of the others are kept.
    """
    plan, targets = measurement.plan(), measurement.target
    if size:
        from vae_export.pipeline.inputs import parse_sizes

        plan = replace(plan, sizes=parse_sizes(size))
    named = model.named(run=run)
    chosen = chosen_run(run, exported=True) if named is None else run_of(named)
    place = out or chosen.export / TIMINGS
    check_document_free(place, "vae-export-timings", force=force)
    require("export")

    from vae_export.artifact.certificate import read_certificate
    from vae_export.artifact.folder import open_artifact
    from vae_export.bench.benchmark import bench as measure
    from vae_export.bench.benchmark import full_names
    from vae_export.report import timings_page

    artifact = open_artifact(chosen.export)
    targets = full_names(targets, artifact.manifest)
    if ALL in (measurement.part or ()):
        have = {entry.part for entry in artifact.manifest.files}
        plan = replace(plan, parts=tuple(name for name in EVERY_PART if name in have))
    certificate = read_certificate(artifact.certificate)
    check_writable(place.parent)
    with console.report_steps(plan.rounds * len(plan.parts), "measuring", uncounted=("opening",)) as report:
        timings = measure(artifact, named or chosen.checkpoint, certificate, plan, targets=targets, report=report)
    timings.write(place)
    write_atomic(place.with_suffix(".html"), timings_page(timings, certificate).encode())
    if json:
        console.result_json(timings.to_json())
    else:
        _show(timings)
        console.result(f"timings: {place}, as a page {place.with_suffix('.html').name}")
    for name, reason in timings.unusable.items():
        if name.partition(", ")[2] in (targets or ()):  # the others are measured, and written; but this was asked for
            raise TargetError("measurement did not finish", where=name, got=reason)


def _show(timings: Timings) -> None:
    """Print tables for each part, then the fastest file at each batch size."""
    for part in timings.plan["parts"]:
        for threads in timings.plan["threads"]:
            console.result(f"{part}, {threads} thread{'' if threads == 1 else 's'}: median, times as fast as eager")
            console.result(_speed_table(timings, part, threads))
        console.result(_cost_table(timings, part))
        for batch in timings.plan["batches"]:
            exact, best = timings.best(part, batch, FULL), timings.best(part, batch)
            for text, result in (("float32 file", exact), ("file", best if best != exact else None)):
                if result is not None:
                    console.paragraph(f"fastest {text} for {part}, batch {batch}: {_line(result)}")
    if disturbed := timings.disturbed_rounds:
        total = timings.plan["rounds"] * len(timings.results)
        console.result(f"left out: {disturbed} of {total} measurements, which other programs slowed down")
    for name, reason in timings.unusable.items():
        console.result(f"not measured: {name}: {reason}")


def _speed_table(timings: Timings, part: str, threads: int) -> Table:
    """Return median and speedup by batch size, a line for each subject."""
    from vae_export.report.text import duration

    batches, between = timings.plan["batches"], " " if console.is_wide() else "\n"
    headings = [f"batch {batch}" for batch in batches]
    table = console.table("subject", *headings, right=headings)
    for subject in timings.subjects:
        if subject.part == part:
            results = timings.by_batch(part, subject.name, threads)
            cells = (f"{duration(results[b].p50_seconds)}{between}{results[b].speedup.median:.2f}×" for b in batches)
            table.add_row(console.short_target(subject.name), *cells)
    rooflines = {r.batch: r.seconds for r in timings.rooflines if (r.part, r.threads) == (part, threads)}
    table.add_row("roofline", *(duration(rooflines[batch]) for batch in batches))
    return table


def _cost_table(timings: Timings, part: str) -> Table:
    """Return load time, memory and size of a part's subjects."""
    from vae_export.report.text import duration, size

    headings = ("load", "memory", "file")
    table = console.table("subject", *headings, right=headings)
    for subject in timings.subjects:
        if subject.part == part:
            mine = (r for r in timings.results if (r.part, r.subject) == (part, subject.name))
            file = "" if subject.file_bytes is None else size(subject.file_bytes)
            memory = size(max(result.memory_bytes for result in mine))
            table.add_row(console.short_target(subject.name), duration(subject.load_seconds), memory, file)
    return table


def _line(result: BenchResult) -> str:
    from vae_export.report.text import duration, percent

    text = (
        f"{result.subject} with {result.threads} thread{'' if result.threads == 1 else 's'}, "
        f"{duration(result.p50_seconds)} (p90 {duration(result.p90_seconds)}, p99 {duration(result.p99_seconds)}), "
        f"{result.rows_per_second:,.0f} rows/s, {result.speedup.median:.2f}× eager "
        f"({result.speedup.low:.2f} to {result.speedup.high:.2f})"
    )
    return text if result.roofline_share is None else f"{text}, {percent(result.roofline_share.median)} of the roofline"
