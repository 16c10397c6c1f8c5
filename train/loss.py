"""The loss: the negative evidence lower bound, in nats, summed over pixels and latents.

For a posterior q(z|x) = N(mean, exp(logvar)) and the prior N(0, I) (Kingma & Welling, arXiv:1312.6114, section 3):

    -ELBO(x) = -log p(x|z) + KL(q(z|x) || p(z)),  with z sampled from q(z|x)

Where pixels are grey levels and p(x|z) is a Bernoulli, its first term is a cross-entropy and no likelihood: such
figures compare among themselves only.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_export.likelihood import CLOSEST, STEPS, Likelihood
from vae_export.models import VAE, reparameterize
from vae_export.models.networks import outputs


def reconstruction_nll(likelihood: Likelihood, raw: Tensor, image: Tensor) -> Tensor:
    """-log p(x|z) of images (N, C, H, W) in [0, 1], given a decoder's raw outputs → (N,) nats.

    The Bernoulli's is computed on logits: log(sigmoid(x)) for a large negative x is lost once the sigmoid was rounded.
    """
    if likelihood.name == "bernoulli":
        return F.binary_cross_entropy_with_logits(raw, image, reduction="none").flatten(1).sum(1)
    return reconstruction_nll_of_outputs(likelihood, outputs(likelihood, raw), image)


def reconstruction_nll_of_outputs(likelihood: Likelihood, decoded: tuple[Tensor, ...], image: Tensor) -> Tensor:
    """The same from a decoder's outputs, which is all that an exported one gives.

    The formulas are those of `Likelihood.log_prob`, in torch and float32.
    """
    mean = decoded[0]
    if likelihood.name == "bernoulli":
        cost = F.binary_cross_entropy_with_logits(torch.logit(mean, CLOSEST), image, reduction="none")
    elif likelihood.name == "discretised-logistic":
        cost = _discretised_logistic(mean, decoded[1], image)
    else:
        fixed = torch.full((), 2 * math.log(likelihood.scale), device=image.device)
        logvar = decoded[1] if likelihood.name == "gaussian" else fixed
        cost = 0.5 * ((image - mean).square() * torch.exp(-logvar) + logvar + math.log(2 * math.pi))
    return cost.flatten(1).sum(1)


def _discretised_logistic(mean: Tensor, log_scale: Tensor, image: Tensor) -> Tensor:
    half = 0.5 / STEPS
    inverse = torch.exp(-log_scale)
    above = F.softplus((mean - image - half) * inverse)
    below = F.softplus((image - half - mean) * inverse)
    inside = torch.log(-torch.expm1(-2 * half * inverse))
    darkest, brightest = image < half, image > 1 - half
    return (
        torch.where(brightest, 0, above) + torch.where(darkest, 0, below) - torch.where(darkest | brightest, 0, inside)
    )


def kl_per_unit(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, I)) of each unit, both (N, Z) → (N, Z) nats (appendix B of the paper)."""
    return 0.5 * (mean.square() + logvar.exp() - logvar - 1)


class LossTerms(nn.Module):
    """What the loss is made of, as one module: what is compiled, and what processes share."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reconstruction term, a scalar, and the KL of each unit (Z,): means over images, in nats.

        Images are (N, C, H, W), noise is (N, Z).

        Family `blog` keeps the post's loss, on probabilities; its value is the same but for rounding.
        """
        model = self.model
        mean, logvar = (head.float() for head in model.encoder(image))  # bfloat16 where the loop lets products be that
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
    """What training minimises, of `LossTerms`, as a scalar.

    `beta` and `free_bits` (see `ObjectiveOptions`) belong to training alone: `train.scoring` reports the bound itself.
    Bits are free by the KL of the whole batch: `over_batch` makes it of a part's, where processes share one.
    """
    if free_bits:
        units = torch.where(over_batch(units.detach()) < free_bits, free_bits, units)
    return reconstruction + beta * units.sum()


def loss(model: VAE, image: Tensor, noise: Tensor, *, beta: float = 1.0, free_bits: float = 0.0) -> Tensor:
    """The mean over images (N, C, H, W), given noise (N, Z), as a scalar."""
    reconstruction, units = LossTerms(model)(image, noise)
    return weighted_loss(reconstruction, units, beta=beta, free_bits=free_bits)


def to_unit_range(pixels: Tensor) -> Tensor:
    """Grey levels uint8 → float32 in [0, 1]."""
    return pixels.to(torch.float32).div_(255)
