"""The modules that are exported. Each returns the tensors of one part in the order of the contract."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vae_export.contract import MAX_LEVEL, PIXELS, Part
from vae_export.models import reparameterize


class EncoderModule(nn.Module):
    """The encoder: image (N, C, H, W) → mean, logvar, each (N, *latent)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return tensors in the order of the contract."""
        mean, logvar = self.encoder(image)
        return mean, logvar


class DecoderModule(nn.Module):
    """The decoder: latent (N, *latent) → image (N, C, H, W), and the likelihood's second output if it has one."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, latent: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return tensors in the order of the contract."""
        outputs: Tensor | tuple[Tensor, ...] = self.decoder(latent)
        return outputs


class AutoencoderModule(nn.Module):
    """The autoencoder: image (N, C, H, W), noise (N, *latent) → reconstruction, mean, logvar, latent.

    The likelihood's second output follows if it has one.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, image: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        """Return tensors in the order of the contract."""
        mean, logvar = self.encoder(image)
        latent = reparameterize(mean, logvar, noise)
        decoded = self.decoder(latent)
        reconstruction, *rest = decoded if isinstance(decoded, tuple) else (decoded,)
        return reconstruction, mean, logvar, latent, *rest


class PixelsModule(nn.Module):
    """The decoder with 8-bit pixels: latent (N, *latent) → pixels, uint8 in [0, 255].

    Values are rounded half up, as in `vae_export.pixels.to_levels`: 0.5 is added, and the cast truncates. The
    likelihood's second output is left out.

    Args:
        decoder: latent → image (N, C, H, W), alone or first in a tuple.
        image_range: lowest and highest value of a pixel of the image.
        part: the part, which decides the layout.
    """

    def __init__(self, decoder: nn.Module, image_range: tuple[float, float], part: Part) -> None:
        super().__init__()
        self.decoder = decoder
        low, high = image_range
        self.scale = MAX_LEVEL / (high - low)
        self.shift = 0.5 - low * self.scale
        self.channels_last = part == PIXELS["uint8-hwc"]

    def forward(self, latent: Tensor) -> Tensor:
        """Return uint8 pixels (N, H, W, C) or (N, C, H, W), row-major, so that an application can show them."""
        decoded: Tensor | tuple[Tensor, ...] = self.decoder(latent)
        image = decoded[0] if isinstance(decoded, tuple) else decoded
        pixels = (image * self.scale + self.shift).clamp(0, MAX_LEVEL).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).contiguous() if self.channels_last else pixels
