"""Charts of a training: its curves over the epochs, and what each latent unit carries."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from train.results import describe_figures, reconstruction_heading
from train.scoring import ACTIVE_VARIANCE, Score
from vae_export.likelihood import Likelihood

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GREY, _ORANGE, _BLUE = "#9aa5b1", "#e4761b", "#1f5fa8"
#: From so many epochs on, the frame is fitted to the curves without their first twentieth.
_LONG = 20
#: From so many units on, not every bar has its unit's number.
_MANY = 40
#: Room for so many bars there is in any case.
_FEW = 8


def draw_curves(lines: Sequence[Mapping[str, Any]], likelihood: Likelihood) -> bytes:
    """-ELBO and its two parts over the epochs of `metrics.jsonl`, the best epoch marked, as a PNG."""
    protocol = lines[0]["protocol"]
    panels = {
        "−ELBO": "negative_elbo_nats_per_image",
        reconstruction_heading(protocol, likelihood).replace("-log", "−log"): "reconstruction_nats_per_image",
        "KL": "kl_nats_per_image",
    }
    epochs = [line["epoch"] for line in lines]
    best = min(lines, key=lambda line: line["validation"]["negative_elbo_nats_per_image"])
    figure = Figure(figsize=(12, 4), dpi=120, layout="constrained")
    for axes, (title, key) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        shown = []
        for split, colour in {"train": _GREY, "validation": _ORANGE}.items():
            values = [line[split][key] for line in lines]
            marker = {"marker": "o", "markersize": 3} if len(lines) <= _LONG else {}
            axes.plot(epochs, values, color=colour, label=split, linewidth=1.8, **marker)
            shown += values[len(values) // 20 if len(values) > _LONG else 0 :]
        axes.axvline(best["epoch"], color=_BLUE, linewidth=1, linestyle=(0, (4, 3)))
        label = f"best epoch, {best['epoch']}: {best['validation'][key]:.1f}"
        axes.plot(best["epoch"], best["validation"][key], "o", color=_BLUE, markersize=6, label=label)
        room = 0.06 * (max(shown) - min(shown)) or 1.0
        axes.set_ylim(min(shown) - room, max(shown) + room)
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set_xlabel("epoch")
        axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        _tidy(axes)
        axes.legend(frameon=False, fontsize=9)
    figure.axes[0].set_ylabel("nats per image")
    note = f"{protocol}, {likelihood.name}; z sampled; {describe_figures(protocol, likelihood)}"
    if len(lines) > _LONG:
        note += f"; the frame is fitted to what comes after epoch {len(lines) // 20}"
    figure.supxlabel(note, x=0.01, ha="left", fontsize=9, color="#5a636e")
    return _png(figure)


def draw_units(score: Score) -> bytes:
    """KL of each latent unit, most first, and below it what makes a unit active: the variance of its posterior mean."""
    order = score.units_by_kl()
    places = range(len(order))
    active = [score.unit_variances[unit] > ACTIVE_VARIANCE for unit in order]
    colours = [_BLUE if is_active else _GREY for is_active in active]
    figure = Figure(figsize=(max(6.4, min(14.0, 2 + 0.28 * len(order))), 5.6), dpi=120, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    above.bar(places, [score.unit_kls[unit] for unit in order], color=colours)
    above.set_xlim(-1, max(len(order), _FEW))
    above.set_ylabel("KL, nats per image")
    above.set_title(
        f"{sum(active)} of {len(order)} latent units active, {score.kl:.1f} nats together",
        loc="left",
        fontweight="bold",
    )
    for unit, place, colour in zip(order, places, colours, strict=True):
        below.plot(place, score.unit_variances[unit], "o", color=colour, markersize=5)
    below.axhline(ACTIVE_VARIANCE, color=_ORANGE, linewidth=1.2, linestyle=(0, (4, 3)))
    below.annotate(
        f"active above {ACTIVE_VARIANCE}",
        (1, ACTIVE_VARIANCE),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
        color=_ORANGE,
        fontsize=9,
    )
    below.set_yscale("log")
    # A unit of variance 0 has no place on this axis: it stays below the frame.
    lowest = min((variance for variance in score.unit_variances if variance > 0), default=ACTIVE_VARIANCE)
    below.set_ylim(min(ACTIVE_VARIANCE / 10, lowest) / 2, 2 * max(2.0, *score.unit_variances))
    below.set_ylabel("variance of\nposterior mean")
    below.set_xlabel("latent unit, most KL first")
    if len(order) <= _MANY:
        below.set_xticks(places, [str(unit) for unit in order], fontsize=8)
    else:
        below.set_xticks([])
    for axes in (above, below):
        _tidy(axes)
    return _png(figure)


def _tidy(axes: Axes) -> None:
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
