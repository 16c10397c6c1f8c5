"""Initial weights keep the size of signals, and the initial decoder gives the mean image."""

from __future__ import annotations

import math

import pytest
import torch

from train.initial_weights import initial_model, initialise
from vae_export.likelihood import Likelihood, LikelihoodName
from vae_export.models import VAE, VAEConfig
from vae_export.models.config import Family
from vae_export.models.residual import Residual

PIXELS = torch.full((20, 3, 16, 16), 51, dtype=torch.uint8)


def test_signals_do_not_vanish_in_a_deep_network() -> None:
    torch.manual_seed(0)
    model = VAE(VAEConfig("resnet", (3, 64, 64), 32, 64, activation="silu")).eval()
    sizes = {}
    for name in ("before", "after"):
        if name == "after":
            initialise(model, torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8))
        with torch.no_grad():
            features = model.decoder.body[:-1](torch.randn(16, 32))  # what the last layer is given
        sizes[name] = features.std().item()
    assert 10 * sizes["before"] < sizes["after"]
    assert 0.2 < sizes["after"] < 2


@pytest.mark.parametrize("family", ["mlp", "conv", "residual", "resnet"])
def test_initial_decoder_gives_the_mean_image(family: Family) -> None:
    torch.manual_seed(0)
    model = VAE(VAEConfig(family, (3, 16, 16), 4, 64)).eval()
    initialise(model, PIXELS)
    assert model.decoder(torch.zeros(1, 4)).mean().item() == pytest.approx(0.2, abs=0.02)


def test_initial_pyramid_reconstructs_to_the_noise_of_its_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(40, 200, (32, 3, 16, 16), generator=generator, dtype=torch.uint8)
    model = initial_model(VAEConfig("pyramid", (3, 16, 16), 3 * 16 * 16, 32, "silu"), pixels, 0).eval()
    image = pixels / 255
    with torch.no_grad():
        mean, logvar = model.encoder(image)
        assert (model.decoder.image(mean) - image).abs().max() < 1e-4
    assert mean.std().item() == pytest.approx(1, abs=0.1)
    deviations = torch.exp(logvar / 2)
    assert 0.01 < deviations.min() < deviations.max() < 1


def test_initial_relu_layers_keep_the_size_of_a_signal() -> None:
    torch.manual_seed(0)
    model = VAE(VAEConfig("mlp", (1, 28, 28), 20, 400)).eval()
    image = torch.rand(64, 1, 28, 28)
    shrunk = model.encoder.body(image).square().mean()
    initialise(model, (image * 255).to(torch.uint8))
    kept = model.encoder.body(image).square().mean()
    assert (kept / image.square().mean()).item() == pytest.approx(1, rel=0.3)
    assert shrunk < kept / 10


def test_residual_blocks_start_as_the_identity() -> None:
    model = VAE(VAEConfig("residual", (3, 16, 16), 4, 64))
    initialise(model, PIXELS)
    blocks = [block for block in model.modules() if isinstance(block, Residual)]
    assert len(blocks) == 2
    for block in blocks:
        x = torch.randn(2, block.first.in_channels, 4, 4)
        assert torch.equal(block(x), x)


def test_silu_layers_keep_pytorch_defaults() -> None:
    model = VAE(VAEConfig("mlp", (3, 16, 16), 4, 64, activation="silu"))
    before = [parameter.clone() for parameter in model.parameters()]
    initialise(model, PIXELS)
    assert all(torch.equal(a, b) for a, b in zip(before[:-1], [*model.parameters()][:-1], strict=True))
    assert not torch.equal(before[-1], model.decoder.body[-2].bias)


def test_tanh_layers_start_with_glorot_weights() -> None:
    torch.manual_seed(0)
    model = VAE(VAEConfig("mlp", (1, 28, 28), 50, 200, activation="tanh"))
    initialise(model, torch.zeros(1, 1, 28, 28, dtype=torch.uint8))
    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    assert len(layers) == 7
    for layer in layers:
        bound = (6 / sum(layer.weight.shape)) ** 0.5
        assert 0.99 * bound < layer.weight.abs().max() <= bound
    assert all((layer.bias == 0).all() for layer in layers[:-1])


@pytest.mark.parametrize("name", ["gaussian", "discretised-logistic"])
def test_second_output_starts_in_the_middle_of_its_range(name: LikelihoodName) -> None:
    torch.manual_seed(0)
    model = VAE(VAEConfig("mlp", (3, 16, 16), 4, 64, likelihood=Likelihood(name))).eval()
    initialise(model, PIXELS)
    image, spread = model.decoder(torch.zeros(1, 4))
    assert image.mean().item() == pytest.approx(0.2, abs=0.02)
    log_scale = spread / (2 if name == "gaussian" else 1)
    assert log_scale.mean().item() == pytest.approx(-math.log(255) / 2, abs=0.1)


def test_blog_family_keeps_pytorch_defaults() -> None:
    model = VAE(VAEConfig("blog", (1, 8, 8), 4, 16))
    before = [parameter.clone() for parameter in model.parameters()]
    initialise(model, PIXELS[:, :1, :8, :8])
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_initial_model_depends_on_the_seed_and_keeps_the_random_state() -> None:
    config, before = VAEConfig("mlp", (3, 16, 16), 4, 8), torch.get_rng_state()
    first, second, other = (next(initial_model(config, PIXELS, seed).parameters()) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())
