"""Bits per dimension of the lossless codecs that people know, beside which a model's own can be judged."""

from __future__ import annotations

import io

from PIL import Image
from torch import Tensor

#: Name and Pillow's options of each codec, at its strongest setting.
CODECS = {
    "PNG": {"format": "PNG", "optimize": True},
    "lossless WebP": {"format": "WEBP", "lossless": True, "method": 6},
}
#: Images that are encoded: the mean of so many is known to a hundredth of a bit.
_MOST_IMAGES = 200


def codec_bits_per_dim(pixels: Tensor) -> dict[str, float]:
    """Encode images one by one and return the bits for each value of each pixel, headers included, by codec.

    Args:
        pixels: uint8 (N, C, H, W), C 1 or 3. The first 200 are encoded.

    Returns:
        Bits per dimension by the name of the codec.
    """
    chosen = pixels[:_MOST_IMAGES]
    pictures = [Image.fromarray(image.permute(1, 2, 0).squeeze(2).contiguous().numpy()) for image in chosen]
    return {
        name: 8 * sum(_size(picture, options) for picture in pictures) / chosen.numel()
        for name, options in CODECS.items()
    }


def _size(picture: Image.Image, options: dict[str, object]) -> int:
    """Return the size of a file in bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, **options)  # type: ignore[arg-type]
    return buffer.tell()
