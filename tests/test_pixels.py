"""Grey levels: a pixel on the boundary between two is explained by the band, any other that differs is not."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parity.conftest import examples
from vae_export.pixels import GreyLevels, compare_levels, to_levels

RANGES = st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
UNIT = st.lists(st.floats(0, 1), min_size=1, max_size=20).map(np.array)


def within(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + values * (high - low)


def test_pixels_match_levels_of_specification() -> None:
    text = (Path(__file__).parent.parent / "docs" / "bundle-format.md").read_text("utf-8")
    (pixels, bytes_) = re.search(r"^\| pixel, range \[0, 1\] \|(.*)\|\n.*\n\| byte \|(.*)\|$", text, re.M).groups()  # type: ignore[union-attr]
    expected = [int(level) for level in bytes_.split("|")]
    assert len(expected) == 9
    assert to_levels(np.array([float(pixel) for pixel in pixels.split("|")]), 0, 1).tolist() == expected
    (e, g, band, other) = (np.array([value]) for value in (0.50392, 0.503925, 1e-5, 0.5039))
    assert all(f"{value:g}" in text for value in (e[0], g[0], other[0]))
    assert compare_levels(g, e, low=0, high=1, tolerance=band[0]) == GreyLevels(1, 0, 1)
    assert compare_levels(g, other, low=0, high=1, tolerance=band[0]).unexplained == 1


@examples
@given(UNIT, RANGES, st.floats(0, 0.1))
def test_image_has_the_grey_levels_of_itself(values: np.ndarray, bounds: tuple[float, float], band: float) -> None:
    image = within(values, *bounds)
    assert compare_levels(image, image, low=bounds[0], high=bounds[1], tolerance=band) == GreyLevels(0, 0, 0)


@examples
@given(UNIT, RANGES, st.floats(1e-9, 0.1), st.integers(0, 2**32 - 1))
def test_difference_within_the_tolerance_is_explained(
    values: np.ndarray, bounds: tuple[float, float], band: float, seed: int
) -> None:
    exact = within(values, *bounds)
    image = exact + np.random.default_rng(seed).uniform(-0.99, 0.99, exact.shape) * band
    assert compare_levels(image, exact, low=bounds[0], high=bounds[1], tolerance=band).unexplained == 0


@examples
@given(UNIT, UNIT.map(lambda values: values[0]), st.floats(0, 0.01), st.floats(0, 0.01))
def test_wider_tolerance_explains_no_less(values: np.ndarray, shift: float, one: float, other: float) -> None:
    image = np.clip(values + shift, 0, 1)
    narrow, wide = (compare_levels(image, values, low=0, high=1, tolerance=band) for band in sorted((one, other)))
    assert wide.unexplained <= narrow.unexplained <= narrow.differing == wide.differing
    assert (narrow.worst > 0) == (narrow.differing > 0)


@examples
@given(st.lists(st.floats(-0.5, 1.5), min_size=2, max_size=20).map(sorted))
def test_brighter_pixel_has_no_lower_level(values: list[float]) -> None:
    found = to_levels(np.array(values), 0.0, 1.0)
    assert (np.diff(found) >= 0).all()
    assert found.min() >= 0
    assert found.max() <= 255


@pytest.mark.parametrize("level", [0, 1, 127, 128, 254])
def test_boundary_pixel_is_explained_neighbour_is_not(level: int) -> None:
    boundary = (level + 0.5) / 255
    exact, image = np.array([boundary - 1e-8]), np.array([boundary + 1e-8])
    assert compare_levels(image, exact, low=0, high=1, tolerance=1e-7) == GreyLevels(1, 0, 1)
    assert compare_levels(image, exact, low=0, high=1, tolerance=1e-9) == GreyLevels(1, 1, 1)
    assert compare_levels(image, exact - 1e-3, low=0, high=1, tolerance=1e-7) == GreyLevels(1, 1, 1)


def test_levels_are_rounded_half_up_and_clipped() -> None:
    image = np.array([-1.0, 0.0, 0.49 / 255, 0.5 / 255, 1.0, 2.0])
    assert to_levels(image, 0.0, 1.0).tolist() == [0, 0, 0, 1, 255, 255]
    assert to_levels(np.array([-1.0, 0.0, 1.0]), -1.0, 1.0).tolist() == [0, 128, 255]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-0.3, 0.9)])
@pytest.mark.parametrize("beyond", [0.0, 0.1])
def test_many_pixels_have_the_levels_of_the_formula(dtype: type, bounds: tuple[float, float], beyond: float) -> None:
    low, high = bounds
    image = np.random.default_rng(0).uniform(low - beyond, high + beyond, (7, 3, 40, 50)).astype(np.float32)
    image = np.clip(image, low - beyond, high + beyond).transpose(0, 3, 1, 2)  # its memory is in another order
    expected = np.floor(np.clip((image.astype(np.float64) - low) / (high - low) * 255, 0, 255) + 0.5)
    found = to_levels(image, low, high, dtype)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)


def test_worst_difference_is_in_grey_levels() -> None:
    found = compare_levels(np.array([0.0, 1.0, 0.5]), np.array([1.0, 1.0, 0.5]), low=0, high=1, tolerance=1e-6)
    assert found == GreyLevels(1, 1, 255)


def test_boundary_pixel_excuses_no_more_than_the_tolerance() -> None:
    """0.5 lies on a boundary exactly: 127.5 of 255. That explains one level and not 25."""
    exact = np.array([0.5, 0.5])
    assert compare_levels(np.array([0.5 - 1e-8, 0.6]), exact, low=0, high=1, tolerance=1e-7) == GreyLevels(2, 1, 25)
