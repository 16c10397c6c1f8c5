"""Family `conv`: the encoder has two strided convolutions, and the decoder has two transposed convolutions."""

from __future__ import annotations

import math

from torch import nn

from vae_export.models.config import CONV_STRIDE, VAEConfig
from vae_export.models.mlp import gaussian_heads
from vae_export.models.networks import Decoder, Encoder, activation, raw_channels

CHANNELS = (16, 32)


def encoder(config: VAEConfig) -> Encoder:
    """Return the encoder: image (N, C, H, W) in [0, 1] → mean, logvar, each (N, Z)."""
    return strided_encoder(config, CHANNELS)


def strided_encoder(config: VAEConfig, channels: tuple[int, int]) -> Encoder:
    """Return an encoder of two strided convolutions: image (N, C, H, W) in [0, 1] → mean, logvar, each (N, Z).

    Args:
        config: the network.
        channels: number of output channels of each convolution.
    """
    first, second = channels
    body = nn.Sequential(
        nn.Conv2d(config.image_shape[0], first, kernel_size=4, stride=2, padding=1),
        activation(config.activation),
        nn.Conv2d(first, second, kernel_size=4, stride=2, padding=1),
        activation(config.activation),
        nn.Flatten(),
        nn.Linear(second * math.prod(strided_size(config)), config.hidden_size),
        activation(config.activation),
    )
    return Encoder(body, *gaussian_heads(config.hidden_size, config.latent_size))


def decoder(config: VAEConfig) -> Decoder:
    """Return the decoder: latent (N, Z) → image (N, C, H, W) in [0, 1], and the likelihood's second output if any."""
    first, second = CHANNELS
    smallest, channels = (second, *strided_size(config)), raw_channels(config.image_shape[0], config.likelihood)
    body = nn.Sequential(
        nn.Linear(config.latent_size, config.hidden_size),
        activation(config.activation),
        nn.Linear(config.hidden_size, math.prod(smallest)),
        activation(config.activation),
        nn.Unflatten(1, smallest),
        nn.ConvTranspose2d(second, first, kernel_size=4, stride=2, padding=1),
        activation(config.activation),
        nn.ConvTranspose2d(first, channels, kernel_size=4, stride=2, padding=1),
    )
    return Decoder(body, config.likelihood)


def strided_size(config: VAEConfig) -> tuple[int, int]:
    """Return the height and width of the feature maps after both convolutions."""
    _, height, width = config.image_shape
    return height // CONV_STRIDE, width // CONV_STRIDE
