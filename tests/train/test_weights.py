"""The weights that training starts from: signals keep their size, and the first image is the mean one."""

from __future__ import annotations

import pytest
import torch

from train.weights import initialise
from vae_export.models import VAE, VAEConfig
from vae_export.models.config import Family

PIXELS = torch.full((20, 3, 16, 16), 51, dtype=torch.uint8)


@pytest.mark.parametrize("family", ["mlp", "conv"])
def test_a_fresh_decoder_draws_something_near_the_mean_image(family: Family) -> None:
    torch.manual_seed(0)
    model = VAE(VAEConfig(family, (3, 16, 16), 4, 64)).eval()
    initialise(model, PIXELS)
    assert model.decoder(torch.zeros(1, 4)).mean().item() == pytest.approx(0.2, abs=0.02)


def test_a_signal_keeps_its_size_through_the_hidden_layers() -> None:
    torch.manual_seed(0)
    model = VAE(VAEConfig("mlp", (1, 28, 28), 20, 400)).eval()
    image = torch.rand(64, 1, 28, 28)
    shrunk = model.encoder.body(image).square().mean()
    initialise(model, (image * 255).to(torch.uint8))
    kept = model.encoder.body(image).square().mean()
    assert (kept / image.square().mean()).item() == pytest.approx(1, rel=0.3)
    assert shrunk < kept / 10


def test_the_posts_weights_are_torchs_own() -> None:
    model = VAE(VAEConfig("post", (1, 8, 8), 4, 16))
    before = [parameter.clone() for parameter in model.parameters()]
    initialise(model, PIXELS[:, :1, :8, :8])
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
