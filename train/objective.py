"""The loss: the negative evidence lower bound, in nats, summed over pixels and latents.

For a posterior q(z|x) = N(mean, exp(logvar)) and the prior N(0, I) (Kingma & Welling, arXiv:1312.6114, section 3):

    -ELBO(x) = reconstruction(x) + KL(q(z|x) || p(z)),  with z sampled from q(z|x)

Pixels are grey levels in [0, 1] and the decoder's Bernoulli gets them as they are. Their cross-entropy is therefore no
likelihood (that would need binary pixels): figures of this protocol compare among themselves only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vae_export.models import VAE, reparameterize


def reconstruction(logits: Tensor, image: Tensor) -> Tensor:
    """Cross-entropy of image in [0, 1] against sigmoid(logits), both (N, C, H, W) → (N,) nats.

    Computed on logits: log(sigmoid(x)) for a large negative x is lost once the sigmoid has been rounded.
    """
    return F.binary_cross_entropy_with_logits(logits, image, reduction="none").flatten(1).sum(1)


def kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, I)), both (N, Z) → (N,) nats (appendix B of the paper)."""
    return (0.5 * (mean.square() + logvar.exp() - logvar - 1)).sum(1)


def loss(model: VAE, image: Tensor, noise: Tensor, *, beta: float = 1.0) -> Tensor:
    """What training minimises: the mean over images (N, C, H, W), given noise (N, Z), as a scalar.

    Family `post` keeps the post's loss, on probabilities; its value is the same but for rounding. The weight `beta` of
    the KL term (beta-VAE, Higgins et al. 2017) belongs to training alone: `train.evaluate` reports the bound itself.
    """
    mean, logvar = (head.float() for head in model.encoder(image))  # bfloat16 where the loop lets products be that
    latent = reparameterize(mean, logvar, noise)
    if model.config.family == "post":
        misfit = F.binary_cross_entropy(model.decoder(latent).float(), image, reduction="sum")
    else:
        misfit = F.binary_cross_entropy_with_logits(model.decoder.logits(latent).float(), image, reduction="sum")
    return (misfit + beta * kl(mean, logvar).sum()) / len(image)


def to_unit(pixels: Tensor) -> Tensor:
    """Grey levels uint8 → float32 in [0, 1]."""
    return pixels.to(torch.float32).div_(255)
