"""Family `pyramid`: an image is coded as a small image and the details of each doubling of its size. For photographs.

The image is halved as often as both sides are even. A block of 2 x 2 pixels is its mean and three differences for each
channel (a Haar wavelet), so that the smallest image and the differences, the *details*, are the image again. A network
at each size predicts the details of the next one from the smaller image: their mean and their scale. A latent unit is
what remains of a detail, (detail - mean) / scale, which is standard normal under the model. So the latents are one flat
vector with the usual prior, and yet the prior of an image is hierarchical:

    latent = [smallest image | details of the smallest size | … | details of the largest], brightness before colour

The encoder halves the image and subtracts what the decoder will predict; it shares the decoder's levels, since the two
must agree. Details beyond the latent size are at their predicted mean and left to the likelihood.

Everything is local, so that little is to be learned: few photographs suffice, and the number of weights does not depend
on the size of the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_export.models.config import VAEConfig, pyramid_sizes
from vae_export.models.mlp import LOGVAR_MAX, LOGVAR_MIN
from vae_export.models.networks import Decoder, activation

#: Feature maps have the channels of the first side that is not below their own shorter one, larger ones `_FEWEST`.
_CHANNELS = {4: 128, 8: 96, 16: 64, 32: 48, 64: 24}
_FEWEST = 12
#: Residual blocks of a level.
_BLOCKS = 2
#: Bounds of the logarithm of the scale of details, from about one grey level to more than the range of any detail.
_LOG_SCALE_MIN, _LOG_SCALE_MAX = -5.5, 1.0
#: Images are this far from 0 and 1, so that their logit is finite.
_DARKEST = 1e-3
#: Brightness and two differences of colour, orthonormal.
_COLOURS = ((3**-0.5, 3**-0.5, 3**-0.5), (2**-0.5, 0.0, -(2**-0.5)), (-(6**-0.5), 2 * 6**-0.5, -(6**-0.5)))
#: What the details of a block of 2 x 2 pixels are: right minus left, and so on, orthonormal.
_HAAR = ((0.5, -0.5, 0.5, -0.5), (0.5, 0.5, -0.5, -0.5), (0.5, -0.5, -0.5, 0.5))


@dataclass(frozen=True)
class Layout:
    """Where the units of the latent vector are.

    Attributes:
        smallest: channels, height and width of the smallest image, whose units are the first.
        details: for each level, the smallest first: channels, height and width of its details that have units.
            There may be none. The channels of the last may have fewer units than places.
    """

    smallest: tuple[int, int, int]
    details: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, config: VAEConfig) -> Layout:
        """Return the layout of a config: units from the smallest size on, as many as the latent size says."""
        channels = config.image_shape[0]
        sizes = pyramid_sizes(config.image_shape)[:-1]
        smallest = sizes[0]
        left = config.latent_size - channels * math.prod(smallest)
        details: list[tuple[int, int, int]] = []
        for size in sizes:
            count = min(3 * channels, max(0, math.ceil(left / math.prod(size))))
            details.append((count, *size))
            left -= count * math.prod(size)
        return cls((channels, *smallest), tuple(details))

    @property
    def lengths(self) -> list[int]:
        """The number of places of the smallest image and of the details of each level."""
        return [math.prod(shape) for shape in (self.smallest, *self.details)]


class Bottleneck(nn.Module):
    """A residual block of one convolution with half of the channels, (N, C, H, W) → (N, C, H, W)."""

    def __init__(self, channels: int, kind: str) -> None:
        super().__init__()
        inside = max(1, channels // 2)
        self.first = nn.Conv2d(channels, inside, kernel_size=3, padding=1)
        self.last = nn.Conv2d(inside, channels, kernel_size=1)
        self.before_first, self.before_last = activation(kind), activation(kind)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input (N, C, H, W) plus the two convolutions' output."""
        changed: Tensor = self.last(self.before_last(self.first(self.before_first(x))))
        return x + changed


class Level(nn.Module):
    """Predicts the details of the next size from an image.

    Args:
        config: the network.
        size: height and width of the image.
        coarser: channels of the features of the level before; None for the first.
        units: channels of details that have latent units.
    """

    def __init__(self, config: VAEConfig, size: tuple[int, int], coarser: int | None, units: int) -> None:
        super().__init__()
        channels, width, kind = config.image_shape[0], features(config, size), config.activation
        self.units, self.means = units, 3 * channels
        self.image = nn.Conv2d(channels, width, kernel_size=3, padding=1)
        self.coarser = None if coarser is None else nn.ConvTranspose2d(coarser, width, kernel_size=2, stride=2)
        self.blocks = nn.Sequential(*(Bottleneck(width, kind) for _ in range(_BLOCKS)), activation(kind))
        self.mean = nn.Conv2d(width, self.means, kernel_size=3, padding=1)
        self.log_scale = nn.Conv2d(width, units, kernel_size=3, padding=1) if units else None

    def forward(self, image: Tensor, coarser: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Predict details.

        Args:
            image: (N, C, H, W) in [0, 1].
            coarser: the features of the level before, (N, F', H / 2, W / 2); None for the first.

        Returns:
            Features (N, F, H, W), the mean of the details (N, 3C, H, W), and the logarithm of the scale of those that
            have units; None if there are none.
        """
        found = self.image(4 * (image - 0.5))
        if self.coarser is not None:
            found = found + self.coarser(coarser)
        found = self.blocks(found)
        if self.log_scale is None:
            return found, self.mean(found), None
        return found, self.mean(found), F.hardtanh(self.log_scale(found), _LOG_SCALE_MIN, _LOG_SCALE_MAX)


class Prior(nn.Module):
    """The levels, and mean and scale of the smallest image: what the encoder and the decoder share."""

    colours: Tensor
    details: Tensor

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        layout = Layout.of(config)
        self.mean = nn.Parameter(torch.full((layout.smallest[0], 1, 1), 0.5))
        self.log_scale = nn.Parameter(torch.full((layout.smallest[0], 1, 1), -1.0))
        widths = [None, *(features(config, size) for _, *size in layout.details)]
        self._levels = nn.ModuleList(
            Level(config, (height, width), coarser, units)
            for (units, height, width), coarser in zip(layout.details, widths, strict=False)
        )
        self.register_buffer("colours", colours(config.image_shape[0])[:, :, None, None], persistent=False)
        self.register_buffer("details", details(config.image_shape[0]), persistent=False)

    @property
    def levels(self) -> list[Level]:
        """The levels, that of the smallest image first."""
        return [cast(Level, level) for level in self._levels]


class PyramidEncoder(nn.Module):
    """The encoder: image (N, C, H, W) float32 in [0, 1] → mean (N, Z), logvar (N, Z) of q(z|x) = N(mean, exp(logvar)).

    Args:
        config: the network.
        prior: what it shares with the decoder.
    """

    def __init__(self, config: VAEConfig, prior: Prior) -> None:
        super().__init__()
        layout = Layout.of(config)
        self.prior, self.size = prior, config.latent_size
        self.smallest_logvar = nn.Conv2d(layout.smallest[0], layout.smallest[0], kernel_size=1)
        self.logvars = nn.ModuleList(
            nn.Conv2d(features(config, (height, width)), units, kernel_size=3, padding=1)
            for units, height, width in layout.details
            if units
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images (N, C, H, W); return mean and logvar, each (N, Z)."""
        prior = self.prior
        images = [image]
        for _ in prior.levels:
            images.insert(0, F.avg_pool2d(images[0], 2))
        smallest = F.conv2d(images[0] - prior.mean, prior.colours) * torch.exp(-prior.log_scale)
        means, logvars = [smallest.flatten(1)], [self.smallest_logvar(smallest).flatten(1)]
        coarser: Tensor | None = None
        # A level without units is followed by such levels alone.
        for level, head, small, large in zip(prior.levels, self.logvars, images[:-1], images[1:], strict=False):
            coarser, mean, log_scale = level(small, coarser)
            units = level.units
            detail = F.conv2d(large, _first(prior.details, units), stride=2)
            means.append(((detail - _first(mean, units, dim=1)) * torch.exp(-log_scale)).flatten(1))
            logvars.append(head(coarser).flatten(1))
        mean, logvar = (_first(torch.cat(found, 1), self.size, dim=1) for found in (means, logvars))
        return mean, F.hardtanh(logvar, LOGVAR_MIN, LOGVAR_MAX)


class PyramidBody(nn.Module):
    """The body of the decoder: latent (N, Z) → raw outputs (N, C, H, W), or (N, 2C, H, W) with a second output.

    Args:
        config: the network.
        prior: what it shares with the encoder.
    """

    def __init__(self, config: VAEConfig, prior: Prior) -> None:
        super().__init__()
        self.prior, self.layout = prior, Layout.of(config)
        self.missing = sum(self.layout.lengths) - config.latent_size
        channels = config.image_shape[0]
        width, seen = features(config, self.layout.details[-1][1:]), self.layout.details[-1][0] + channels
        self.details = nn.Conv2d(seen, width, kernel_size=1)
        self.block = nn.Sequential(Bottleneck(width, config.activation), activation(config.activation))
        self.moved = nn.ConvTranspose2d(width, channels, kernel_size=4, stride=2, padding=1)
        self.spread: nn.ConvTranspose2d | None = None
        if config.likelihood.spread is not None:
            self.spread = nn.ConvTranspose2d(width, channels, kernel_size=4, stride=2, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        """Return the raw outputs for latents (N, Z): logits of the image, and what the second output is made from."""
        prior, layout = self.prior, self.layout
        if self.missing:
            latent = F.pad(latent, (0, self.missing))
        first, *parts = torch.split(latent, [length for length in layout.lengths if length], dim=1)
        scaled = first.reshape(-1, *layout.smallest) * torch.exp(prior.log_scale)
        image = F.conv2d(scaled, prior.colours.transpose(0, 1)) + prior.mean
        coarser: Tensor | None = None
        for index, (level, shape) in enumerate(zip(prior.levels, layout.details, strict=True)):
            coarser, detail, log_scale = level(image, coarser)
            small = image
            image = F.interpolate(image, scale_factor=2.0, mode="nearest")
            image = image + F.conv_transpose2d(detail, prior.details, stride=2)
            seen = [4 * (small - 0.5)]
            if log_scale is not None:
                unit = parts[index].reshape(-1, *shape)
                known = _first(prior.details, level.units)
                image = image + F.conv_transpose2d(torch.exp(log_scale) * unit, known, stride=2)
                seen.append(unit)
        found = self.block(coarser + self.details(torch.cat(seen, 1)))
        image = torch.clamp(image + 0.1 * self.moved(found), _DARKEST, 1 - _DARKEST)
        logit = torch.log(image) - torch.log(1 - image)
        return logit if self.spread is None else torch.cat((logit, self.spread(found)), 1)


def parts(config: VAEConfig) -> tuple[PyramidEncoder, Decoder]:
    """Return encoder and decoder, which share the levels."""
    prior = Prior(config)
    return PyramidEncoder(config, prior), Decoder(PyramidBody(config, prior), config.likelihood)


def features(config: VAEConfig, size: Sequence[int]) -> int:
    """Return the number of channels of the features of a size; at most `hidden_size`."""
    usual = next((channels for side, channels in _CHANNELS.items() if min(size) <= side), _FEWEST)
    return min(usual, config.hidden_size)


def colours(channels: int) -> Tensor:
    """Return the orthonormal matrix (C, C) from colours to brightness and differences of colour; else the identity."""
    return torch.tensor(_COLOURS) if channels == 3 else torch.eye(channels)


def details(channels: int) -> Tensor:
    """Return the kernel (3C, C, 2, 2) from blocks of 2 x 2 pixels to their details, brightness first."""
    haar = torch.tensor(_HAAR).reshape(3, 2, 2)
    return torch.einsum("kc,dij->kdcij", colours(channels), haar).flatten(0, 1)


def _first(tensor: Tensor, count: int, dim: int = 0) -> Tensor:
    """Return the first `count` along a dimension, without an operator that exporters drop where that is all."""
    return tensor if count >= tensor.shape[dim] else tensor.narrow(dim, 0, count)
