"""Pictures: every one is drawn, for grey and colour, and each tile is where it should be."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from train.data import Dataset
from train.pictures import curves, draw_pictures, manifold, reconstructions, tiled, traversal
from vae_export.models import VAE, VAEConfig
from vae_export.runs import Run

SCORE = {"negative_elbo_nats_per_image": 3.0, "reconstruction_nats_per_image": 2.0, "kl_nats_per_image": 1.0}


@pytest.mark.parametrize(("channels", "latent_size"), [(1, 3), (3, 1)])
def test_all_five_are_drawn(tmp_path: Path, channels: int, latent_size: int) -> None:
    import json

    run = Run(tmp_path)
    line = {"epoch": 1, "train": SCORE, "validation": SCORE, "test": SCORE}
    run.metrics.write_text(json.dumps(line) + "\n")
    pixels = torch.randint(0, 256, (12, channels, 8, 8), dtype=torch.uint8)
    model = VAE(VAEConfig("mlp", (channels, 8, 8), latent_size, 8)).eval()
    draw_pictures(model, Dataset("x", pixels, pixels, pixels), run)
    names = sorted(path.name for path in run.pictures.iterdir())
    assert names == ["curves.png", "manifold.png", "reconstructions.png", "samples.png", "traversal.png"]
    for path in run.pictures.iterdir():
        with Image.open(path) as image:
            image.load()
            assert image.width > 50


def test_tiles_lie_row_by_row_enlarged_with_gaps() -> None:
    images = torch.arange(6).reshape(6, 1, 1, 1).expand(6, 1, 28, 28) / 255
    with Image.open(io.BytesIO(tiled(images, columns=3))) as image:
        sheet = np.asarray(image)
    assert sheet.shape == (2 * 60 + 4, 3 * 60 + 4)
    assert [int(sheet[30, 30 + 60 * column]) for column in range(3)] == [0, 1, 2]
    assert [int(sheet[90, 30 + 60 * column]) for column in range(3)] == [3, 4, 5]
    assert (sheet[60:64] == 255).all()


def test_reconstructions_stand_right_of_their_originals() -> None:
    model = VAE(VAEConfig("mlp", (1, 8, 8), 2, 8)).eval()
    pixels = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    images, columns = reconstructions(model, pixels)
    assert columns % 2 == 0
    torch.testing.assert_close(images[0::2], pixels / 255)
    torch.testing.assert_close(images[1::2], model.decoder(model.encoder(pixels / 255)[0]))


def test_the_manifold_moves_two_units_and_the_traversal_one_a_row() -> None:
    seen: list[torch.Tensor] = []
    model = VAE(VAEConfig("mlp", (1, 8, 8), 4, 8)).eval()
    model.decoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    manifold(model, [2, 1], side=5)
    traversal(model, [3, 0], torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    grid, rows = seen[0].reshape(5, 5, 4), seen[1].reshape(2, 13, 4)
    assert (grid[:, :, [0, 3]] == 0).all()
    assert (grid[:, 1:, 2] > grid[:, :-1, 2]).all()
    assert (grid[1:, :, 1] < grid[:-1, :, 1]).all()
    assert rows[0, :, 3].tolist() == pytest.approx(torch.linspace(-3, 3, 13).tolist())
    assert (rows[0, :, :3] == rows[0, :1, :3]).all()


def test_curves_are_the_same_bytes_again() -> None:
    lines = [{"epoch": epoch, "train": SCORE, "validation": SCORE, "test": SCORE} for epoch in (1, 2, 3)]
    assert curves(lines) == curves(lines)
