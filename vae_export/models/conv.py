"""Family `conv`: two strided convolutions down, two transposed ones up, so that exporters meet more than Gemm."""

from __future__ import annotations

from torch import nn

from vae_export.models.config import CONV_STRIDE, VAEConfig
from vae_export.models.mlp import gaussian_heads
from vae_export.models.networks import Decoder, Encoder

CHANNELS = (16, 32)


def encoder(config: VAEConfig) -> Encoder:
    first, second = CHANNELS
    body = nn.Sequential(
        nn.Conv2d(config.image_shape[0], first, kernel_size=4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(first, second, kernel_size=4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(second * _area(config), config.hidden_size),
        nn.ReLU(),
    )
    return Encoder(body, *gaussian_heads(config.hidden_size, config.latent_size))


def decoder(config: VAEConfig) -> Decoder:
    first, second = CHANNELS
    channels, height, width = config.image_shape
    return Decoder(
        nn.Sequential(
            nn.Linear(config.latent_size, config.hidden_size),
            nn.ReLU(),
            nn.Linear(config.hidden_size, second * _area(config)),
            nn.ReLU(),
            nn.Unflatten(1, (second, height // CONV_STRIDE, width // CONV_STRIDE)),
            nn.ConvTranspose2d(second, first, kernel_size=4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(first, channels, kernel_size=4, stride=2, padding=1),
        )
    )


def _area(config: VAEConfig) -> int:
    """Pixels of the image after both strides."""
    _, height, width = config.image_shape
    return (height // CONV_STRIDE) * (width // CONV_STRIDE)
