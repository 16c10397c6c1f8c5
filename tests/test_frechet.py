"""The Fréchet distance is that of the closed forms, and of the matrix square root."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vae_export.frechet import frechet_distance


@given(st.floats(-5, 5), st.floats(0.1, 3))
def test_distance_from_a_shifted_and_scaled_copy_is_the_closed_form(shift: float, scale: float) -> None:
    """For a set and its shifted and scaled copy: |shift|² F + (scale - 1)² tr(covariance)."""
    features = np.random.default_rng(0).standard_normal((200, 4))
    centred = features - features.mean(0)
    spread = np.trace(np.cov(centred, rowvar=False))
    found = frechet_distance(centred, centred * scale + shift)
    assert found == pytest.approx(4 * shift**2 + (scale - 1) ** 2 * spread, rel=1e-9, abs=1e-9)


def test_distance_of_gaussians_is_the_closed_form() -> None:
    generator = np.random.default_rng(0)
    first = generator.normal(size=(4000, 3))
    first = (first - first.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(first, rowvar=False))).T
    assert np.cov(first, rowvar=False) == pytest.approx(np.eye(3), abs=1e-9)
    mean, deviations = np.array([1.0, -2.0, 0.5]), np.array([1.0, 3.0, 0.0])
    expected = np.square(mean).sum() + np.square(deviations - 1).sum()
    assert frechet_distance(first, first * deviations + mean) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(first * deviations + mean, first) == pytest.approx(expected, rel=1e-9)


def test_distance_of_correlated_gaussians_agrees_with_the_matrix_square_root() -> None:
    from scipy.linalg import sqrtm

    generator = np.random.default_rng(1)
    first, second = (generator.normal(size=(200, 4)) @ generator.normal(size=(4, 4)) for _ in range(2))
    covariances = [np.cov(features, rowvar=False) for features in (first, second)]
    shift = first.mean(0) - second.mean(0)
    root = sqrtm(covariances[0] @ covariances[1]).real
    expected = shift @ shift + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)


def test_distance_of_more_features_than_images_is_that_of_their_span() -> None:
    generator = np.random.default_rng(2)
    first, second = (generator.normal(size=(30, 4)) for _ in range(2))
    turned, _ = np.linalg.qr(generator.normal(size=(500, 4)))
    expected = frechet_distance(first, second)
    assert frechet_distance(first @ turned.T, second @ turned.T) == pytest.approx(expected, rel=1e-9)
