"""Every picture is drawn, for grey and colour, and each tile is in its place."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from train import pictures
from train.data.datasets import Dataset
from train.pictures import Grid, draw_curves, draw_pictures, draw_units
from train.results import ScoreKind
from train.scoring import PyTorchModel, Score
from vae_export.likelihood import LIKELIHOODS, Likelihood, LikelihoodName
from vae_export.models import VAE, VAEConfig
from vae_export.runs import Run

pytestmark = pytest.mark.slow

FIGURES = {"negative_elbo_nats_per_image": 3.0, "reconstruction_nats_per_image": 2.0, "kl_nats_per_image": 1.0}
PICTURES = ["curves", "interpolation", "manifold", "reconstructions", "samples", "traversal", "units"]

GREY = ScoreKind("grey", Likelihood(), (1, 8, 8))


def line(epoch: int, nats: float = 3.0) -> dict[str, object]:
    score = FIGURES | {"negative_elbo_nats_per_image": nats}
    return {"epoch": epoch, "protocol": "grey", "train": score, "validation": score, "test": score}


def score_with(*kls: float) -> Score:
    return Score(10, 3.0, 0.1, 2.0, sum(kls), unit_variances=tuple(kl / 10 for kl in kls), unit_kls=kls)


def random_pixels(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


class RecordingModel(PyTorchModel):
    """A real network that remembers which latents it was asked to decode."""

    def __init__(self, latent_size: int, side: int = 8) -> None:
        super().__init__(VAE(VAEConfig("mlp", (1, side, side), latent_size, 8)))
        self.latents = torch.empty(0, latent_size)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        self.latents = torch.cat((self.latents, latent))
        return super().decode(latent)


@pytest.mark.parametrize(
    ("shape", "latent_size", "images"),
    [((1, 8, 8), 3, 12), ((3, 8, 12), 1, 1), pytest.param((3, 200, 100), 50, 3, marks=pytest.mark.slow)],
)
def test_every_picture_is_drawn(tmp_path: Path, shape: tuple[int, int, int], latent_size: int, images: int) -> None:
    run = Run(tmp_path)
    run.metrics.write_text(json.dumps(line(1)) + "\n")
    pixels = random_pixels(images, *shape)
    model = VAE(VAEConfig("mlp", shape, latent_size, 8))
    draw_pictures(model, Dataset("x", pixels, pixels, pixels), run)
    assert sorted(path.name for path in run.pictures.iterdir()) == [f"{name}.png" for name in PICTURES]
    for path in run.pictures.iterdir():
        with Image.open(path) as image:
            image.load()
            assert 50 < min(image.size) <= max(image.size) < 3000


def test_tiles_are_row_by_row_with_gaps_below_the_words() -> None:
    levels = torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1).expand(6, 1, 56, 56)
    grid = Grid(levels, 3, "Title", "note", heads=("a", "b", "c"), rows=("first", "second"), breaks=(1,))
    pixels = np.asarray(pictures.draw_grid(grid))
    # Where a level of 0 to 5 fills 56 x 56 pixels, no letter is.
    found = {}
    for level in range(6):
        ys, xs = np.nonzero((pixels == level).all(-1))
        assert (len(ys), np.ptp(ys), np.ptp(xs)) == (56 * 56, 55, 55), level
        found[level] = (int(ys.min()), int(xs.min()))
    assert found[1][0] == found[0][0]
    assert found[1][1] - found[0][1] == 56 + 12
    assert found[2][1] - found[1][1] == 56 + 4
    assert found[3][0] - found[0][0] == 56 + 4
    assert (pixels[: found[0][0]] < 100).any()  # words above
    assert (pixels[:, : found[0][1]] < 150).any()  # and at the left


def test_long_note_is_wrapped_and_never_cut() -> None:
    tile = torch.zeros(1, 1, 56, 56, dtype=torch.uint8)
    short, long = (pictures.draw_grid(Grid(tile, 1, "Title", note)) for note in ("word", "word " * 100))
    assert long.height > short.height + 100
    assert long.width < 500
    assert (np.asarray(long)[:, -16:] == 255).all()


def test_tiles_are_enlarged_by_whole_numbers_or_averaged_down() -> None:
    small, large = torch.rand(2, 1, 28, 28), torch.rand(2, 3, 512, 256)
    assert pictures.to_tiles(small).shape == (2, 1, 56, 56)
    assert torch.equal(pictures.to_tiles(small)[:, :, ::2, 1::2], (small * 255).round().to(torch.uint8))
    assert pictures.to_tiles(large).shape == (2, 3, 128, 64)
    assert abs(pictures.to_tiles(large).float().mean() / 255 - large.mean()) < 0.01


def test_reconstructions_are_right_of_their_originals() -> None:
    model, pixels = RecordingModel(2, side=56), random_pixels(4, 1, 56, 56)
    grid = pictures.reconstructions(model, pixels)
    assert grid.columns % 2 == 0
    assert torch.equal(grid.tiles[0::2], pixels)
    assert torch.equal(grid.tiles[1::2], pictures.to_tiles(model.decode(model.encode(pixels / 255)[0])))


def test_manifold_spans_the_two_units_of_most_kl() -> None:
    model = RecordingModel(4)
    grid = pictures.manifold(model, score_with(0.1, 2.0, 3.0, 0.0), side=5)
    plane = model.latents.reshape(5, 5, 4)
    assert (plane[:, :, [0, 3]] == 0).all()
    even = pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9], abs=1e-6)
    for row in range(5):
        assert torch.special.ndtr(plane[row, :, 2]).tolist() == even
        assert torch.special.ndtr(plane[:, row, 1].flip(0)).tolist() == even
    assert "unit 2 from left to right, unit 1 from bottom to top" in grid.note
    assert "two units with most KL (3.0 and 2.0 nats), the other 2 at 0" in grid.note
    assert list(grid.heads) == ["−1.3", "−0.5", "0.0", "0.5", "1.3"] == list(grid.rows)[::-1]


def test_manifold_of_two_units_mentions_no_others() -> None:
    assert "other" not in pictures.manifold(RecordingModel(2), score_with(1.0, 2.0)).note


def test_traversal_varies_one_unit_a_row_most_kl_first() -> None:
    model, pixels = RecordingModel(4), random_pixels(1, 8, 8)
    grid = pictures.traversal(model, score_with(0.1, 2.0, 0.0, 3.0), pixels)
    rows, rest = model.latents.reshape(4, 13, 4), model.encode(pixels[None] / 255)[0][0]
    for row, unit in enumerate((3, 1, 0, 2)):
        assert rows[row, :, unit].tolist() == pytest.approx(torch.linspace(-3, 3, 13).tolist())
        others = [other for other in range(4) if other != unit]
        torch.testing.assert_close(rows[row][:, others], rest[others].expand(13, 3))
    assert grid.rows[0] == "unit 3: 3.00 nats"


def test_interpolation_is_a_straight_line_between_two_images() -> None:
    model, pixels = RecordingModel(3, side=56), random_pixels(5, 1, 56, 56)
    grid = pictures.interpolation(model, pixels, steps=3)
    mean = model.encode(pixels / 255)[0]
    assert grid.tiles.shape[0] == 2 * grid.columns == 2 * 5  # the odd image is left out
    assert torch.equal(grid.tiles[[0, 4, 5, 9]], pixels[:4])
    expected = torch.stack((mean[0], (mean[0] + mean[1]) / 2, mean[1]))
    torch.testing.assert_close(model.latents[:3], expected)


def test_drawing_changes_no_network_and_no_random_state() -> None:
    network = VAE(VAEConfig("blog", (1, 8, 8), 3, 8)).train()
    before = torch.get_rng_state()
    pictures.samples(PyTorchModel(network), score_with(1.0, 2.0, 3.0))
    assert network.training
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_curves_are_repeatable_bytes(name: LikelihoodName) -> None:
    lines, kind = [line(epoch, 9.0 / epoch) for epoch in (1, 2, 3)], ScoreKind("grey", Likelihood(name), (1, 8, 8))
    assert draw_curves(lines, kind) == draw_curves(lines, kind)


@pytest.mark.parametrize("count", [1, 2])
def test_curves_of_few_epochs_have_integer_ticks(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(pictures, "_png", figures.append)
    draw_curves([line(epoch) for epoch in range(1, count + 1)], GREY)
    for axes in figures[0].axes:
        low, high = axes.get_xlim()
        shown = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert shown == [*range(1, count + 1)]


def test_charts_of_one_epoch_and_of_many_inactive_units() -> None:
    dead = replace(score_with(*[0.0] * 300), unit_variances=(0.0,) * 300)
    many = score_with(*[0.5] * 2000)
    for data in (draw_curves([line(1)], GREY), *map(draw_units, (dead, many, score_with(1.0)))):
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            assert image.width < 3000
