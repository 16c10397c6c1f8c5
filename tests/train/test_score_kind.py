"""What scores are of decides their names, and whether they are bits per dimension."""

from __future__ import annotations

import math

import numpy as np
import pytest

from train.config import DataProtocol
from train.results import ScoreKind
from vae_export.likelihood import Likelihood, LikelihoodName

COLOUR = (3, 8, 8)


def test_levels_of_three_channels_are_colour() -> None:
    grey, colour = (ScoreKind("grey", Likelihood(), shape) for shape in ((1, 8, 8), COLOUR))
    binary = ScoreKind("dynamic", Likelihood(), COLOUR)
    assert (grey.pixels, colour.pixels, binary.pixels) == ("grey", "colour", "dynamic")
    assert colour.describe() == "colour pixels under a Bernoulli: no likelihood"
    assert colour.bits_per_dim(100.0) is None


@pytest.mark.parametrize(
    ("name", "protocol"), [("discretised-logistic", "grey"), ("bernoulli", "dynamic"), ("bernoulli", "static")]
)
def test_bits_of_a_probability_are_its_nats_in_another_unit(name: LikelihoodName, protocol: DataProtocol) -> None:
    nats = 3 * 8 * 8 * math.log(2)
    assert ScoreKind(protocol, Likelihood(name), COLOUR).bits_per_dim(nats) == pytest.approx(1)


def test_density_and_probability_of_the_same_distribution_have_about_the_same_bits() -> None:
    """A wide logistic is nearly uniform between two levels: its density is its probability times 255."""
    pixels, location, scale = np.arange(1, 255) / 255, 0.5, 0.1
    probability = -Likelihood("discretised-logistic").log_prob(
        pixels, np.full(254, location), np.full(254, math.log(scale))
    )
    centred = (pixels - location) / scale
    density = centred + math.log(scale) + 2 * np.log1p(np.exp(-centred))
    likelihoods = Likelihood("discretised-logistic"), Likelihood("gaussian")
    bits = [
        ScoreKind("grey", likelihood, (1, 1, 1)).bits_per_dim(nats.mean())
        for likelihood, nats in zip(likelihoods, (probability, density), strict=True)
    ]
    assert bits[0] == pytest.approx(bits[1], abs=1e-3)
