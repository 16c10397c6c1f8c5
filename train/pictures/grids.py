"""What is decoded for a picture: images in rows and columns, and the words beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from train.loss import to_unit_range
from train.scoring import PyTorchModel, Score

#: Sides of a tile in pixels: smaller images are enlarged by a whole number, larger ones are averaged down.
_SMALLEST, _LARGEST = 56, 128
#: Latents that are decoded at once: images of 512 x 512 pixels take memory.
_CHUNK = 64
_SEED = 0
#: Most units that a traversal has a row for.
_ROWS = 12


@dataclass(frozen=True)
class Grid:
    """Attributes:
    tiles: uint8 (N, C, h, w), C 1 or 3, row by row.
    columns: of them.
    title, note: above them; the note says what is seen.
    heads, rows: a label above each column, left of each row; or none.
    breaks: columns that stand further from the one before them.
    seamless: without gaps.
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
    """Images uint8 (N, C, H, W), right of each its reconstruction from the posterior mean, ten pairs a row."""
    image = to_unit_range(pixels)
    pairs = torch.stack((to_tiles(image), _decoded(model, model.encode(image)[0])), dim=1).flatten(0, 1)
    note = "left: an image of the test set; right: what the decoder makes of its posterior mean"
    return Grid(pairs, 20, "Reconstructions", note, breaks=range(2, 20, 2))


def samples(model: PyTorchModel, score: Score, count: int = 100) -> Grid:
    """Decoded draws from the prior."""
    latent = torch.randn(count, len(score.unit_kls), generator=torch.Generator().manual_seed(_SEED))
    return Grid(_decoded(model, latent), 20, "Samples", "decoded draws from the prior, as they came")


def manifold(model: PyTorchModel, score: Score, side: int = 20) -> Grid:
    """A plane through latent space, evenly spaced in probability (figure 4 of arXiv:1312.6114).

    Of more than two units: the two with most KL, the others 0. With one unit: one row.
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
    """A row a unit: it goes from -3 to 3, the others stay where one image uint8 (C, H, W) has them."""
    values = torch.linspace(-3, 3, 13)
    units = score.units_by_kl()[:_ROWS]
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
    """Images uint8 (N, C, H, W) in pairs, one pair a row; between them the straight line between their posterior means.

    An odd image at the end is left out; one image alone is paired with itself.
    """
    pairs = pixels[: len(pixels) // 2 * 2] if len(pixels) > 1 else pixels.repeat(2, 1, 1, 1)
    image = to_unit_range(pairs)
    mean, ends = model.encode(image)[0], to_tiles(image)
    first, last = mean[0::2, None], mean[1::2, None]
    along = torch.linspace(0, 1, steps)[:, None]
    between = _decoded(model, (first + along * (last - first)).flatten(0, 1))
    rows = torch.cat((ends[0::2, None], between.reshape(-1, steps, *ends.shape[1:]), ends[1::2, None]), dim=1)
    heads = ["image", *(f"{value:.1f}" for value in along.flatten().tolist()), "image"]
    note = "two test images, and what is decoded on the straight line between their posterior means"
    return Grid(rows.flatten(0, 1), steps + 2, "Interpolation", note, heads, breaks=(1, steps + 1))


def to_tiles(image: Tensor) -> Tensor:
    """Images (N, C, H, W) in [0, 1] → tiles uint8 (N, C, h, w), large enough to be seen, small enough for a sheet."""
    side = max(image.shape[2:])
    if side > _LARGEST:
        size = [max(1, round(length * _LARGEST / side)) for length in image.shape[2:]]
        image = F.interpolate(image, size=size, mode="area")
    levels = (image * 255).round().clamp(0, 255).to(torch.uint8)
    scale = max(1, -(-_SMALLEST // side))
    return levels.repeat_interleave(scale, 2).repeat_interleave(scale, 3)


def _decoded(model: PyTorchModel, latent: Tensor) -> Tensor:
    """Latents (N, Z) → tiles of their images."""
    return torch.cat([to_tiles(model.decode(part)) for part in torch.split(latent, _CHUNK)])


def _number(value: float) -> str:
    return f"{value:.1f}".replace("-", "−").replace("−0.0", "0.0")
