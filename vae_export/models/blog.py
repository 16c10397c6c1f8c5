"""Family `blog`: the network of a blog post on "Auto-Encoding Variational Bayes", reproduced without corrections.

Two choices of the post make its score bad. A ReLU after each head keeps mean ≥ 0 and logvar ≥ 0, so that the standard
deviation is never below 1. Encoder and decoder use dropout of 0.2. There is one difference: the post's encoder also
samples z. Here `reparameterize` does that, because a graph that draws random numbers cannot be verified.
"""

from __future__ import annotations

import math

from torch import nn

from vae_export.models.config import VAEConfig
from vae_export.models.networks import Decoder, Encoder

DROPOUT = 0.2


def encoder(config: VAEConfig) -> Encoder:
    """Return the encoder: image (N, C, H, W) in [0, 1] → mean, logvar, each (N, Z)."""
    width = config.hidden_size
    body = nn.Sequential(nn.Flatten(), *_layer(math.prod(config.image_shape), width), *_layer(width, width))
    mean = nn.Sequential(nn.Linear(width, config.latent_size), nn.ReLU())
    logvar = nn.Sequential(nn.Linear(width, config.latent_size), nn.ReLU())
    return Encoder(body, mean, logvar)


def decoder(config: VAEConfig) -> Decoder:
    """Return the decoder: latent (N, Z) → image (N, C, H, W) in [0, 1], and the likelihood's second output if any."""
    width = config.hidden_size
    body = nn.Sequential(
        *_layer(config.latent_size, width),
        *_layer(width, width),
        nn.Linear(width, math.prod(config.image_shape)),
        nn.Unflatten(1, config.image_shape),
    )
    return Decoder(body, config.likelihood)


def _layer(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(DROPOUT)]
