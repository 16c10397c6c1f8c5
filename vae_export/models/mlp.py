"""Family `mlp`, the default: the network of `post` with the heads of the paper (linear) and no dropout.

Linear heads let the posterior mean be negative and its deviation be below 1, which is what the KL term asks for
(Kingma & Welling, arXiv:1312.6114, appendix C.2).
"""

from __future__ import annotations

import math

from torch import nn

from vae_export.models.config import VAEConfig
from vae_export.models.networks import Decoder, Encoder

#: Bounds of logvar, so that exp never overflows. They are those of diffusers' DiagonalGaussianDistribution; a trained
#: posterior lies far inside.
LOGVAR_MIN, LOGVAR_MAX = -30.0, 20.0


def encoder(config: VAEConfig) -> Encoder:
    width = config.hidden_size
    body = nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(config.image_shape), width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
    )
    return Encoder(body, *gaussian_heads(width, config.latent_size))


def decoder(config: VAEConfig) -> Decoder:
    width = config.hidden_size
    return Decoder(
        nn.Sequential(
            nn.Linear(config.latent_size, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, math.prod(config.image_shape)),
            nn.Unflatten(1, config.image_shape),
        )
    )


def gaussian_heads(features: int, latent_size: int) -> tuple[nn.Module, nn.Module]:
    """Linear heads for mean and bounded logvar, (N, features) → (N, latent_size)."""
    mean = nn.Linear(features, latent_size)
    logvar = nn.Sequential(nn.Linear(features, latent_size), nn.Hardtanh(LOGVAR_MIN, LOGVAR_MAX))
    return mean, logvar
