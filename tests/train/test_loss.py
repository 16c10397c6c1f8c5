"""The loss agrees with closed forms and with the blog post's code."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from train.loss import kl_per_unit, loss, reconstruction_nll, reconstruction_nll_of_outputs, to_unit_range
from vae_export.likelihood import LIKELIHOODS, Likelihood, LikelihoodName
from vae_export.models import FAMILIES, VAE, VAEConfig
from vae_export.models.config import Family
from vae_export.models.networks import outputs

BERNOULLI = Likelihood()
numbers = st.floats(-8, 8, width=32)


@settings(deadline=None)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12))
def test_kl_matches_pytorch_and_is_never_negative(units: list[tuple[float, float]]) -> None:
    mean, logvar = torch.tensor(units).T.unsqueeze(1)
    posterior = torch.distributions.Normal(mean, torch.exp(logvar / 2))
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(1)
    assert kl_per_unit(mean, logvar).min() >= -1e-5
    torch.testing.assert_close(kl_per_unit(mean, logvar).sum(1), expected, rtol=1e-4, atol=1e-4)


def test_kl_of_the_prior_is_zero() -> None:
    assert kl_per_unit(torch.zeros(2, 5), torch.zeros(2, 5)).tolist() == [[0] * 5] * 2


def test_decoder_at_one_half_has_one_bit_a_pixel() -> None:
    image = torch.rand(3, 1, 4, 5)
    torch.testing.assert_close(
        reconstruction_nll(BERNOULLI, torch.zeros_like(image), image), torch.full((3,), 20 * math.log(2))
    )


def test_certain_decoder_has_finite_nll_right_or_wrong() -> None:
    image = torch.tensor([[0.0, 1.0]]).reshape(1, 1, 1, 2)
    certain = torch.tensor([[-200.0, 200.0]]).reshape(1, 1, 1, 2)
    assert reconstruction_nll(BERNOULLI, certain, image).item() == pytest.approx(0, abs=1e-6)
    assert reconstruction_nll(BERNOULLI, -certain, image).item() == pytest.approx(400)


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_is_the_mean_of_both_terms_in_every_family(family: Family) -> None:
    torch.manual_seed(0)
    model = VAE(VAEConfig(family, (1, 8, 8), 3, 16)).eval()
    image, noise = torch.rand(5, 1, 8, 8), torch.randn(5, 3)
    mean, logvar = model.encoder(image)
    reconstruction = reconstruction_nll(BERNOULLI, model.decoder.raw(mean + noise * torch.exp(logvar / 2)), image)
    torch.testing.assert_close(loss(model, image, noise), (reconstruction + kl_per_unit(mean, logvar).sum(1)).mean())
    torch.testing.assert_close(
        loss(model, image, noise, beta=4), (reconstruction + 4 * kl_per_unit(mean, logvar).sum(1)).mean()
    )


def likelihood(name: LikelihoodName) -> Likelihood:
    return Likelihood(name, 0.2 if name == "gaussian-fixed" else 1.0)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_reconstruction_nll_matches_the_likelihood_of_the_library(name: LikelihoodName) -> None:
    """Compare the formulas in torch, float32 on raw outputs, with those in numpy, float64 on exported outputs."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (40, 3, 4, 4), generator=generator)
    pixels[0], pixels[1] = 0, 255
    image, ours = pixels / 255, likelihood(name)
    raw = 3 * torch.randn(40, 3 if ours.spread is None else 6, 4, 4, generator=generator)
    decoded = outputs(ours, raw)
    spread = decoded[1].numpy() if len(decoded) > 1 else None
    expected = -ours.log_prob(image.numpy(), decoded[0].numpy(), spread).reshape(40, -1).sum(1)
    for found in (reconstruction_nll(ours, raw, image), reconstruction_nll_of_outputs(ours, decoded, image)):
        torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_likelihood_has_finite_gradients(name: LikelihoodName) -> None:
    ours = likelihood(name)
    raw = torch.linspace(-20, 20, 32).repeat(1 if ours.spread is None else 2).reshape(1, -1, 4, 8).requires_grad_()
    reconstruction_nll(ours, raw, torch.linspace(0, 1, 32).reshape(1, 1, 4, 8)).sum().backward()
    assert raw.grad is not None
    assert torch.isfinite(raw.grad).all()


def test_free_bits_are_not_penalised() -> None:
    torch.manual_seed(0)
    model = VAE(VAEConfig("mlp", (1, 8, 8), 3, 16)).eval()
    image, noise = torch.rand(5, 1, 8, 8), torch.randn(5, 3)
    units = kl_per_unit(*model.encoder(image)).mean(0).detach()
    plain = loss(model, image, noise)
    free = float(units.sort().values[1] + units.sort().values[2]) / 2  # two of three units are below
    expected = plain - units.sum() + units.clamp(min=free).sum()
    torch.testing.assert_close(loss(model, image, noise, free_bits=free), expected)
    torch.testing.assert_close(loss(model, image, noise, free_bits=0.0), plain)


@given(st.lists(st.integers(0, 255), min_size=1))
@settings(max_examples=20, deadline=None)
def test_grey_levels_survive_the_unit_range(levels: list[int]) -> None:
    unit = to_unit_range(torch.tensor(levels, dtype=torch.uint8))
    assert unit.dtype == torch.float32
    assert unit.min() >= 0
    assert unit.max() <= 1
    assert (unit * 255).round().to(torch.uint8).tolist() == levels


class PostEncoder(nn.Module):
    """The post's encoder; its noise is the argument `epsilon`."""

    def __init__(self, inputs: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc_mu = nn.Linear(hidden, latent)
        self.fc_logvar = nn.Linear(hidden, latent)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = x.view(x.size(0), -1)
        x = self.dropout(F.relu(self.fc1(x)))
        x = self.dropout(F.relu(self.fc2(x)))
        mu = F.relu(self.fc_mu(x))
        logvar = F.relu(self.fc_logvar(x))
        return mu + torch.exp(0.5 * logvar) * epsilon, mu, logvar


class PostDecoder(nn.Module):
    def __init__(self, inputs: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(latent, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, inputs)
        self.dropout = nn.Dropout(0.2)

    def forward(self, z: Tensor) -> Tensor:
        z = self.dropout(F.relu(self.fc1(z)))
        z = self.dropout(F.relu(self.fc2(z)))
        return torch.sigmoid(self.fc3(z))


def post_loss(recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    bce = F.binary_cross_entropy(recon, x.view(x.size(0), -1), reduction="sum")
    return bce + 0.5 * torch.sum(mu.pow(2) + logvar.exp() - logvar - 1)


@pytest.mark.parametrize("training", [True, False], ids=["dropout", "eval"])
def test_blog_family_computes_the_loss_of_the_post(training: bool) -> None:
    torch.manual_seed(0)
    model = VAE(VAEConfig("blog", (1, 28, 28), 20, 400)).train(training)
    encoder, decoder = PostEncoder(784, 400, 20).train(training), PostDecoder(784, 400, 20).train(training)
    pairs: list[tuple[nn.Module, nn.Module]] = [(encoder, model.encoder), (decoder, model.decoder)]
    for original, copied in pairs:
        weights = zip(original.state_dict(), copied.state_dict().values(), strict=True)
        original.load_state_dict({name: weight.clone() for name, weight in weights})
    image, epsilon = torch.rand(16, 1, 28, 28), torch.randn(16, 20)

    torch.manual_seed(1)  # the same units drop out
    latent, mu, logvar = encoder(image, epsilon)
    recon = decoder(latent)
    torch.manual_seed(1)
    our_recon, our_mu, our_logvar, our_latent = model(image, epsilon)

    for ours, theirs in ((our_mu, mu), (our_logvar, logvar), (our_latent, latent), (our_recon.flatten(1), recon)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)

    their_loss = post_loss(recon, image, mu, logvar) / len(image)
    their_loss.backward()
    torch.manual_seed(1)
    ours = loss(model, image, epsilon)
    ours.backward()
    torch.testing.assert_close(ours, their_loss)
    for a, b in zip([*model.parameters()], [*encoder.parameters(), *decoder.parameters()], strict=True):
        torch.testing.assert_close(a.grad, b.grad)
