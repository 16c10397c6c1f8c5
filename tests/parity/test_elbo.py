"""Nats per image match closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parity.conftest import examples
from vae_export.contract import Contract
from vae_export.parity.elbo import nats_per_image

BERNOULLI = Contract((1, 1, 4), (3,))
GAUSSIAN = Contract((1, 1, 1), (1,), (-8.0, 8.0))
seeds = st.integers(0, 2**32 - 1)


@examples
@given(seeds, st.integers(1, 16))
def test_true_posterior_gives_the_evidence_for_every_sample(seed: int, count: int) -> None:
    """If p(z) = N(0, 1) and p(x|z) = N(z, 1), then p(z|x) = N(x/2, 1/2) and p(x) = N(0, 2), whatever the noise."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-8, 8, (5, 1, 1, 1))
    mean, logvar = x.reshape(5, 1) / 2, np.full((5, 1), -math.log(2))
    noise = rng.standard_normal((count, 5, 1))
    decoded = (mean + noise * np.exp(logvar / 2)).reshape(count, 5, 1, 1, 1)
    found = nats_per_image(GAUSSIAN, x, mean, logvar, noise, decoded)
    evidence = x.reshape(5) ** 2 / 4 + math.log(4 * math.pi) / 2
    np.testing.assert_allclose(found["iwae_nll"], evidence, rtol=1e-9, atol=1e-9)


def test_nats_of_one_sample_match_explicit_densities() -> None:
    rng = np.random.default_rng(0)
    x, decoded = rng.uniform(0, 1, (6, 1, 1, 4)), rng.uniform(0.01, 0.99, (1, 6, 1, 1, 4))
    mean, logvar, noise = rng.standard_normal((6, 3)), rng.standard_normal((6, 3)), rng.standard_normal((1, 6, 3))
    z = mean + noise[0] * np.exp(logvar / 2)

    def log_normal(value: np.ndarray, mean: np.ndarray, logvar: np.ndarray) -> np.ndarray:
        return (-0.5 * ((value - mean) ** 2 / np.exp(logvar) + logvar + math.log(2 * math.pi))).sum(-1)

    flat, pixels = x.reshape(6, 4), decoded.reshape(6, 4)
    likelihood = (flat * np.log(pixels) + (1 - flat) * np.log(1 - pixels)).sum(-1)
    weight = likelihood + log_normal(z, np.zeros(3), np.zeros(3)) - log_normal(z, mean, logvar)
    kl = 0.5 * (mean**2 + np.exp(logvar) - logvar - 1).sum(-1)
    found = nats_per_image(BERNOULLI, x, mean, logvar, noise, decoded)
    np.testing.assert_allclose(found["iwae_nll"], -weight, rtol=1e-12)
    np.testing.assert_allclose(found["negative_elbo"], kl - likelihood, rtol=1e-12)


def test_posterior_equal_to_the_prior_has_no_kl() -> None:
    x, noise = np.full((2, 1, 1, 4), 0.25), np.random.default_rng(0).standard_normal((8, 2, 3))
    found = nats_per_image(BERNOULLI, x, np.zeros((2, 3)), np.zeros((2, 3)), noise, np.full((8, 2, 1, 1, 4), 0.5))
    for values in found.values():
        np.testing.assert_allclose(values, 4 * math.log(2), rtol=1e-12)


@examples
@given(seeds)
def test_importance_weighted_nats_never_exceed_the_negative_elbo(seed: int) -> None:
    """Jensen's inequality; noise of mean 0 and variance 1 makes the KL of the samples equal to the closed form."""
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], (1, 5, 3))
    x, decoded = rng.uniform(0, 1, (5, 1, 1, 4)), rng.uniform(0, 1, (2, 5, 1, 1, 4))
    mean, logvar = rng.normal(0, 2, (5, 3)), rng.normal(0, 2, (5, 3))
    found = nats_per_image(BERNOULLI, x, mean, logvar, np.concatenate([signs, -signs]), decoded)
    assert (found["iwae_nll"] <= found["negative_elbo"] + 1e-9).all()


def test_impossible_pixels_cost_finite_nats() -> None:
    x, zeros = np.zeros((1, 1, 1, 4)), np.zeros((1, 3))
    found = nats_per_image(BERNOULLI, x, zeros, zeros, np.zeros((1, 1, 3)), np.ones((1, 1, 1, 1, 4)))
    assert found["negative_elbo"][0] == pytest.approx(4 * 24 * math.log(2))


def test_nan_images_give_nan_nats() -> None:
    """The row can then report the fault."""
    x, zeros = np.zeros((1, 1, 1, 4)), np.zeros((1, 3))
    found = nats_per_image(BERNOULLI, x, zeros, zeros, np.zeros((1, 1, 3)), np.full((1, 1, 1, 1, 4), np.nan))
    assert np.isnan(found["negative_elbo"]).all()
