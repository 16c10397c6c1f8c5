"""A plain convolutional VAE of 3 x 64 x 64 images, as torch code that knows nothing of this project.

Channels 32 to 512 and 128 latents, the usual "vanilla" network of VAE collections:

    python cli.py export --model benchmarks/conv_vae.py:conv_vae --data-shape 3x64x64 --out FOLDER
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

CHANNELS = (32, 64, 128, 256, 512)
SIDE, LATENT = 64, 128
_LAST = SIDE // 2 ** len(CHANNELS)


class Encoder(nn.Module):
    """Images (N, 3, 64, 64) → mean and logvar, each (N, 128)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *CHANNELS), CHANNELS, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.LeakyReLU()]
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.mean = nn.Linear(CHANNELS[-1] * _LAST**2, LATENT)
        self.logvar = nn.Linear(CHANNELS[-1] * _LAST**2, LATENT)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(image)
        return self.mean(features), self.logvar(features)


class Decoder(nn.Module):
    """Latents (N, 128) → images (N, 3, 64, 64) in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        channels = (*reversed(CHANNELS), CHANNELS[0])
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1)]
            layers += [nn.BatchNorm2d(after), nn.LeakyReLU()]
        self.body = nn.Sequential(
            nn.Linear(LATENT, CHANNELS[-1] * _LAST**2),
            nn.Unflatten(1, (CHANNELS[-1], _LAST, _LAST)),
            *layers,
            nn.Conv2d(CHANNELS[0], 3, 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, latent: Tensor) -> Tensor:
        image: Tensor = self.body(latent)
        return image


def conv_vae() -> tuple[Encoder, Decoder]:
    """Return the encoder and the decoder with PyTorch's first weights, the same at each call."""
    torch.manual_seed(0)
    return Encoder(), Decoder()
