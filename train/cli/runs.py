"""`cli.py runs`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from train.results import describe_figures, nll_name
from vae_export.cli import console
from vae_export.cli.options import JsonOption
from vae_export.errors import InputError, UsageError
from vae_export.runs import ARTIFACTS

if TYPE_CHECKING:
    from rich.table import Table

    from train.results import RunSummary


def runs(
    folder: Annotated[Path, typer.Argument(help="Where the runs are.")] = ARTIFACTS,
    json: JsonOption = False,
) -> None:
    """Compare runs: scores in nats per test image, settings and time, the best first.

    One table for each data set, protocol and likelihood: figures of two do not compare. NLL is there for runs that
    were scored with evaluate --importance-samples.
    """
    from train.results import read_run_summaries

    if not folder.is_dir():
        raise UsageError("no such folder", where=folder, do="train first, or say where the runs are")
    outcomes, unreadable = read_run_summaries(folder)
    if not outcomes:
        if unreadable:
            raise unreadable[0] if len(unreadable) == 1 else _none(folder, unreadable)
        raise UsageError("no run found", where=folder, do="train one first: python cli.py train")
    for error in unreadable:
        console.message(f"left out: {error}")
    groups = _grouped(outcomes)
    if json:
        tables = [
            {
                "dataset": group[0].dataset,
                "dataset_sha256": group[0].dataset_sha256,
                "protocol": group[0].protocol,
                "likelihood": group[0].config.likelihood.to_json(),
                "is_likelihood": group[0].is_likelihood,
                "runs": [outcome.to_json() for outcome in group],
            }
            for group in groups
        ]
        console.result_json({"tables": tables, "unreadable": [str(error) for error in unreadable]})
        return
    names = [_name(group[0]) for group in groups]
    for number, (name, group) in enumerate(zip(names, groups, strict=True)):
        same = f", images {group[0].dataset_sha256[:8]}" if names.count(name) > 1 else ""
        console.result(("\n" if number else "") + name + same)
        console.result(_table(group))


def _none(folder: Path, unreadable: Sequence[InputError]) -> InputError:
    for error in unreadable:
        console.message(f"left out: {error}")
    return InputError("no run can be read", where=folder, got=f"{len(unreadable)} that cannot, above")


def _grouped(outcomes: Iterable[RunSummary]) -> list[list[RunSummary]]:
    """Those that compare together, the best first."""
    in_order = sorted(outcomes, key=lambda outcome: (*map(str, outcome.comparison_key), outcome.negative_elbo))
    return [list(group) for _, group in groupby(in_order, key=lambda outcome: outcome.comparison_key)]


def _name(outcome: RunSummary) -> str:
    """Of a table."""
    likelihood = outcome.config.likelihood
    scale = f" of scale {likelihood.scale:g}" if likelihood.name == "gaussian-fixed" else ""
    return f"{outcome.dataset}, {outcome.protocol}, {likelihood.name}{scale}"


def _table(group: Sequence[RunSummary]) -> Table:
    from rich.table import Table

    first = group[0]
    protocol, likelihood = first.protocol, first.config.likelihood
    table = Table(
        box=None,
        pad_edge=False,
        caption=f"nats per test image, z sampled; {describe_figures(protocol, likelihood)}",
        caption_justify="left",
    )
    evaluated = any(outcome.nll is not None for outcome in group)
    evidence = [nll_name(protocol, likelihood)] if evaluated else []
    for heading in ("run", "network", "latent", "active", "-ELBO", *evidence, "parameters", "epochs", "time", "on"):
        table.add_column(heading, justify="left" if heading in ("run", "network", "on") else "right")
    for outcome in group:
        config, test = outcome.config, outcome.test
        epochs = str(outcome.epochs)
        if outcome.planned_epochs not in (None, outcome.epochs):
            epochs += f" of {outcome.planned_epochs}"
        table.add_row(
            outcome.run.folder.name,
            config.family if outcome.preset in (None, config.family) else f"{config.family} ({outcome.preset})",
            str(config.latent_size),
            str(test["active_units"]),
            f"{outcome.negative_elbo:.2f} ± {test['negative_elbo_standard_error']:.2f}",
            *([_evidence(outcome)] if evaluated else []),
            f"{outcome.parameters:,}",
            epochs,
            "" if outcome.seconds is None else _duration(outcome.seconds),
            _machine(outcome),
        )
    return table


def _evidence(outcome: RunSummary) -> str:
    if (found := outcome.nll) is None:
        return ""
    return f"{found['nats_per_image']:.2f} ± {found['standard_error']:.2f}, K = {found['importance_samples']:,}"


def _machine(outcome: RunSummary) -> str:
    device, threads = outcome.training.get("device", ""), outcome.training.get("threads")
    words = [device if threads is None else f"{threads} thread{'s' if threads != 1 else ''}"]
    return ", ".join(filter(None, [*words, outcome.training.get("precision", "")]))


def _duration(seconds: float) -> str:
    """As a person reads it: "59 s", "12 min", "3.4 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
