"""Tiles cover data of any size, and give what the whole gives where a network sees no further than the overlap."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.conftest import Exported
from vae_export import Contract, Model, Source, export, load
from vae_export.errors import ModelError, UsageError
from vae_export.runtime.tiling import Tiling
from vae_export.tensors import Symbol

pytestmark = pytest.mark.slow


class Smooth(nn.Module):
    """latent (N, 2, h, w) → image (N, 3, 4h, 4w) in [0, 1]; a pixel depends on latents at most 2 away."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.up = nn.Conv2d(2, 4, 5, padding=2), nn.ConvTranspose2d(4, 3, 4, stride=4)

    def forward(self, latent: Tensor) -> Tensor:
        return torch.sigmoid(self.up(self.near(latent)))


CONTRACT = Contract((3, "4*h", "4*w"), (2, "h", "w"), symbols={"h": Symbol(1, 16, 4), "w": Symbol(1, 16, 4)})


@pytest.fixture(scope="module")
def smooth(tmp_path_factory: pytest.TempPathFactory) -> Model:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiles") / "export"
    export(Source(CONTRACT, decoder=Smooth()), folder, minutes=0.02)
    return load(folder, threads=1)


@pytest.fixture
def maps(extended: Callable[[str], Path]) -> Model:
    return load(extended("maps") / "export", threads=1)


def latents(rows: int, *sizes: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, 2, *sizes), dtype=np.float32)


def test_one_tile_is_the_whole(smooth: Model) -> None:
    latent = latents(2, 6, 5)
    assert np.array_equal(smooth.decode(latent, tile=8), smooth.decode(latent))


@pytest.mark.parametrize(("tile", "overlap"), [(4, 0), (4, 1), (4, 3), (5, None)])
@pytest.mark.parametrize("sizes", [(13, 9), (4, 16), (5, 5)])
def test_tiles_give_the_whole_where_each_is_on_its_own(
    maps: Model, sizes: tuple[int, int], tile: int, overlap: int | None
) -> None:
    latent = latents(3, *sizes)
    whole = maps.decode(latent)
    np.testing.assert_allclose(maps.decode(latent, tile=tile, overlap=overlap), whole, atol=1e-6)
    for tiled, part in zip(maps.encode(whole, tile=4 * tile), maps.encode(whole), strict=True):
        np.testing.assert_allclose(tiled, part, atol=1e-5)


def test_overlap_removes_the_seams(smooth: Model) -> None:
    """Without overlap, the edges of tiles are off by their zero padding; with one of twice the view, nearly nothing."""
    latent = latents(1, 16, 16)
    whole = smooth.decode(latent)
    errors = [np.abs(smooth.decode(latent, tile=10, overlap=overlap) - whole).max() for overlap in (0, 4, 8)]
    assert errors[2] < errors[1] < errors[0]
    assert errors[0] > 0.02


def test_tiles_may_be_used_where_the_whole_is_out_of_bounds(smooth: Model) -> None:
    latent = latents(1, 40, 17)
    with pytest.raises(ModelError, match="size out of bounds"):
        smooth.decode(latent)
    assert smooth.decode(latent, tile=16).shape == (1, 3, 160, 68)


def test_tiles_are_written_into_the_given_array(smooth: Model) -> None:
    latent, out = latents(1, 12, 7), np.full((1, 3, 48, 28), 5, np.float32)
    assert smooth.decode(latent, tile=8, overlap=2, out=out) is out
    assert np.array_equal(out, smooth.decode(latent, tile=8, overlap=2))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 16), st.integers(0, 15))
def test_weights_of_an_element_sum_to_1(height: int, width: int, tile: int, overlap: int) -> None:
    tiling = Tiling.of(CONTRACT.spec("decoder"), tile, min(overlap, tile - 1))
    image = np.full((1, 3, 4 * height, 4 * width), 9, np.float32)
    tiles = []

    def ones(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        tiles.append(inputs["latent"].shape[2:])
        return {"image": np.ones((1, 3, 4 * tiles[-1][0], 4 * tiles[-1][1]), np.float32)}

    tiling.run(ones, {"latent": latents(1, height, width)}, {"image": image})
    np.testing.assert_allclose(image, 1, atol=1e-5)
    assert set(tiles) == {(min(tile, height), min(tile, width))}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tile": 0}, "bad tile"),
        ({"tile": 2.5}, "bad tile"),
        ({"tile": 17}, "tile is out of bounds; expected 1 to 16, got 17"),
        ({"tile": 4, "overlap": 4}, "overlap is too large; expected less than the tile of 4, got 4"),
        ({"tile": 4, "overlap": -1}, "bad overlap"),
        ({"overlap": 1}, "overlap without a tile"),
    ],
)
def test_tiles_that_do_not_fit_are_refused(smooth: Model, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        smooth.decode(latents(1, 5, 5), **options)


def test_tiles_of_pixels_are_multiples_of_the_step(maps: Model) -> None:
    image = maps.decode(latents(1, 8, 8))
    with pytest.raises(UsageError, match="tile does not fit the network; expected a multiple of 4, got 10"):
        maps.encode(image, tile=10)
    with pytest.raises(UsageError, match="overlap does not fit the network; expected a multiple of 4, got 2"):
        maps.encode(image, tile=8, overlap=2)


def test_fixed_sizes_and_codes_are_not_tiled(mlp: Exported, extended: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match="part cannot be tiled: decoder"):
        load(mlp.folder).decode(np.zeros((1, 4), np.float32), tile=2)
    codes = load(extended("codes") / "export")
    with pytest.raises(ModelError, match="outputs cannot be blended: encoder"):
        codes.encode(np.zeros((1, 3, 16, 16), np.float32), tile=8)
    given = np.arange(60, dtype=np.int64).reshape(1, 6, 10) % 32
    np.testing.assert_allclose(codes.decode(given, tile=3, overlap=1), codes.decode(given), atol=1e-6)


def test_faults_of_a_tile_are_named(smooth: Model) -> None:
    latent = latents(1, 20, 20)
    latent[0, 1, 17, 3] = np.nan
    with pytest.raises(ModelError, match=r"not finite: tensor 'latent' at \(0, 1, 17, 3\)"):
        smooth.decode(latent, tile=8)
    with pytest.raises(ModelError, match="wrong shape"):
        smooth.decode(latents(1, 20), tile=8)
