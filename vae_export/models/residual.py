"""Family `residual`: `conv` with a residual block at each size of the decoder, for those who want the last nats.

The encoder has none: where time is short, a better decoder is worth more than a better posterior.
"""

from __future__ import annotations

from torch import Tensor, nn

from vae_export.models.config import CONV_STRIDE, VAEConfig
from vae_export.models.mlp import gaussian_heads
from vae_export.models.networks import Decoder, Encoder, activation, raw_channels

CHANNELS = (16, 64)


class Residual(nn.Module):
    """x + f(x), (N, C, H, W) → (N, C, H, W), activations before convolutions (He et al., arXiv:1603.05027)."""

    def __init__(self, channels: int, kind: str) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.last = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.before_first, self.before_last = activation(kind), activation(kind)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.last(self.before_last(self.first(self.before_first(x))))
        return x + changed


def encoder(config: VAEConfig) -> Encoder:
    (first, second), kind = CHANNELS, config.activation
    body = nn.Sequential(
        nn.Conv2d(config.image_shape[0], first, kernel_size=4, stride=2, padding=1),
        activation(kind),
        nn.Conv2d(first, second, kernel_size=4, stride=2, padding=1),
        activation(kind),
        nn.Flatten(),
        nn.Linear(second * _height(config) * _width(config), config.hidden_size),
        activation(kind),
    )
    return Encoder(body, *gaussian_heads(config.hidden_size, config.latent_size))


def decoder(config: VAEConfig) -> Decoder:
    (first, second), kind = CHANNELS, config.activation
    smallest = (second, _height(config), _width(config))
    channels = raw_channels(config.image_shape[0], config.likelihood)
    body = nn.Sequential(
        nn.Linear(config.latent_size, config.hidden_size),
        activation(kind),
        nn.Linear(config.hidden_size, second * _height(config) * _width(config)),
        nn.Unflatten(1, smallest),
        Residual(second, kind),
        activation(kind),
        nn.ConvTranspose2d(second, first, kernel_size=4, stride=2, padding=1),
        Residual(first, kind),
        activation(kind),
        nn.ConvTranspose2d(first, channels, kernel_size=4, stride=2, padding=1),
    )
    return Decoder(body, config.likelihood)


def _height(config: VAEConfig) -> int:
    """After both strides."""
    return config.image_shape[1] // CONV_STRIDE


def _width(config: VAEConfig) -> int:
    return config.image_shape[2] // CONV_STRIDE
