"""Draw the inline PNG pictures of the certificate page: heat maps of a decoder's errors, and images of the file."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vae_export.contract import MAX_LEVEL, Array
from vae_export.parity.error_maps import ImageErrors

#: Colours from no error to the largest error, from dark to light, so that they differ without colour vision.
COLOURS = ((10, 8, 28), (58, 15, 97), (125, 31, 108), (190, 55, 82), (237, 105, 37), (251, 175, 60), (252, 253, 191))
#: Longest side of a heat map and of an image, in pixels; larger ones are reduced.
_LARGEST_MAP, _LARGEST_IMAGE = 256, 96


@dataclass(frozen=True)
class Picture:
    """A PNG picture.

    Attributes:
        uri: the PNG as a `data:` URI.
        width, height: size in pixels.
        block: side of the square of original pixels that one pixel stands for.
    """

    uri: str
    width: int
    height: int
    block: int


@dataclass(frozen=True)
class HeatMap:
    """A picture of the largest error of each pixel.

    Attributes:
        picture: the picture, with one pixel for each pixel of the image.
        largest: the error that the lightest colour stands for.
        channel, row, column: position of the largest error.
    """

    picture: Picture
    largest: float
    channel: int
    row: int
    column: int


@dataclass(frozen=True)
class ImageComparison:
    """Images of a file, and how they differ from PyTorch's.

    Attributes:
        decoded: images of the file.
        difference: distance of these images to PyTorch's, amplified.
        factor: amplification; None if no pixel differs.
        largest: largest difference.
    """

    decoded: Picture
    difference: Picture
    factor: float | None
    largest: float


def heat_map(pixel_error: Array, image_range: tuple[float, float]) -> HeatMap:
    """Draw the largest error of each pixel (C, H, W) over its channels, in `COLOURS`."""
    error = _finite(pixel_error, image_range)
    channel, row, column = (int(i) for i in np.unravel_index(int(error.argmax()), error.shape))
    largest = float(error.max())
    # A block shows its largest error, so that averaging hides none.
    block, small = _reduced(error.max(0, keepdims=True), _LARGEST_MAP, np.max)
    stops = np.linspace(0, 1, len(COLOURS))
    level = small[0] / largest if largest > 0 else small[0]
    coloured = np.stack([np.interp(level, stops, [colour[i] for colour in COLOURS]) for i in range(3)], axis=-1)
    return HeatMap(_png(coloured, block), largest, channel, row, column)


def image_row(images: Array, image_range: tuple[float, float]) -> Picture:
    """Draw images (M, C, H, W) in a row."""
    low, high = image_range
    return _row(np.nan_to_num((np.asarray(images, np.float64) - low) / (high - low)), np.mean)


def comparison(errors: ImageErrors, image_range: tuple[float, float]) -> ImageComparison:
    """Draw the file's images, and how far each pixel is from PyTorch's, amplified by a round number."""
    low, high = image_range
    difference = _finite(np.abs(np.asarray(errors.decoded, np.float64) - errors.pytorch), image_range)
    largest = float(difference.max())
    factor = _round_down((high - low) / largest) if largest > 0 else None
    shown = _row(difference * (factor or 0.0) / (high - low), np.max)
    return ImageComparison(image_row(errors.decoded, image_range), shown, factor, largest)


def _finite(distance: Array, image_range: tuple[float, float]) -> Array:
    """Replace distances that are not finite by the width of the image range, so that they show as large errors."""
    return np.where(np.isfinite(distance), distance, image_range[1] - image_range[0])


def _round_down(value: float) -> float:
    """Return the largest number of the form 1, 2 or 5 · 10^k that is not above the value."""
    scale = 10.0 ** math.floor(math.log10(value))
    return max(step * scale for step in (1, 2, 5) if step == 1 or step * scale <= value)


def _row(images: Array, pool: Callable[..., Array]) -> Picture:
    """Draw images (M, C, H, W), black at 0 and white at 1, side by side with a gap."""
    if images.shape[1] != 3:  # without colours, pool the channels (mean or largest)
        images = pool(images, axis=1, keepdims=True)
    small = [_reduced(image, _LARGEST_IMAGE, pool) for image in images]
    block = small[0][0]
    tiles = []
    for _, image in small:
        _, height, width = image.shape
        level = np.broadcast_to(np.clip(image, 0, 1) * MAX_LEVEL, (3, height, width))
        tiles += [
            np.concatenate([level, np.full((1, height, width), float(MAX_LEVEL))]),
            np.zeros((4, height, max(1, width // 14))),
        ]
    return _png(np.concatenate(tiles[:-1], axis=2).transpose(1, 2, 0), block)


def _reduced(image: Array, largest: int, pool: Callable[..., Array]) -> tuple[int, Array]:
    """Return the side of a block, and the image (C, H, W) pooled by blocks so that no side exceeds `largest`."""
    channels, height, width = image.shape
    block = math.ceil(max(height, width) / largest)
    if block == 1:
        return 1, image
    padded = np.pad(image, ((0, 0), (0, -height % block), (0, -width % block)), mode="edge")
    blocks = padded.reshape(channels, padded.shape[1] // block, block, padded.shape[2] // block, block)
    return block, pool(blocks, axis=(2, 4))


def _png(levels: Array, block: int) -> Picture:
    """Encode levels (H, W, 3 or 4) in [0, 255] as a PNG."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(np.rint(levels).astype(np.uint8))).save(stream, "PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
    return Picture(uri, levels.shape[1], levels.shape[0], block)
