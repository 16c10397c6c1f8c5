"""The estimator agrees with a linear-Gaussian VAE, whose log p(x) is known in closed form.

p(z) = N(0, I), p(x|z) = N(W z, s² I): then p(x) = N(0, W Wᵀ + s² I), and p(z|x) is Gaussian with covariance
(I + WᵀW / s²)⁻¹, which is diagonal where W's columns are orthogonal.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from train import iwae
from train.iwae import importance_weighted_nll
from train.loss import to_unit_range
from train.scoring import PyTorchModel
from vae_export.models import VAE, VAEConfig

SHAPE, UNITS, DEVIATION = (1, 2, 4), 3, 0.3
PIXELS = torch.randint(0, 256, (30, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class LinearGaussian:
    """A `ScoredModel` whose posterior is the true one, shifted and widened."""

    def __init__(self, *, moved: float = 0.0, widened: float = 1.0) -> None:
        basis = torch.linalg.qr(torch.randn(8, UNITS, generator=torch.Generator().manual_seed(1)))[0]
        self.weight = basis * torch.tensor([1.0, 0.5, 0.1])
        self.moved, self.widened = moved, widened

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        variance = 1 / (1 + self.weight.square().sum(0) / DEVIATION**2)
        mean = image.flatten(1) @ self.weight * variance / DEVIATION**2
        return mean + self.moved, (variance * self.widened**2).log().expand_as(mean)

    def decode(self, latent: Tensor) -> Tensor:
        return (latent @ self.weight.T).unflatten(1, SHAPE)

    def reconstruction_nll(self, latent: Tensor, image: Tensor) -> Tensor:
        square = (image - self.decode(latent)).flatten(1).square() / DEVIATION**2
        return 0.5 * (square + math.log(2 * math.pi * DEVIATION**2)).sum(1)

    def exact(self) -> float:
        """Return the exact -log p(x) in nats, the mean over `PIXELS`."""
        covariance = self.weight @ self.weight.T + DEVIATION**2 * torch.eye(8)
        density = torch.distributions.MultivariateNormal(torch.zeros(8), covariance)
        return -density.log_prob(to_unit_range(PIXELS).flatten(1)).mean().item()


@pytest.mark.parametrize("samples", [1, 7, 5000])
def test_nll_is_exact_with_the_true_posterior(samples: int) -> None:
    model = LinearGaussian()
    found = importance_weighted_nll(model, PIXELS, samples)
    assert found.nll == pytest.approx(model.exact(), abs=2e-5)
    assert found.samples == samples


def test_bound_falls_towards_the_exact_nll_with_samples() -> None:
    model = LinearGaussian(moved=0.3, widened=1.3)
    few, some, many = (importance_weighted_nll(model, PIXELS, samples).nll for samples in (1, 20, 5000))
    assert few > some + 0.05
    assert some > many
    assert many == pytest.approx(model.exact(), abs=0.01)


def test_block_size_does_not_change_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another block size draws other noise, which does not matter with the true posterior."""
    model = LinearGaussian()
    for rows in (1, 64, 4096):
        monkeypatch.setattr(iwae, "_MAX_LATENTS", rows)
        assert importance_weighted_nll(model, PIXELS, 100).nll == pytest.approx(model.exact(), abs=2e-5)


def test_blocks_stay_below_their_maximum() -> None:
    sizes = []

    class Watched(LinearGaussian):
        def reconstruction_nll(self, latent: Tensor, image: Tensor) -> Tensor:
            sizes.append(len(latent))
            return super().reconstruction_nll(latent, image)

    for samples in (1, 3, 5000):
        importance_weighted_nll(Watched(), PIXELS, samples)
    assert max(sizes) <= 256
    assert sum(sizes) == len(PIXELS) * (1 + 3 + 5000)


def test_standard_error_is_over_images() -> None:
    once = importance_weighted_nll(LinearGaussian(), PIXELS, 1)
    four_times = importance_weighted_nll(LinearGaussian(), PIXELS.repeat(4, 1, 1, 1), 1)
    assert once.standard_error / four_times.standard_error == pytest.approx(2, rel=1e-3)


def test_estimate_is_repeatable_and_keeps_the_network_mode() -> None:
    torch.manual_seed(0)
    model = VAE(VAEConfig("blog", (1, 8, 8), 3, 16)).train()
    pixels, before = PIXELS.repeat(1, 1, 4, 2), torch.get_rng_state()
    first = importance_weighted_nll(PyTorchModel(model), pixels, 20)
    assert first == importance_weighted_nll(PyTorchModel(model), pixels, 20)
    # A thread that is done must not bring dropout back under one that is not; nor do others add in another order.
    for _ in range(5):
        assert first == importance_weighted_nll(PyTorchModel(model), pixels, 20, workers=4)
    threads = torch.get_num_threads()
    try:
        for other in (1, 3):
            torch.set_num_threads(other)
            assert first == importance_weighted_nll(PyTorchModel(model), pixels, 20)
            assert torch.get_num_threads() == other
    finally:
        torch.set_num_threads(threads)
    assert model.training
    assert torch.equal(before, torch.get_rng_state())


def test_noise_of_an_image_depends_on_its_index_alone() -> None:
    """A large K on some of the images can then be compared with a small K on all."""

    class Watched(LinearGaussian):
        def reconstruction_nll(self, latent: Tensor, image: Tensor) -> Tensor:
            latents.append(latent)
            return super().reconstruction_nll(latent, image)

    latents: list[Tensor] = []
    importance_weighted_nll(Watched(), PIXELS[:4], 300)
    first, latents = latents, []
    importance_weighted_nll(Watched(), PIXELS, 300)
    assert len(first) == 8
    assert all(torch.equal(one, other) for one, other in zip(first, latents, strict=False))
    assert not torch.equal(latents[0], latents[2])


def test_noise_of_a_smaller_last_batch_is_the_same() -> None:
    class Watched(LinearGaussian):
        def reconstruction_nll(self, latent: Tensor, image: Tensor) -> Tensor:
            latents.append(latent.reshape(-1, len(image.unique(dim=0)), UNITS))
            return super().reconstruction_nll(latent, image)

    samples = 40  # six images at once
    latents: list[Tensor] = []
    importance_weighted_nll(Watched(), PIXELS[:8], samples)
    some, latents = latents, []
    importance_weighted_nll(Watched(), PIXELS, samples)
    assert [part.shape[1] for part in some] == [6, 2]
    assert torch.equal(some[0], latents[0])
    assert torch.equal(some[1], latents[1][:, :2])


def test_progress_is_reported_in_images() -> None:
    done: list[int] = []
    importance_weighted_nll(LinearGaussian(), PIXELS, 128, report=done.append)
    assert done == list(range(2, 31, 2))
