"""Family `residual`: `conv` with more channels and a residual block at each size of the decoder.

The encoder has no residual blocks, because in equal training time a better decoder improves the score more.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from vae_export.models.config import VAEConfig
from vae_export.models.conv import strided_encoder, strided_size
from vae_export.models.networks import Decoder, Encoder, activation, raw_channels

CHANNELS = (16, 64)


class Residual(nn.Module):
    """A pre-activation residual block, (N, C, H, W) → (N, C, H, W) (He et al., arXiv:1603.05027)."""

    def __init__(self, channels: int, kind: str) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.last = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.before_first, self.before_last = activation(kind), activation(kind)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input (N, C, H, W) plus the two convolutions' output."""
        changed: Tensor = self.last(self.before_last(self.first(self.before_first(x))))
        return x + changed


def encoder(config: VAEConfig) -> Encoder:
    """Return the encoder: image (N, C, H, W) in [0, 1] → mean, logvar, each (N, Z)."""
    return strided_encoder(config, CHANNELS)


def decoder(config: VAEConfig) -> Decoder:
    """Return the decoder: latent (N, Z) → image (N, C, H, W) in [0, 1], and the likelihood's second output if any."""
    (first, second), kind = CHANNELS, config.activation
    smallest = (second, *strided_size(config))
    channels = raw_channels(config.image_shape[0], config.likelihood)
    body = nn.Sequential(
        nn.Linear(config.latent_size, config.hidden_size),
        activation(kind),
        nn.Linear(config.hidden_size, math.prod(smallest)),
        nn.Unflatten(1, smallest),
        Residual(second, kind),
        activation(kind),
        nn.ConvTranspose2d(second, first, kernel_size=4, stride=2, padding=1),
        Residual(first, kind),
        activation(kind),
        nn.ConvTranspose2d(first, channels, kernel_size=4, stride=2, padding=1),
    )
    return Decoder(body, config.likelihood)
