"""Scores as a table: one protocol and one likelihood each, and what its figures are below it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from train.results import describe_figures, nll_heading, reconstruction_heading

if TYPE_CHECKING:
    from rich.table import Table

    from train.config import DataProtocol
    from train.iwae import NllEstimate
    from train.scoring import Score
    from vae_export.likelihood import Likelihood


def score_table(
    scores: Mapping[str, Score],
    title: str,
    protocol: DataProtocol,
    likelihood: Likelihood,
    evidence: NllEstimate | None = None,
) -> Table:
    """A line for each split; `evidence` is of the one split that there then is."""
    from rich.table import Table

    headings = ["split", "images", f"-ELBO, {protocol}", "± s.e.", reconstruction_heading(protocol, likelihood), "KL"]
    if evidence is not None:
        headings += [nll_heading(protocol, likelihood, evidence.samples), "± s.e."]
    table = Table(
        title=title,
        title_justify="left",
        caption=f"nats per image, z sampled; {describe_figures(protocol, likelihood)}",
        caption_justify="left",
    )
    for heading in (*headings, "active units"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for split, score in scores.items():
        figures = [score.negative_elbo, score.standard_error, score.reconstruction, score.kl]
        figures += [] if evidence is None else [evidence.nll, evidence.standard_error]
        units = f"{score.active_units} of {len(score.unit_variances)}"
        table.add_row(split, f"{score.images:,}", *(f"{figure:.2f}" for figure in figures), units)
    return table
