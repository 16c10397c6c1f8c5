"""The loss: the negative evidence lower bound, in nats, summed over pixels and latents.

For a posterior q(z|x) = N(mean, exp(logvar)) and the prior N(0, I) (Kingma & Welling, arXiv:1312.6114, section 3):

    -ELBO(x) = -log p(x|z) + KL(q(z|x) || p(z)),  with z sampled from q(z|x)

For grey pixels and a Bernoulli p(x|z), the first term is a cross-entropy and not a likelihood: such values are
comparable among themselves only.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_export.likelihood import CLOSEST, GREEN, MAX_LEVEL, Likelihood
from vae_export.models import VAE, reparameterize
from vae_export.models.networks import outputs


def reconstruction_nll(likelihood: Likelihood, raw: Tensor, image: Tensor) -> Tensor:
    """Compute -log p(x|z) from a decoder's raw outputs.

    The Bernoulli's is computed on logits: for a large negative x, log(sigmoid(x)) is lost once the sigmoid is rounded.

    Args:
        likelihood: p(x|z).
        raw: raw outputs of the decoder, float32; logits for a Bernoulli.
        image: float32 (N, C, H, W) in [0, 1].

    Returns:
        float32 (N,), in nats.
    """
    if likelihood.name == "bernoulli":
        return F.binary_cross_entropy_with_logits(raw, image, reduction="none").flatten(1).sum(1)
    return reconstruction_nll_of_outputs(likelihood, outputs(likelihood, raw), image)


def reconstruction_nll_of_outputs(likelihood: Likelihood, decoded: tuple[Tensor, ...], image: Tensor) -> Tensor:
    """Compute -log p(x|z) from a decoder's outputs, which is all that an exported decoder gives.

    The formulas are those of `Likelihood.log_prob`, in torch and float32.

    Args:
        likelihood: p(x|z).
        decoded: the decoder's outputs: the image (N, C, H, W), and for some likelihoods its log-variance or log-scale.
        image: float32 (N, C, H, W) in [0, 1].

    Returns:
        float32 (N,), in nats.
    """
    mean = decoded[0]
    if likelihood.name == "bernoulli":
        cost = F.binary_cross_entropy_with_logits(torch.logit(mean, CLOSEST), image, reduction="none")
    elif likelihood.is_of_levels:
        if likelihood.sees_green(image.shape):
            off = (image - mean)[:, GREEN : GREEN + 1]
            mean = mean + torch.cat([off, torch.zeros_like(off), off], dim=1)
        cost = _discretised_logistic(mean, decoded[1], image)
    else:
        fixed = torch.full((), 2 * math.log(likelihood.scale), device=image.device)
        logvar = decoded[1] if likelihood.name == "gaussian" else fixed
        cost = 0.5 * ((image - mean).square() * torch.exp(-logvar) + logvar + math.log(2 * math.pi))
    return cost.flatten(1).sum(1)


def _discretised_logistic(mean: Tensor, log_scale: Tensor, image: Tensor) -> Tensor:
    half = 0.5 / MAX_LEVEL
    inverse = torch.exp(-log_scale)
    above = F.softplus((mean - image - half) * inverse)
    below = F.softplus((image - half - mean) * inverse)
    inside = torch.log(-torch.expm1(-2 * half * inverse))
    darkest, brightest = image < half, image > 1 - half
    return (
        torch.where(brightest, 0, above) + torch.where(darkest, 0, below) - torch.where(darkest | brightest, 0, inside)
    )


def kl_per_unit(mean: Tensor, logvar: Tensor) -> Tensor:
    """Compute KL(N(mean, exp(logvar)) || N(0, I)) of each unit, (N, Z) in nats (appendix B of arXiv:1312.6114)."""
    return 0.5 * (mean.square() + logvar.exp() - logvar - 1)


class LossTerms(nn.Module):
    """The terms of the loss as one module, to be compiled and shared among processes."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reconstruction term, a scalar, and the KL of each unit (Z,): means over images, in nats.

        Images are (N, C, H, W), noise is (N, Z).

        Family `blog` computes the loss on probabilities, as the blog post does; the value differs by rounding alone.
        """
        model = self.model
        mean, logvar = (head.float() for head in model.encoder(image))  # may be bfloat16 under autocast
        latent = reparameterize(mean, logvar, noise)
        if model.config.family == "blog":
            reconstruction = F.binary_cross_entropy(model.decoder.image(latent).float(), image, reduction="sum")
        else:
            reconstruction = reconstruction_nll(model.config.likelihood, model.decoder.raw(latent).float(), image).sum()
        return reconstruction / len(image), kl_per_unit(mean, logvar).mean(0)


def weighted_loss(
    reconstruction: Tensor,
    units: Tensor,
    *,
    beta: float = 1.0,
    free_bits: float = 0.0,
    over_batch: Callable[[Tensor], Tensor] = lambda units: units,
) -> Tensor:
    """Combine the loss terms into the loss that training minimises.

    `beta` and `free_bits` apply to training alone: `train.scoring` reports the bound itself.

    Args:
        reconstruction: scalar of `LossTerms`, in nats per image.
        units: KL of each unit (Z,) of `LossTerms`, in nats per image.
        beta: weight of the KL term.
        free_bits: KL per unit, in nats, that is not penalised.
        over_batch: averages the KL over the processes that share a batch, since free bits are those of the whole batch.

    Returns:
        The loss, a scalar in nats per image.
    """
    if free_bits:
        units = torch.where(over_batch(units.detach()) < free_bits, free_bits, units)
    return reconstruction + beta * units.sum()


def loss(model: VAE, image: Tensor, noise: Tensor, *, beta: float = 1.0, free_bits: float = 0.0) -> Tensor:
    """Compute the training loss of a batch.

    Args:
        model: the network.
        image: images (N, C, H, W) in [0, 1].
        noise: standard normal numbers (N, Z).
        beta: weight of the KL term.
        free_bits: KL per unit, in nats, that is not penalised.

    Returns:
        The mean over the images, a scalar in nats.
    """
    reconstruction, units = LossTerms(model)(image, noise)
    return weighted_loss(reconstruction, units, beta=beta, free_bits=free_bits)


def to_unit_range(pixels: Tensor) -> Tensor:
    """Convert pixels from uint8 to float32 in [0, 1]."""
    return pixels.to(torch.float32).div_(MAX_LEVEL)
