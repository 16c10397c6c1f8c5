"""Scores match known answers and do not depend on order, seed or mode."""

from __future__ import annotations

import math

import pytest
import torch

from train.scoring import PyTorchModel, Score
from train.scoring import evaluate_model as evaluate_scored
from vae_export.models import VAE, VAEConfig

PIXELS = torch.randint(0, 256, (50, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def evaluate(model: VAE, pixels: torch.Tensor) -> Score:
    return evaluate_scored(PyTorchModel(model), pixels)


@pytest.fixture
def model() -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig("mlp", (1, 8, 8), 3, 16))


def test_network_of_zeros_scores_one_bit_a_pixel(model: VAE) -> None:
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    score = evaluate(model, PIXELS)
    assert score.negative_elbo == pytest.approx(64 * math.log(2), rel=1e-6)
    assert (score.kl, score.active_units, score.images) == (0, 0, 50)
    assert score.standard_error == pytest.approx(0, abs=1e-4)


def test_unit_whose_mean_follows_the_image_is_active(model: VAE) -> None:
    for parameter in model.encoder.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():  # unit 1 reads a hidden unit that reads the first pixel
        model.encoder.body[1].weight[0, 0] = model.encoder.body[3].weight[0, 0] = model.encoder.mean.weight[1, 0] = 1
    score = evaluate(model, PIXELS)
    pixel = PIXELS[:, 0, 0, 0].double() / 255
    assert score.active_units == 1
    assert score.unit_variances[1] == max(score.unit_variances)
    assert score.unit_variances[1] == pytest.approx(pixel.var(correction=0).item(), rel=1e-5)
    assert score.kl == pytest.approx((pixel**2 / 2).mean().item(), rel=1e-5)


def test_bound_is_the_sum_of_its_terms_and_is_sampled(model: VAE) -> None:
    with torch.no_grad():
        model.encoder.logvar[0].bias.fill_(3)
        model.decoder.body[0].weight.mul_(5)
    score = evaluate(model, PIXELS)
    assert score.negative_elbo == pytest.approx(score.reconstruction + score.kl)
    image = PIXELS.float() / 255
    at_the_mean = torch.nn.functional.binary_cross_entropy(
        model.decoder(model.encoder(image)[0]), image, reduction="sum"
    ).item() / len(image)
    assert abs(score.reconstruction - at_the_mean) > 0.1


def test_standard_error_is_that_of_the_mean_over_images(model: VAE) -> None:
    once, nine_times = evaluate(model, PIXELS), evaluate(model, PIXELS.repeat(9, 1, 1, 1))
    assert once.standard_error / nine_times.standard_error == pytest.approx(3, rel=0.2)


def test_scores_are_repeatable_and_change_no_state(model: VAE) -> None:
    model.train()
    before = torch.get_rng_state()
    first = evaluate(model, PIXELS)
    assert first == evaluate(model, PIXELS)
    assert model.training
    assert torch.equal(before, torch.get_rng_state())


def test_one_image_can_be_scored(model: VAE) -> None:
    score = evaluate(model, PIXELS[:1])
    assert score.is_finite
    assert (score.standard_error, score.active_units) == (0, 0)
