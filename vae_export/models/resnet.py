"""Family `resnet`: strided convolutions with residual blocks, as many as the image size needs. For photographs.

The encoder halves the image until its shorter side has four to seven pixels, or is odd; the decoder goes the same way
back. The number of channels follows the size of the feature maps, so that an image of twice the side costs a third more
and not four times as much. As in `residual`, most of the blocks are in the decoder.
"""

from __future__ import annotations

import math

from torch import nn

from vae_export.models.config import VAEConfig
from vae_export.models.mlp import gaussian_heads
from vae_export.models.networks import Decoder, Encoder, activation, raw_channels
from vae_export.models.residual import Residual

#: Feature maps have the channels of the first size that is not below their shorter side, larger ones have `_FEWEST`.
_CHANNELS = {8: 128, 16: 64, 32: 32}
_FEWEST = 16
#: Larger feature maps have no residual block: it would take most of the time.
_LARGEST_WITH_BLOCK = 32


def encoder(config: VAEConfig) -> Encoder:
    """Return the encoder: image (N, C, H, W) in [0, 1] → mean, logvar, each (N, Z)."""
    kind, channels = config.activation, config.image_shape[0]
    layers: list[nn.Module] = []
    for size in _sizes(config)[1:]:
        wider = _channels(size)
        layers += [nn.Conv2d(channels, wider, kernel_size=4, stride=2, padding=1)]
        channels = wider
        if size == _sizes(config)[-1]:
            layers.append(Residual(channels, kind))
        layers.append(activation(kind))
    features = channels * math.prod(_sizes(config)[-1])
    body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, config.hidden_size), activation(kind))
    return Encoder(body, *gaussian_heads(config.hidden_size, config.latent_size))


def decoder(config: VAEConfig) -> Decoder:
    """Return the decoder: latent (N, Z) → image (N, C, H, W) in [0, 1], and the likelihood's second output if any."""
    kind, sizes = config.activation, _sizes(config)[1:]
    smallest = (_channels(sizes[-1]), *sizes[-1])
    layers: list[nn.Module] = [
        nn.Linear(config.latent_size, config.hidden_size),
        activation(kind),
        nn.Linear(config.hidden_size, math.prod(smallest)),
        nn.Unflatten(1, smallest),
    ]
    outputs = [raw_channels(config.image_shape[0], config.likelihood), *map(_channels, sizes)]
    for index in reversed(range(len(sizes))):
        channels = outputs[index + 1]
        if min(sizes[index]) <= _LARGEST_WITH_BLOCK:
            layers.append(Residual(channels, kind))
        layers += [activation(kind), nn.ConvTranspose2d(channels, outputs[index], kernel_size=4, stride=2, padding=1)]
    return Decoder(nn.Sequential(*layers), config.likelihood)


def _sizes(config: VAEConfig) -> list[tuple[int, int]]:
    """Return height and width of the image and of each size of feature maps, the largest first."""
    _, height, width = config.image_shape
    sizes = [(height, width), (height // 2, width // 2)]
    while min(sizes[-1]) > 7 and not any(side % 2 for side in sizes[-1]):
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    return sizes


def _channels(size: tuple[int, int]) -> int:
    return next((channels for side, channels in _CHANNELS.items() if min(size) <= side), _FEWEST)
