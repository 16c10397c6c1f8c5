"""p(x|z): each formula against closed forms, and what no likelihood takes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vae_export import Contract
from vae_export.errors import ModelError
from vae_export.likelihood import LIKELIHOODS, SPREADS, Likelihood, LikelihoodName
from vae_export.models import VAE, VAEConfig

unit = st.floats(0, 1)
log_scales = st.floats(-5.5, 0)


@given(unit, st.floats(0.001, 0.999))
def test_bernoulli(x: float, mean: float) -> None:
    expected = x * math.log(mean) + (1 - x) * math.log(1 - mean)
    assert Likelihood().log_prob(np.asarray(x), np.asarray(mean), None) == pytest.approx(expected)


@given(unit, unit, log_scales)
def test_both_gaussians_are_the_normal_density(x: float, mean: float, log_scale: float) -> None:
    scale = math.exp(log_scale)
    expected = torch.distributions.Normal(mean, scale).log_prob(torch.tensor(x, dtype=torch.float64)).item()
    pixel, centre, logvar = np.asarray(x), np.asarray(mean), np.asarray(2 * log_scale)
    assert Likelihood("gaussian").log_prob(pixel, centre, logvar) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    fixed = Likelihood("gaussian-fixed", scale).log_prob(pixel, centre, None)
    assert fixed == pytest.approx(expected, rel=1e-4, abs=1e-4)


@given(unit, log_scales, st.sampled_from([(0.0, 1.0), (-1.0, 1.0)]))
def test_discretised_logistic_sums_to_one_over_levels(mean: float, log_scale: float, ends: tuple[float, float]) -> None:
    low, high = ends
    levels, centre, spread = np.linspace(low, high, 256), np.asarray(low + mean * (high - low)), np.asarray(log_scale)
    ours = np.exp(Likelihood("discretised-logistic").log_prob(levels, centre, spread, low=low, high=high))
    assert ours.sum() == pytest.approx(1, rel=1e-9)
    edges = (levels[:-1] + levels[1:]) / 2
    below = np.concatenate(([0], 1 / (1 + np.exp(-(edges - centre) / math.exp(log_scale))), [1]))
    np.testing.assert_allclose(ours, np.diff(below), atol=1e-12)


@given(st.lists(unit, min_size=3, max_size=3), log_scales)
def test_colours_sum_to_one_over_levels_whatever_green_is(mean: list[float], log_scale: float) -> None:
    likelihood, centre = Likelihood("discretised-logistic-colour"), np.reshape(mean, (3, 1, 1))
    levels = np.linspace(0, 1, 256).reshape(-1, 1, 1, 1)
    green = np.exp(likelihood.log_prob(np.broadcast_to(levels, (256, 3, 1, 1)), centre, np.full((3, 1, 1), log_scale)))
    assert green[:, 1].sum() == pytest.approx(1, rel=1e-9)
    for level in (0.0, 0.6, 1.0):
        seen = np.concatenate([levels, np.full_like(levels, level), levels], axis=1)
        chance = np.exp(likelihood.log_prob(seen, centre, np.full((3, 1, 1), log_scale)))
        np.testing.assert_allclose(chance[:, [0, 2]].sum(0).ravel(), 1, rtol=1e-9)


def test_colour_as_far_off_as_green_is_the_most_probable() -> None:
    mean, spread = np.full((3, 1, 1), 0.5), np.full((3, 1, 1), -4.0)
    image = np.reshape([0.6, 0.6, 0.5], (3, 1, 1))
    red, _, blue = Likelihood("discretised-logistic-colour").log_prob(image, mean, spread).ravel()
    alone = Likelihood("discretised-logistic").log_prob(image, mean, spread).ravel()
    assert red > alone[0]
    assert blue < alone[2]


@pytest.mark.parametrize("shape", [(4, 1, 5, 5), (4, 2, 5, 5), (3,)])
def test_images_without_three_channels_are_judged_channel_by_channel(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    image, mean, spread = rng.random(shape), rng.random(shape), -5 * rng.random(shape)
    grey = Likelihood("discretised-logistic").log_prob(image, mean, spread)
    colour = Likelihood("discretised-logistic-colour").log_prob(image, mean, spread)
    np.testing.assert_array_equal(grey, colour)


@given(log_scales)
def test_impossible_level_has_a_finite_low_probability(log_scale: float) -> None:
    costs = Likelihood("discretised-logistic").log_prob(np.linspace(0, 1, 256), np.zeros(256), np.full(256, log_scale))
    assert np.isfinite(costs).all()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_outputs_are_those_of_the_contract_in_every_part(name: LikelihoodName) -> None:
    torch.manual_seed(0)
    model = VAE(VAEConfig("conv", (3, 8, 8), 4, 16, likelihood=Likelihood(name))).eval()
    contract = model.config.contract
    decoder, autoencoder = contract.spec("decoder").outputs, contract.spec("autoencoder").outputs
    spread = SPREADS.get(name)
    assert [tensor.name for tensor in decoder] == ["image", *([] if spread is None else [f"image_{spread}"])]
    assert [tensor.name for tensor in autoencoder[:4]] == ["reconstruction", "mean", "logvar", "latent"]
    assert [tensor.name for tensor in autoencoder[4:]] == ([] if spread is None else [f"reconstruction_{spread}"])
    given = model.decoder(torch.randn(5, 4) * 100)
    outputs = given if isinstance(given, tuple) else (given,)
    assert len(outputs) == len(decoder)
    assert all(output.shape == (5, 3, 8, 8) for output in outputs)
    assert outputs[0].min() >= 0
    assert outputs[0].max() <= 1
    if spread is not None:  # from the deviation of one grey level to that of the whole range
        log_scale = outputs[1] / (2 if spread == "logvar" else 1)
        assert log_scale.min() >= -math.log(255) - 1e-5
        assert log_scale.max() <= 0


@given(st.sampled_from(LIKELIHOODS), st.floats(0.001, 10))
def test_survives_json_in_a_contract(name: LikelihoodName, scale: float) -> None:
    likelihood = Likelihood(name, scale if name == "gaussian-fixed" else 1.0)
    contract = Contract((1, 2, 3), (4,), likelihood=likelihood)
    assert Contract.from_json(json.loads(json.dumps(contract.to_json(), allow_nan=False))) == contract


def test_early_contract_without_likelihood_loads() -> None:
    contract = Contract((1, 2, 3), (4,))
    data = contract.to_json()
    del data["likelihood"]
    assert Contract.from_json(data) == contract
    assert [tensor.name for tensor in contract.spec("decoder").outputs] == ["image"]


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "cauchy"},
        {"name": ["bernoulli"]},
        {"name": "gaussian-fixed", "scale": 0.0},
        {"name": "gaussian-fixed", "scale": math.inf},
        {"name": "gaussian-fixed", "scale": "wide"},
        {"name": "gaussian", "scale": 0.5},
        {"name": "gaussian-fixed"},
        {"name": "gaussian-fixed", "scale": "0.1"},
        {"name": "gaussian-fixed", "scale": True},
        {"scale": 1.0},
        "bernoulli",
        3,
    ],
)
def test_invalid_likelihood_is_refused(bad: object) -> None:
    with pytest.raises(ModelError):
        Contract.from_json(Contract((1, 2, 3), (4,)).to_json() | {"likelihood": bad})


def test_unknown_keys_of_a_likelihood_are_ignored() -> None:
    document = Contract((1, 2, 3), (4,)).to_json() | {"likelihood": {"name": "bernoulli", "scale": 1, "later": [1]}}
    assert Contract.from_json(document).likelihood == Likelihood("bernoulli")


def test_bernoulli_needs_pixels_between_0_and_1() -> None:
    with pytest.raises(ModelError, match="likelihood bernoulli; expected values in"):
        Contract((1, 2, 3), (4,), (-1.0, 1.0), Likelihood("bernoulli"))


def test_missing_decoder_output_is_named() -> None:
    with pytest.raises(ModelError, match="expected image_logvar"):
        Likelihood("gaussian").log_prob(np.full(1, 0.5), np.full(1, 0.5), None)
