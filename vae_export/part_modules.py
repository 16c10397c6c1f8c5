"""One module for each part: what is captured, its tensors in the order of the contract."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vae_export.contract import LEVELS, PIXELS, Part
from vae_export.models import reparameterize


class EncoderGraph(nn.Module):
    """image (N, C, H, W) → mean, logvar, each (N, *latent)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Tensors in the order of the contract."""
        mean, logvar = self.encoder(image)
        return mean, logvar


class DecoderGraph(nn.Module):
    """latent (N, *latent) → image (N, C, H, W), and what else the likelihood has."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, latent: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Tensors in the order of the contract."""
        outputs: Tensor | tuple[Tensor, ...] = self.decoder(latent)
        return outputs


class AutoencoderGraph(nn.Module):
    """image (N, C, H, W), noise (N, *latent) → reconstruction, mean, logvar, latent, and what else p(x|z) has."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, image: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        """Tensors in the order of the contract."""
        mean, logvar = self.encoder(image)
        latent = reparameterize(mean, logvar, noise)
        decoded = self.decoder(latent)
        reconstruction, *rest = decoded if isinstance(decoded, tuple) else (decoded,)
        return reconstruction, mean, logvar, latent, *rest


class PixelsGraph(nn.Module):
    """latent (N, *latent) → pixels, uint8: the decoder's image as an application would round it, in 8 bits.

    The same rounding as `vae_export.grey.levels`, half up: the cast cuts off what is behind the point. What else the
    likelihood has is left out.
    """

    def __init__(self, decoder: nn.Module, image_range: tuple[float, float], part: Part) -> None:
        super().__init__()
        self.decoder = decoder
        low, high = image_range
        self.scale = LEVELS / (high - low)
        self.shift = 0.5 - low * self.scale
        self.channels_last = part == PIXELS["uint8-hwc"]

    def forward(self, latent: Tensor) -> Tensor:
        """(N, H, W, C) or (N, C, H, W), row-major: a host copies it to its canvas as it is."""
        decoded: Tensor | tuple[Tensor, ...] = self.decoder(latent)
        image = decoded[0] if isinstance(decoded, tuple) else decoded
        pixels = (image * self.scale + self.shift).clamp(0, LEVELS).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).contiguous() if self.channels_last else pixels
