"""The modules that are exported. Each takes and returns the tensors of one part in the order of the contract."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vae_export.contract import MAX_LEVEL, PIXELS, Contract, Part
from vae_export.models import reparameterize


def part_module(contract: Contract, part: Part, encoder: nn.Module | None, decoder: nn.Module | None) -> nn.Module:
    """Return the module of a part.

    Args:
        contract: the contract.
        part: the part, which needs the encoder, the decoder or both.
        encoder: data and conditions → mean and logvar of each latent, or latents, or codes.
        decoder: latents and conditions → data, and the likelihood's second output if it has one.
    """
    if part == "encoder" and encoder is not None:
        return EncoderModule(encoder)
    if decoder is None:
        raise ValueError(f"{part} needs a decoder")
    if part in PIXELS.values():
        return PixelsModule(decoder, contract.image_range, part)
    if part == "autoencoder" and encoder is not None:
        return AutoencoderModule(encoder, decoder, contract)
    return DecoderModule(decoder)


class EncoderModule(nn.Module):
    """The encoder: data (N, *data), conditions → mean and logvar of each latent, or latents, or codes."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return tensors in the order of the contract."""
        outputs: Tensor | tuple[Tensor, ...] = self.encoder(*inputs)
        return outputs


class DecoderModule(nn.Module):
    """The decoder: latents (N, *latent), conditions → data, and the likelihood's second output if it has one."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return tensors in the order of the contract."""
        outputs: Tensor | tuple[Tensor, ...] = self.decoder(*inputs)
        return outputs


class AutoencoderModule(nn.Module):
    """The autoencoder: data, noise of each latent, conditions → reconstruction, what the encoder gives, latents.

    A deterministic encoder and one of codes need no noise, and their latents are not repeated. The likelihood's second
    output comes last if there is one.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, contract: Contract) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.noises = len(contract.latents) if contract.encoding == "gaussian" else 0
        self.of_encoder = [index for index, item in enumerate(contract.conditions) if "encoder" in item.parts]
        self.of_decoder = [index for index, item in enumerate(contract.conditions) if "decoder" in item.parts]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return tensors in the order of the contract."""
        data, noises, conditions = inputs[0], inputs[1 : 1 + self.noises], inputs[1 + self.noises :]
        encoded = _as_tuple(self.encoder(data, *(conditions[index] for index in self.of_encoder)))
        drawn = tuple(
            reparameterize(encoded[2 * index], encoded[2 * index + 1], noise) for index, noise in enumerate(noises)
        )
        decoded = _as_tuple(self.decoder(*(drawn or encoded), *(conditions[index] for index in self.of_decoder)))
        return decoded[0], *encoded, *drawn, *decoded[1:]


class PixelsModule(nn.Module):
    """The decoder with 8-bit pixels: latents, conditions → pixels, uint8 in [0, 255].

    Values are rounded half up, as in `vae_export.pixels.to_levels`: 0.5 is added, and the cast truncates. The
    likelihood's second output is left out.

    Args:
        decoder: latents and conditions → image (N, C, H, W), alone or first in a tuple.
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

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return uint8 pixels (N, H, W, C) or (N, C, H, W), row-major, so that an application can show them."""
        image = _as_tuple(self.decoder(*inputs))[0]
        pixels = (image * self.scale + self.shift).clamp(0, MAX_LEVEL).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).contiguous() if self.channels_last else pixels


def _as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)
