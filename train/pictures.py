"""Pictures of a trained model: grids of decoded images, its curves over the epochs, and charts of its latent units.

A grid shows tiles pixel by pixel, with a title, a note and labels around them; a chart is drawn by matplotlib. Equal
input gives equal bytes.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from train.data.datasets import Dataset
from train.loss import to_unit_range
from train.results import ScoreKind
from train.scoring import ACTIVE_VARIANCE, PyTorchModel, Score, evaluate_model
from vae_export.io.atomic import write_atomic
from vae_export.io.staging import staged_folder
from vae_export.likelihood import MAX_LEVEL
from vae_export.models import VAE
from vae_export.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Sides of a tile in pixels: smaller images are enlarged by a whole number, larger ones are averaged down.
_MIN_TILE, _MAX_TILE = 56, 128
#: Latents that are decoded at once: images of 512 x 512 pixels take memory.
_DECODE_BATCH = 64
#: Number of decoded samples of the prior, and their seed.
_SAMPLES, _SAMPLE_SEED = 100, 0
#: Most latent units that a traversal has a row for.
_MAX_TRAVERSAL_ROWS = 12

#: Pixels around the grid, between tiles, and before a column that stands apart.
_MARGIN, _GAP, _COLUMN_BREAK = 16, 4, 12
#: Heights of letters, in pixels, and colours.
_TITLE, _NOTE, _LABEL = 22, 15, 13
_INK, _SOFT, _PAPER = (20, 24, 31), (90, 99, 110), (255, 255, 255)

_GREY, _ORANGE, _BLUE = "#9aa5b1", "#e4761b", "#1f5fa8"
#: From so many epochs on, the axes are fitted to the curves without their first twentieth, and points have no markers.
_LONG_TRAINING = 20
#: Above so many units, bars have no numbers.
_MAX_NUMBERED_UNITS = 40
#: Most bars.
_MAX_BARS = 400
#: The chart of units is at least so many bars wide.
_MIN_BARS = 8


def draw_pictures(model: VAE, dataset: Dataset, run: Run) -> None:
    """Write all pictures of a trained model to `run.pictures`, or none of them.

    Args:
        model: the trained network.
        dataset: the images that it was trained on. Test images are shown; the KL of each unit is measured on the
            validation images.
        run: the run folder; its `metrics.jsonl` has at least one line.
    """
    scored = PyTorchModel(model)
    score = evaluate_model(scored, dataset.validation)
    drawn = {
        "reconstructions": reconstructions(scored, dataset.test[:50]),
        "samples": samples(scored, score),
        "manifold": manifold(scored, score),
        "traversal": traversal(scored, score, dataset.test[0]),
        "interpolation": interpolation(scored, dataset.test[:16]),
    }
    files = {name: grid_png(grid) for name, grid in drawn.items()}
    lines = [json.loads(line) for line in run.metrics.read_text("utf-8").splitlines()]
    kind = ScoreKind(dataset.protocol, model.config.likelihood, dataset.image_shape)
    files |= {"curves": draw_curves(lines, kind), "units": draw_units(score)}
    with staged_folder(run.pictures, force=True) as staging:
        for name, data in files.items():
            write_atomic(staging / f"{name}.png", data)


@dataclass(frozen=True)
class Grid:
    """Images in rows and columns, with words around them.

    Attributes:
        tiles: the images row by row, uint8 (N, C, h, w), C 1 or 3.
        columns: number of columns.
        title: printed above the tiles.
        note: printed below the title; it explains what is shown.
        heads: a label above each column, or none.
        rows: a label left of each row, or none.
        breaks: columns that stand further from the one before them.
        seamless: whether there are no gaps between tiles.
    """

    tiles: Tensor
    columns: int
    title: str
    note: str
    heads: Sequence[str] = ()
    rows: Sequence[str] = ()
    breaks: Sequence[int] = ()
    seamless: bool = False


def reconstructions(model: PyTorchModel, pixels: Tensor) -> Grid:
    """Show images, uint8 (N, C, H, W), each beside its reconstruction from the posterior mean, ten pairs a row."""
    image = to_unit_range(pixels)
    pairs = torch.stack((to_tiles(image), _decoded(model, model.encode(image)[0])), dim=1).flatten(0, 1)
    note = "left: an image of the test set; right: its reconstruction from the posterior mean"
    return Grid(pairs, 20, "Reconstructions", note, breaks=range(2, 20, 2))


def samples(model: PyTorchModel, score: Score) -> Grid:
    """Show decoded samples of the prior, drawn with a fixed seed.

    Args:
        model: the model.
        score: the model's score, which states the number of latent units.

    Returns:
        The grid of samples.
    """
    latent = torch.randn(_SAMPLES, len(score.unit_kls), generator=torch.Generator().manual_seed(_SAMPLE_SEED))
    return Grid(_decoded(model, latent), 20, "Samples", "decoded samples of the prior, not selected")


def manifold(model: PyTorchModel, score: Score, side: int = 20) -> Grid:
    """Show a plane through latent space, evenly spaced in probability (figure 4 of arXiv:1312.6114).

    The plane is that of the two units with most KL, the others being 0. With one unit there is one row.

    Args:
        model: the model.
        score: the model's score, which states the KL of each unit.
        side: the number of images along each axis.

    Returns:
        The grid of decoded images.
    """
    across, *up = units = score.units_by_kl()[:2]
    values = torch.special.ndtri((torch.arange(side) + 0.5) / side)
    rows = values.flip(0) if up else values[:1]
    latent = torch.zeros(len(rows), side, len(score.unit_kls))
    latent[..., across] = values
    note = f"unit {across} from left to right"
    if up:
        latent[..., up[0]] = rows[:, None]
        note += f", unit {up[0]} from bottom to top"
    note += ", evenly spaced in probability"
    if rest := len(score.unit_kls) - len(units):
        nats = " and ".join(f"{score.unit_kls[unit]:.1f}" for unit in units)
        note += f"; the two units with most KL ({nats} nats), the other {rest} at 0"
    labels = [_number(value) for value in values.tolist()]
    decoded = _decoded(model, latent.flatten(0, 1))
    return Grid(decoded, side, "Manifold", note, labels, labels[::-1] if up else (), seamless=True)


def traversal(model: PyTorchModel, score: Score, pixels: Tensor) -> Grid:
    """Vary one latent unit in each row from -3 to 3; the others stay at the posterior mean of one image.

    Args:
        model: the model.
        score: the model's score, which states the KL of each unit.
        pixels: the image, uint8 (C, H, W).

    Returns:
        The grid of decoded images, the unit with most KL first.
    """
    values = torch.linspace(-3, 3, 13)
    units = score.units_by_kl()[:_MAX_TRAVERSAL_ROWS]
    latent = model.encode(to_unit_range(pixels[None]))[0].repeat(len(units), len(values), 1)
    for row, unit in enumerate(units):
        latent[row, :, unit] = values
    rows = [f"unit {unit}: {score.unit_kls[unit]:.2f} nats" for unit in units]
    few = f"the {len(units)} of {len(score.unit_kls)} units with most KL" if len(score.unit_kls) > len(units) else ""
    note = "one latent unit a row, most KL first; the others stay where the first test image has them"
    heads = [_number(value) for value in values.tolist()]
    decoded = _decoded(model, latent.flatten(0, 1))
    return Grid(decoded, len(values), "Traversal", "; ".join(filter(None, (note, few))), heads, rows)


def interpolation(model: PyTorchModel, pixels: Tensor, steps: int = 11) -> Grid:
    """Decode straight lines between the posterior means of pairs of images, one pair in each row.

    An odd image at the end is left out; one image alone is paired with itself.

    Args:
        model: the model.
        pixels: the images, uint8 (N, C, H, W), N ≥ 1.
        steps: the number of decoded points of each line, with its ends.

    Returns:
        The grid: in each row an image, the decoded points, and the other image.
    """
    pairs = pixels[: len(pixels) // 2 * 2] if len(pixels) > 1 else pixels.repeat(2, 1, 1, 1)
    image = to_unit_range(pairs)
    mean, ends = model.encode(image)[0], to_tiles(image)
    first, last = mean[0::2, None], mean[1::2, None]
    along = torch.linspace(0, 1, steps)[:, None]
    between = _decoded(model, (first + along * (last - first)).flatten(0, 1))
    rows = torch.cat((ends[0::2, None], between.reshape(-1, steps, *ends.shape[1:]), ends[1::2, None]), dim=1)
    heads = ["image", *(f"{value:.1f}" for value in along.flatten().tolist()), "image"]
    note = "two test images, and the decoded points of the straight line between their posterior means"
    return Grid(rows.flatten(0, 1), steps + 2, "Interpolation", note, heads, breaks=(1, steps + 1))


def to_tiles(image: Tensor) -> Tensor:
    """Convert images (N, C, H, W) in [0, 1] to tiles, uint8 (N, C, h, w), of a size that can be seen and printed."""
    side = max(image.shape[2:])
    if side > _MAX_TILE:
        size = [max(1, round(length * _MAX_TILE / side)) for length in image.shape[2:]]
        image = F.interpolate(image, size=size, mode="area")
    levels = (image * MAX_LEVEL).round().clamp(0, MAX_LEVEL).to(torch.uint8)
    scale = max(1, -(-_MIN_TILE // side))
    return levels.repeat_interleave(scale, 2).repeat_interleave(scale, 3)


def _decoded(model: PyTorchModel, latent: Tensor) -> Tensor:
    """Decode latents (N, Z) to tiles."""
    return torch.cat([to_tiles(model.decode(chunk)) for chunk in torch.split(latent, _DECODE_BATCH)])


def _number(value: float) -> str:
    return f"{value:.1f}".replace("-", "−").replace("−0.0", "0.0")


def grid_png(grid: Grid) -> bytes:
    """Draw a grid as a PNG."""
    buffer = io.BytesIO()
    draw_grid(grid).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def draw_grid(grid: Grid) -> Image.Image:
    """Draw a grid with its title, note and labels as an RGB image."""
    count, _, height, width = grid.tiles.shape
    rows = -(-count // grid.columns)
    gap = 0 if grid.seamless else _GAP
    lefts = _offsets(grid, width, gap)
    note = _wrapped(grid.note, _font(_NOTE), max(lefts[-1] + width, 420))
    beside = max((round(_font(_LABEL).getlength(label)) + 10 for label in grid.rows), default=0)
    above = _MARGIN + _TITLE + 10 + len(note) * (_NOTE + 6) + 8 + (_LABEL + 8 if grid.heads else 0)
    texts = [_font(_TITLE, bold=True).getlength(grid.title), *(_font(_NOTE).getlength(line) for line in note)]
    wide = max(beside + lefts[-1] + width, *map(round, texts)) + 2 * _MARGIN
    sheet = Image.new("RGB", (wide, above + rows * (height + gap) - gap + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), grid.title, _INK, _font(_TITLE, bold=True), anchor="lt")
    for number, line in enumerate(note):
        pen.text((_MARGIN, _MARGIN + _TITLE + 10 + number * (_NOTE + 6)), line, _SOFT, _font(_NOTE), anchor="la")
    left = _MARGIN + beside
    for index, tile in enumerate(grid.tiles.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()):
        row, column = divmod(index, grid.columns)
        sheet.paste(Image.fromarray(np.ascontiguousarray(tile)), (left + lefts[column], above + row * (height + gap)))
    for label, offset in zip(grid.heads, lefts, strict=False):
        pen.text((left + offset + width / 2, above - 6), label, _SOFT, _font(_LABEL), anchor="ms")
    for row, label in enumerate(grid.rows):
        middle = above + row * (height + gap) + height / 2
        pen.text((left - 8, middle), label, _SOFT, _font(_LABEL), anchor="rm")
    return sheet


def _offsets(grid: Grid, width: int, gap: int) -> list[int]:
    """Return the distance of each column from the left edge of the first, in pixels."""
    apart = [sum(column >= start for start in grid.breaks) for column in range(grid.columns)]
    return [column * (width + gap) + count * (_COLUMN_BREAK - gap) for column, count in enumerate(apart)]


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break a text between words into lines no wider than `width` pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


@functools.cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans as it comes with matplotlib, so that every machine draws the same letters."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def draw_curves(lines: Sequence[Mapping[str, Any]], kind: ScoreKind) -> bytes:
    """Draw -ELBO and its two parts over the lines of `metrics.jsonl`, with the best epoch marked, as a PNG."""
    panels = {
        "−ELBO": "negative_elbo_nats_per_image",
        kind.reconstruction_heading.replace("-log", "−log"): "reconstruction_nats_per_image",
        "KL": "kl_nats_per_image",
    }
    epochs = [line["epoch"] for line in lines]
    best = min(lines, key=lambda line: line["validation"]["negative_elbo_nats_per_image"])
    figure = Figure(figsize=(12, 4), dpi=120, layout="constrained")
    for axes, (title, key) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        shown = []
        for split, colour in {"train": _GREY, "validation": _ORANGE}.items():
            values = [line[split][key] for line in lines]
            marker = {"marker": "o", "markersize": 3} if len(lines) <= _LONG_TRAINING else {}
            axes.plot(epochs, values, color=colour, label=split, linewidth=1.8, **marker)
            shown += values[len(values) // 20 if len(values) > _LONG_TRAINING else 0 :]
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
    note = f"{kind.pixels}, {kind.likelihood.name}; z sampled; {kind.describe()}"
    if len(lines) > _LONG_TRAINING:
        note += f"; the axes are fitted to the epochs after {len(lines) // 20}"
    figure.supxlabel(note, x=0.01, ha="left", fontsize=9, color="#5a636e")
    return _png(figure)


def draw_units(score: Score) -> bytes:
    """Draw the KL of each latent unit, most first, and the variance of its posterior mean, as a PNG."""
    order = score.units_by_kl()
    units, count = len(order), score.active_units
    order = order[:_MAX_BARS]
    places = range(len(order))
    active = [score.unit_variances[unit] > ACTIVE_VARIANCE for unit in order]
    colours = [_BLUE if is_active else _GREY for is_active in active]
    figure = Figure(figsize=(max(6.4, min(14.0, 2 + 0.28 * len(order))), 5.6), dpi=120, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    above.bar(places, [score.unit_kls[unit] for unit in order], color=colours)
    above.set_xlim(-1, max(len(order), _MIN_BARS))
    above.set_ylabel("KL, nats per image")
    above.set_title(
        f"{count} of {units} latent units active, {score.kl:.1f} nats together"
        + (f"; the {_MAX_BARS} of most KL" if units > _MAX_BARS else ""),
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
    # A variance of 0 cannot be shown on a logarithmic axis: its point lies below the frame.
    lowest = min((variance for variance in score.unit_variances if variance > 0), default=ACTIVE_VARIANCE)
    below.set_ylim(min(ACTIVE_VARIANCE / 10, lowest) / 2, 2 * max(2.0, *score.unit_variances))
    below.set_ylabel("variance of\nposterior mean")
    below.set_xlabel("latent unit, most KL first")
    if len(order) <= _MAX_NUMBERED_UNITS:
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
