"""Pictures of a trained model: what it rebuilds, what it dreams up, what its latent units mean, how it learned."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from train.data import Dataset
from train.evaluate import evaluate
from train.objective import to_unit
from vae_export.files import write_atomic
from vae_export.models import VAE
from vae_export.runs import Run

#: Pixels between tiles, their grey level, and the smallest side that a tile is enlarged to.
_GAP, _BACKGROUND, _TILE = 4, 255, 56
_SEED = 0


def draw_pictures(model: VAE, dataset: Dataset, run: Run) -> None:
    """Write the five pictures of `model` (in eval mode, on the CPU) to `run.pictures`."""
    by_activity = evaluate(model, dataset.validation).units_by_activity()
    grids = {
        "reconstructions": reconstructions(model, dataset.test[:50]),
        "samples": samples(model, count=100),
        "manifold": manifold(model, by_activity[:2], side=20),
        "traversal": traversal(model, by_activity[:12], dataset.test[:1]),
    }
    for name, (images, columns) in grids.items():
        write_atomic(run.pictures / f"{name}.png", tiled(images, columns))
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    write_atomic(run.pictures / "curves.png", curves(lines))


@torch.no_grad()
def reconstructions(model: VAE, pixels: Tensor) -> tuple[Tensor, int]:
    """Originals in the odd columns, right of each its reconstruction from the posterior mean, ten a row."""
    image = to_unit(pixels)
    rebuilt = model.decoder(model.encoder(image)[0])
    return torch.stack((image, rebuilt), dim=1).flatten(0, 1), 10


@torch.no_grad()
def samples(model: VAE, count: int) -> tuple[Tensor, int]:
    """Decoded draws from the prior."""
    latent = torch.randn(count, model.config.latent_size, generator=torch.Generator().manual_seed(_SEED))
    return model.decoder(latent), 10


@torch.no_grad()
def manifold(model: VAE, units: Sequence[int], side: int) -> tuple[Tensor, int]:
    """A grid over two latent units, evenly spaced in probability, the others 0 (figure 4 of arXiv:1312.6114).

    The first unit runs from left to right, the second from bottom to top. With one latent unit: one row.
    """
    values = torch.special.ndtri(torch.linspace(0.02, 0.98, side))
    rows = values.flip(0) if len(units) > 1 else values[:1]
    latent = torch.zeros(len(rows), side, model.config.latent_size)
    latent[..., units[0]] = values
    if len(units) > 1:
        latent[..., units[1]] = rows[:, None]
    return model.decoder(latent.flatten(0, 1)), side


@torch.no_grad()
def traversal(model: VAE, units: Sequence[int], pixels: Tensor) -> tuple[Tensor, int]:
    """A row a unit: it goes from -3 to 3, the others stay where one image has them."""
    values = torch.linspace(-3, 3, 13)
    latent = model.encoder(to_unit(pixels))[0].repeat(len(units), len(values), 1)
    for row, unit in enumerate(units):
        latent[row, :, unit] = values
    return model.decoder(latent.flatten(0, 1)), len(values)


def tiled(images: Tensor, columns: int) -> bytes:
    """Images (N, C, H, W) in [0, 1], C 1 or 3, as a PNG: side by side, enlarged by a whole number, gaps between."""
    count, channels, height, width = images.shape
    scale = max(1, -(-_TILE // max(height, width)))
    tiles = (images * 255).round().to(torch.uint8).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    height, width, rows = height * scale, width * scale, -(-count // columns)
    sheet = torch.full((channels, rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP), _BACKGROUND)
    sheet = sheet.to(torch.uint8)
    for index, tile in enumerate(tiles):
        top = _GAP + index // columns * (height + _GAP)
        left = _GAP + index % columns * (width + _GAP)
        sheet[:, top : top + height, left : left + width] = tile
    array = sheet.permute(1, 2, 0).squeeze(-1).numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def curves(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """-ELBO, reconstruction and KL over the epochs of `metrics.jsonl`, as a PNG."""
    panels = {
        "−ELBO": "negative_elbo_nats_per_image",
        "reconstruction": "reconstruction_nats_per_image",
        "KL": "kl_nats_per_image",
    }
    colours = {"train": "#9aa5b1", "validation": "#e4761b", "test": "#1f5fa8"}
    figure = Figure(figsize=(12, 3.8), dpi=120, layout="constrained")
    epoch_numbers = [line["epoch"] for line in lines]
    for axes, (title, key) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for split, colour in colours.items():
            values = [line[split][key] for line in lines]
            axes.plot(epoch_numbers, values, color=colour, label=split, linewidth=1.8, marker="o", markersize=2.5)
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(color="#e6e8eb", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("nats per image")
    figure.axes[0].legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
