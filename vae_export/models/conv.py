"""Family `conv`: two strided convolutions down, two transposed ones up, so that exporters meet more than Gemm."""

from __future__ import annotations

from torch import nn

from vae_export.models.config import CONV_STRIDE, VAEConfig
from vae_export.models.mlp import gaussian_heads
from vae_export.models.networks import Decoder, Encoder, activation, raw_channels

CHANNELS = (16, 32)


def encoder(config: VAEConfig) -> Encoder:
    """image (N, C, H, W) in [0, 1] → mean, logvar, each (N, Z)."""
    first, second = CHANNELS
    body = nn.Sequential(
        nn.Conv2d(config.image_shape[0], first, kernel_size=4, stride=2, padding=1),
        activation(config.activation),
        nn.Conv2d(first, second, kernel_size=4, stride=2, padding=1),
        activation(config.activation),
        nn.Flatten(),
        nn.Linear(second * _area(config), config.hidden_size),
        activation(config.activation),
    )
    return Encoder(body, *gaussian_heads(config.hidden_size, config.latent_size))


def decoder(config: VAEConfig) -> Decoder:
    """latent (N, Z) → image (N, C, H, W) in [0, 1], and what else the likelihood has of each pixel."""
    first, second = CHANNELS
    channels, height, width = config.image_shape
    body = nn.Sequential(
        nn.Linear(config.latent_size, config.hidden_size),
        activation(config.activation),
        nn.Linear(config.hidden_size, second * _area(config)),
        activation(config.activation),
        nn.Unflatten(1, (second, height // CONV_STRIDE, width // CONV_STRIDE)),
        nn.ConvTranspose2d(second, first, kernel_size=4, stride=2, padding=1),
        activation(config.activation),
        nn.ConvTranspose2d(first, raw_channels(channels, config.likelihood), kernel_size=4, stride=2, padding=1),
    )
    return Decoder(body, config.likelihood)


def _area(config: VAEConfig) -> int:
    """Pixels of the image after both strides."""
    _, height, width = config.image_shape
    return (height // CONV_STRIDE) * (width // CONV_STRIDE)
