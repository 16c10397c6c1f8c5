"""Whitening changes the coordinates of the latents, so that samples of the prior fit, and no reconstruction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from tests.train.conftest import Invoke, one_line
from train.fit import fit
from train.initial_weights import initial_model
from train.loss import to_unit_range
from train.scoring import PyTorchModel, evaluate_model
from train.whitening import whitened
from vae_export.models import VAE, VAEConfig
from vae_export.models.checkpoint import load_checkpoint
from vae_export.models.config import Family
from vae_export.runs import Run


def digits() -> Tensor:
    levels = torch.from_numpy(load_digits().images[:600] * 15.9).to(torch.uint8)
    return levels[:, None]


def lopsided(family: Family, pixels: Tensor) -> VAE:
    """Return a network whose latents are correlated, unequal and off the centre."""
    model = initial_model(VAEConfig(family, (1, 8, 8), latent_size=4, hidden_size=16), pixels, seed=0)
    head = model.encoder.mean
    assert isinstance(head, torch.nn.Linear)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0], [2.0], [0.5], [1.5]]) * head.weight[:1] + 0.3 * head.weight)
        head.bias.copy_(torch.tensor([1.0, -2.0, 0.0, 3.0]))
    return model


@pytest.mark.parametrize("family", ["mlp", "conv", "residual", "resnet"])
def test_whitened_latents_are_standard_normal_in_mean_and_covariance(family: Family) -> None:
    pixels = digits()
    before = lopsided(family, pixels)
    after = whitened(before, pixels)
    with torch.no_grad():
        mean, logvar = after.encoder(to_unit_range(pixels))
        old, _ = before.encoder(to_unit_range(pixels))
        torch.testing.assert_close(after.decoder.raw(mean), before.decoder.raw(old), rtol=1e-4, atol=1e-4)
    assert mean.mean(0).abs().max() < 1e-4
    covariance = mean.T.cov(correction=0) + torch.diag(logvar.exp().mean(0))
    torch.testing.assert_close(covariance, torch.eye(4), rtol=0, atol=0.05)
    assert logvar.mean(0).diff().min() > -0.05  # sorted, the most certain unit first


def test_whitening_lowers_the_divergence_from_the_prior_and_leaves_the_original() -> None:
    pixels = digits()
    model = lopsided("mlp", pixels)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before, after = (evaluate_model(PyTorchModel(one), pixels) for one in (model, whitened(model, pixels)))
    assert after.kl < before.kl - 5
    assert after.negative_elbo < before.negative_elbo - 5
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_few_images_and_unused_units_are_no_trouble() -> None:
    pixels = digits()[:3]
    model = initial_model(VAEConfig("mlp", (1, 8, 8), latent_size=20, hidden_size=16), pixels, seed=0)
    model.encoder.load_state_dict({name: torch.zeros_like(value) for name, value in model.encoder.state_dict().items()})
    mean, logvar = whitened(model, pixels).encoder(to_unit_range(pixels))
    assert mean.abs().max() < 1e-5
    assert logvar.abs().max() < 1e-5


def test_network_that_diverged_is_left_to_the_scores() -> None:
    pixels = digits()
    model = lopsided("mlp", pixels)
    with torch.no_grad():
        next(model.encoder.parameters()).fill_(torch.nan)
    assert not whitened(model, pixels).encoder(to_unit_range(pixels))[0].isfinite().all()


@pytest.mark.slow
def test_training_saves_and_scores_the_whitened_network(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "epochs": 3,
        "latent_size": 4,
        "hidden_size": 32,
        "threads": 1,
        "precision": "float32",
        "quiet": True,
    }
    plain, white = (fit(digits()[:, 0].numpy(), whiten=chosen, **options) for chosen in (False, True))
    assert white.test.kl < plain.test.kl
    assert white.checkpoint.provenance["training"]["whiten"]
    assert "whiten" not in plain.checkpoint.provenance["training"]
    once = fit(digits()[:, 0].numpy(), out=tmp_path / "run", whiten=True, **options)
    assert load_checkpoint(Run(tmp_path / "run").checkpoint).sha256 == once.checkpoint.sha256


@pytest.mark.parametrize("family", ["blog", "pyramid"])
def test_families_without_linear_layers_around_the_latents_are_refused(invoke: Invoke, family: str) -> None:
    done = invoke("train", "--dataset", "digits", "--family", family, "--whiten")
    assert done.code == 2
    assert one_line(done.err) == f"vae-export: error: --whiten does not suit family {family}; pass --no-whiten"
