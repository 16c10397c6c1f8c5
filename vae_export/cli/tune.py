"""`tune`: which settings are the quickest on this machine, within a budget of pixels and nats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vae_export.cli import console
from vae_export.cli.options import JsonOption, RunOption, budget_of, chosen_run
from vae_export.contract import PARTS, Part
from vae_export.errors import UsageError
from vae_export.io.atomic import check_writable
from vae_export.system.extras import require
from vae_export.tune.plan import TunePlan

if TYPE_CHECKING:
    from vae_export.tune.tuner import Tuning


def tune(
    part: Annotated[str, typer.Option("--part", metavar="|".join(PARTS), help="What to tune.")] = TunePlan().part,
    batch: Annotated[int, typer.Option("--batch", help="Rows of a call.")] = TunePlan().batch,
    max_grey_levels: Annotated[
        float | None,
        typer.Option(
            "--max-grey-levels", help="Leave out files with a pixel further from float64.", show_default=False
        ),
    ] = None,
    max_nats: Annotated[
        float | None,
        typer.Option("--max-nats", help="Leave out files whose -ELBO may be worse by more.", show_default=False),
    ] = None,
    rounds: Annotated[
        int, typer.Option("--rounds", help="How often what is left at the end is measured.")
    ] = TunePlan().rounds,
    seconds: Annotated[float, typer.Option("--seconds", help="For a candidate in a round.")] = TunePlan().seconds,
    run: RunOption = None,
    export: Annotated[
        Path | None, typer.Option("--export", help="Export folder, in place of a run.", show_default=False)
    ] = None,
    json: JsonOption = False,
) -> None:
    """Find the quickest settings on this machine.

    Tries format, precision, provider, threads and session options, in interleaved rounds of which the slower half goes.
    What a file costs in pixels and nats is read from its certificate. The winner goes into the manifest as recommended,
    and `vae_export.load` runs as it says. Exits 3 for files without a certificate, 5 where it did not pass, and where
    no file is within the budget.
    """
    plan = TunePlan(_part(part), batch, rounds, seconds)
    if run is not None and export is not None:
        raise UsageError("--run and --export exclude each other", do="name one of them")
    folder = export if export is not None else chosen_run(run).export
    require("export")

    from vae_export.artifact.certificate import read_certificate
    from vae_export.artifact.folder import open_artifact
    from vae_export.parity import Budget
    from vae_export.tune.tuner import tune as search

    artifact = open_artifact(folder)
    record = read_certificate(artifact.certificate)
    check_writable(folder)
    budget = budget_of(max_grey_levels, max_nats) or Budget()
    tuning = search(artifact, record, plan, budget, console.message)
    if json:
        console.result_json(tuning.to_json())
        return
    _show(tuning)
    console.result(f"recommended for {plan.part}: {tuning.recommended.file}, {tuning.recommended.words}, in {folder}")


def _part(name: str) -> Part:
    for part in PARTS:
        if part == name:
            return part
    raise UsageError("unknown part", expected=" | ".join(PARTS), got=name)


def _show(tuning: Tuning) -> None:
    from vae_export.report.text import duration

    console.result(f"{tuning.plan.part}, batch {tuning.plan.batch}: median, times as fast as the runtime's defaults")
    table = Table("setting", "p50", "times", "grey levels", "nats", "outcome", box=None, pad_edge=False)
    for tried in tuning.tried:
        cost, spread = tried.candidate.cost, tried.speedup
        times = "" if spread is None else f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"
        table.add_row(
            str(tried.candidate),
            "" if tried.p50_seconds is None else duration(tried.p50_seconds),
            times,
            "" if cost.worst_levels is None else str(cost.worst_levels),
            "" if cost.nats_high is None else f"{cost.nats_high:.2g}",
            tried.outcome,
        )
    console.result(table)
    for sentence in tuning.why:
        console.result(sentence)
