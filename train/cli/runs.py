"""`cli.py runs`: compare the runs of a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vae_export.cli import console
from vae_export.cli.options import JsonOption
from vae_export.errors import InputError, UsageError
from vae_export.runs import ARTIFACTS, Run

if TYPE_CHECKING:
    from rich.table import Table

    from train.results import RunSummary


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder of the runs.")] = ARTIFACTS,
    diff: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--diff", metavar="A B", help="Show the settings in which two runs differ: names, or folders."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compare runs by their scores, the best first.

    Shows scores in nats per test image, settings and training time, in a table for each data set, protocol and
    likelihood, because scores of two of them do not compare. PSNR and SSIM of reconstructions and the Fréchet distance
    of samples are shown for runs that were scored with evaluate, NLL for those with its --importance-samples.
    """
    from train.results import read_run_summaries

    if diff is not None:
        _show_difference(*(_run(folder, name) for name in diff), json=json)
        return
    if not folder.is_dir():
        raise UsageError("no such folder", where=folder, do="train first, or say where the runs are")
    summaries, unreadable = read_run_summaries(folder)
    if not summaries:
        if unreadable:
            raise unreadable[0] if len(unreadable) == 1 else _all_unreadable(folder, unreadable)
        raise UsageError("no run found", where=folder, do="train one first: python cli.py train")
    for error in unreadable:
        console.note(f"left out: {error}")
    groups = _grouped(summaries)
    if json:
        tables = [
            {
                "dataset": group[0].dataset,
                "dataset_sha256": group[0].dataset_sha256,
                "protocol": group[0].protocol,
                "likelihood": group[0].config.likelihood.to_json(),
                "is_likelihood": group[0].kind.is_likelihood,
                "runs": [summary.to_json() for summary in group],
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
        console.paragraph(f"nats per test image, z sampled; {group[0].kind.describe()}")
        if any(run.images is not None for run in group):
            if not console.is_wide():
                console.result(_image_table(group))
            console.paragraph("PSNR in dB and SSIM of reconstructions; Fréchet distance of samples, 0 is best")


def _run(folder: Path, name: Path) -> Run:
    """Return a run by its name in `folder`, or by its own folder."""
    for place in (folder / name, name):
        if Run(place).checkpoint.exists():
            return Run(place)
    raise UsageError("no such run", where=name, expected=f"a folder in {folder}, or a path", do="see: cli.py runs")


def _show_difference(first: Run, second: Run, *, json: bool) -> None:
    """Print the settings in which two runs differ, and their scores."""
    from train.results import read_run_settings

    before, after = read_run_settings(first), read_run_settings(second)
    differs = {
        name: (before.get(name), after.get(name))
        for name in dict.fromkeys((*before, *after))
        if before.get(name) != after.get(name)
    }
    if json:
        runs = [str(first.folder), str(second.folder)]
        console.result_json({"runs": runs, "differences": {name: list(pair) for name, pair in differs.items()}})
        return
    headings = ("setting", str(first.folder), str(second.folder))
    table = console.table(*headings, wrap=headings)
    for name, pair in differs.items():
        table.add_row(name, *("" if value is None else str(value) for value in pair))
    console.result(table if differs else "no difference")


def _all_unreadable(folder: Path, unreadable: Sequence[InputError]) -> InputError:
    for error in unreadable:
        console.note(f"left out: {error}")
    return InputError("no run can be read", where=folder, got=f"{len(unreadable)} that cannot, above")


def _grouped(summaries: Iterable[RunSummary]) -> list[list[RunSummary]]:
    """Return the groups of runs whose scores compare, the best run of each first."""
    in_order = sorted(summaries, key=lambda summary: (*map(str, summary.comparison_key), summary.negative_elbo))
    return [list(group) for _, group in groupby(in_order, key=lambda summary: summary.comparison_key)]


def _name(summary: RunSummary) -> str:
    """Return the title of a run's table."""
    likelihood = summary.config.likelihood
    scale = f" of scale {likelihood.scale:g}" if likelihood.name == "gaussian-fixed" else ""
    return f"{summary.dataset}, {summary.kind.size} {summary.kind.pixels}, {likelihood.name}{scale}"


def _table(group: Sequence[RunSummary]) -> Table:
    """Return a line for each run; on a narrow terminal without parameters, figures of images, and machine."""
    kind = group[0].kind
    is_wide = console.is_wide()
    columns: dict[str, Callable[[RunSummary], str]] = {
        "run": lambda run: run.run.folder.name,
        "network": _network,
        "latent": lambda run: str(run.config.latent_size),
        "active": lambda run: str(run.test["active_units"]),
        "-ELBO": lambda run: _interval(run.negative_elbo, run.test["negative_elbo_standard_error"], is_wide=is_wide),
    }
    if kind.is_likelihood:
        columns["bits/dim"] = lambda run: f"{kind.bits_per_dim(run.negative_elbo):.3f}"
    if any(run.nll is not None for run in group):
        columns[kind.nll_name] = lambda run: _nll(run, is_wide=is_wide)
    if is_wide and any(run.images is not None for run in group):
        columns |= _IMAGE_COLUMNS
    if is_wide:
        columns["parameters"] = lambda run: f"{run.parameters:,}"
    columns["epochs"] = _epochs
    columns["time"] = lambda run: "" if run.seconds is None else _duration(run.seconds)
    if is_wide:
        columns["on"] = _machine
    words = ("run", "network", "on")
    table = console.table(*columns, right=[name for name in columns if name not in words], wrap=words)
    for run in group:
        table.add_row(*(cell(run) for cell in columns.values()))
    return table


def _image_table(group: Sequence[RunSummary]) -> Table:
    """Return the figures of reconstructions and samples, a line for each run that has them."""
    table = console.table("run", *_IMAGE_COLUMNS, right=list(_IMAGE_COLUMNS), wrap=["run"])
    for run in group:
        if run.images is not None:
            table.add_row(run.run.folder.name, *(cell(run) for cell in _IMAGE_COLUMNS.values()))
    return table


def _image_figure(run: RunSummary, name: str, digits: int) -> str:
    value = (run.images or {}).get(name)
    return "" if value is None else f"{value:.{digits}f}"


_IMAGE_COLUMNS: dict[str, Callable[[RunSummary], str]] = {
    "PSNR": partial(_image_figure, name="reconstruction_psnr_db", digits=2),
    "SSIM": partial(_image_figure, name="reconstruction_ssim", digits=3),
    "Fréchet": partial(_image_figure, name="frechet_distance", digits=2),
}


def _network(run: RunSummary) -> str:
    family = run.config.family
    return family if run.preset in (None, family) else f"{family} ({run.preset})"


def _epochs(run: RunSummary) -> str:
    return f"{run.epochs}" if run.planned_epochs in (None, run.epochs) else f"{run.epochs} of {run.planned_epochs}"


def _nll(run: RunSummary, *, is_wide: bool) -> str:
    if (found := run.nll) is None:
        return ""
    interval = _interval(found["nats_per_image"], found["standard_error"], is_wide=is_wide)
    return f"{interval}{', ' if is_wide else chr(10)}K = {found['importance_samples']:,}"


def _interval(nats: float, standard_error: float, *, is_wide: bool) -> str:
    """Return "98.93 ± 0.05", in two lines where the terminal is narrow."""
    return f"{nats:.2f}{' ' if is_wide else chr(10)}± {standard_error:.2f}"


def _machine(summary: RunSummary) -> str:
    device, threads = summary.training.get("device", ""), summary.training.get("threads")
    words = [device if threads is None else f"{threads} thread{'s' if threads != 1 else ''}"]
    return ", ".join(filter(None, [*words, summary.training.get("precision", "")]))


def _duration(seconds: float) -> str:
    """Return "59 s", "12 min" or "3.4 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
