"""`tune`: find the fastest settings on this machine within a budget of pixels and nats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vae_export.cli import console
from vae_export.cli.command import grouped, option_group
from vae_export.cli.options import (
    BudgetOptions,
    ExportOption,
    JsonOption,
    RunOption,
    SizeOption,
    chosen_run,
    refuse_together,
)
from vae_export.io.atomic import check_writable
from vae_export.system.extras import require
from vae_export.tune.plan import TunePlan

if TYPE_CHECKING:
    from vae_export.tune.tuner import TuningResult


#: Candidates are opened and measured in two heats, then variants of the fastest are.
_STEPS = 6


@option_group("Search")
class SearchOptions:
    """The fields of `TunePlan`."""

    part: Annotated[Literal["encoder", "decoder", "autoencoder"], typer.Option("--part", help="Part to tune.")] = (
        "decoder"
    )
    batch: Annotated[int, typer.Option("--batch", help="Rows of a call.")] = TunePlan.batch
    rounds: Annotated[int, typer.Option("--rounds", help="Measurements of each finalist.")] = TunePlan.rounds
    seconds: Annotated[float, typer.Option("--seconds", help="Time of a candidate in a round.")] = TunePlan.seconds


@grouped
def tune(
    *,
    search: SearchOptions,
    budget: BudgetOptions,
    size: SizeOption = None,
    run: RunOption = None,
    export: ExportOption = None,
    json: JsonOption = False,
) -> None:
    """Find the fastest settings on this machine.

    Tries formats, precisions, providers, threads and session options in interleaved rounds; after each the slower half
    is dropped (successive halving). The degradation of a file in pixels and nats is read from its certificate. The
    manifest records the winner as recommended, and `vae_export.load` follows it. Exits 3 for files without a
    certificate, 5 where it did not pass or no file is within the budget.
    """
    from vae_export.pipeline.inputs import parse_sizes

    plan = TunePlan(**vars(search), sizes=parse_sizes(size or ()))
    refuse_together(run=run, export=export)
    folder = export if export is not None else chosen_run(run, exported=True).export
    require("export")

    from vae_export.artifact.certificate import read_certificate
    from vae_export.artifact.folder import open_artifact
    from vae_export.parity import Budget
    from vae_export.tune.tuner import tune as find_fastest

    artifact = open_artifact(folder)
    certificate = read_certificate(artifact.certificate)
    check_writable(folder)
    allowed = budget.budget(artifact.manifest.contract, artifact.manifest.provenance) or Budget()
    with console.report_steps(_STEPS, "opening", "measuring") as report:
        tuning = find_fastest(artifact, certificate, plan, allowed, report)
    if json:
        console.result_json(tuning.to_json())
        return
    _show(tuning)
    console.paragraph(
        f"recommended for {plan.part}: {tuning.recommended.file}, {tuning.recommended.options}, in {folder}"
    )


def _show(tuning: TuningResult) -> None:
    from vae_export.report.text import distinct_durations, distinct_times, times

    console.result(f"{tuning.plan.part}, batch {tuning.plan.batch}: median and speedup over the runtime's defaults")
    numbers = ("median", "speedup", "levels", "nats")
    table = console.table("settings", *numbers, "outcome", right=numbers, wrap=("settings", "outcome"))
    between = " " if console.is_wide() else "\n"
    medians = distinct_durations([result.p50_seconds for result in tuning.results])
    speedups = distinct_times([result.speedup.median if result.speedup else None for result in tuning.results])
    for result, median, speedup in zip(tuning.results, medians, speedups, strict=True):
        cost, spread = result.candidate.cost, result.speedup
        table.add_row(
            str(result.candidate).replace("ExecutionProvider", ""),
            median,
            "" if spread is None else f"{speedup}{between}({times(spread.low)} to {times(spread.high)})",
            "" if cost.worst_levels is None else str(cost.worst_levels),
            "" if cost.nats_high is None else f"{cost.nats_high:.2g}",
            result.outcome,
        )
    console.result(table)
    for sentence in tuning.why:
        console.paragraph(sentence)
