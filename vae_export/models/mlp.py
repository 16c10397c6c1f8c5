"""Family `mlp`, the default: two hidden layers, with the linear heads of the paper and no dropout.

Linear heads let the posterior mean be negative and the standard deviation be below 1, which the KL term needs (Kingma &
Welling, arXiv:1312.6114, appendix C.2).
"""

from __future__ import annotations

import math

from torch import nn

from vae_export.models.config import VAEConfig
from vae_export.models.networks import Decoder, Encoder, activation, raw_channels

#: Bounds of logvar, so that exp never overflows: those of diffusers' DiagonalGaussianDistribution. Trained posteriors
#: lie far inside.
LOGVAR_MIN, LOGVAR_MAX = -30.0, 20.0


def encoder(config: VAEConfig) -> Encoder:
    """Return the encoder: image (N, C, H, W) in [0, 1] → mean, logvar, each (N, Z)."""
    width = config.hidden_size
    body = nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(config.image_shape), width),
        activation(config.activation),
        nn.Linear(width, width),
        activation(config.activation),
    )
    return Encoder(body, *gaussian_heads(width, config.latent_size))


def decoder(config: VAEConfig) -> Decoder:
    """Return the decoder: latent (N, Z) → image (N, C, H, W) in [0, 1], and the likelihood's second output if any."""
    width = config.hidden_size
    raw = (raw_channels(config.image_shape[0], config.likelihood), *config.image_shape[1:])
    body = nn.Sequential(
        nn.Linear(config.latent_size, width),
        activation(config.activation),
        nn.Linear(width, width),
        activation(config.activation),
        nn.Linear(width, math.prod(raw)),
        nn.Unflatten(1, raw),
    )
    return Decoder(body, config.likelihood)


def gaussian_heads(features: int, latent_size: int) -> tuple[nn.Module, nn.Module]:
    """Return linear heads for mean and bounded logvar, each (N, features) → (N, latent_size)."""
    mean = nn.Linear(features, latent_size)
    logvar = nn.Sequential(nn.Linear(features, latent_size), nn.Hardtanh(LOGVAR_MIN, LOGVAR_MAX))
    return mean, logvar
