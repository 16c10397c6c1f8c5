"""8-bit levels of images: rounding, comparison with float64, and the byte layouts of `--pixels`.

A rounding error can change the level of a pixel whose float64 value lies on the boundary between two levels. Such a
difference is explained; any other difference is a fault. `PixelsModule` of `vae_export.capture.part_modules` rounds in
the same way inside a graph. This module does not import torch, because the runtime uses it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vae_export.contract import MAX_LEVEL, PIXELS, Array, Contract, Part

if TYPE_CHECKING:
    import numpy.typing as npt

#: The number of pixels that are rounded at a time: in float64 they fit into a processor's second cache.
_PIECE = 1 << 14


@dataclass(frozen=True)
class GreyLevels:
    """Counts of pixels whose 8-bit level differs from that of the float64 image.

    Attributes:
        differing: number of pixels with another level.
        unexplained: number of pixels whose level the tolerance does not explain.
        worst: the largest difference in levels.
    """

    differing: int
    unexplained: int
    worst: int


def to_levels(image: Array, low: float, high: float, dtype: npt.DTypeLike = np.int16) -> Array:
    """Round each pixel of an image to its 8-bit level, half up.

    Args:
        image: pixels of any shape; those outside [low, high] are clipped.
        low, high: the range of pixels.
        dtype: the integers of the result; int16 has room for differences of levels.

    Returns:
        Levels of 0 to 255, of the same shape.
    """
    pixels = np.ascontiguousarray(image).reshape(-1)
    levels = np.empty(np.shape(image), dtype)
    rounded, buffer = levels.reshape(-1), np.empty(min(_PIECE, pixels.size))
    for start in range(0, pixels.size, _PIECE):
        piece = pixels[start : start + _PIECE]
        exact = scaled(piece, low, high, out=buffer[: piece.size])
        if piece.min() < low or piece.max() > high:
            np.clip(exact, 0, MAX_LEVEL, out=exact)
        exact += 0.5
        rounded[start : start + _PIECE] = exact  # becomes an integer without its fraction
    return levels


def compare_levels(image: Array, expected: Array, *, low: float, high: float, tolerance: float) -> GreyLevels:
    """Compare the levels of an image with those of the float64 image.

    Args:
        image: pixels of the tested image, in [low, high].
        expected: pixels of the float64 image, in [low, high], of the same shape.
        low, high: the range of pixels.
        tolerance: the largest allowed error of a pixel, in units of the image.

    Returns:
        The counts of pixels with another level.
    """
    level = to_levels(image, low, high)
    difference = np.abs(level - to_levels(expected, low, high))
    # A level is explained if some value within the tolerance of the float64 value rounds to it.
    lowest, highest = to_levels(expected - tolerance, low, high), to_levels(expected + tolerance, low, high)
    unexplained = (level < lowest) | (level > highest)
    return GreyLevels(int((difference > 0).sum()), int(unexplained.sum()), int(difference.max(initial=0)))


def scaled(image: Array, low: float, high: float, *, out: Array | None = None) -> Array:
    """Scale an image from [low, high] to [0, 255] without rounding.

    Args:
        image: pixels of any shape.
        low, high: the range of pixels.
        out: float64 of the same shape, which becomes the result; None makes a new array.

    Returns:
        float64 of the same shape.
    """
    result = np.empty(np.shape(image)) if out is None else out
    np.copyto(result, image)
    if low != 0:
        result -= low
    if high - low != 1:
        result /= high - low
    result *= MAX_LEVEL
    return result


def to_pixels(image: Array, contract: Contract, part: Part) -> npt.NDArray[np.uint8]:
    """Round an image to bytes.

    Args:
        image: float (N, C, H, W) in the contract's range.
        contract: shapes and ranges of the VAE.
        part: the part whose layout the bytes have, one of the values of `PIXELS` or "decoder".

    Returns:
        uint8, contiguous, (N, H, W, C) for the part with channels last, else (N, C, H, W).
    """
    return np.ascontiguousarray(to_layout(to_levels(image, *contract.image_range, np.uint8), part))


def unrounded(image: Array, contract: Contract, part: Part) -> Array:
    """Scale an image to [0, 255] without rounding.

    Args:
        image: float (N, C, H, W) in the contract's range.
        contract: shapes and ranges of the VAE.
        part: the part whose layout the result has, one of the values of `PIXELS` or "decoder".

    Returns:
        float64 (N, H, W, C) for the part with channels last, else (N, C, H, W).
    """
    return to_layout(scaled(image, *contract.image_range), part)


def in_levels(distance: float, contract: Contract) -> float:
    """Convert a distance between pixels from units of the contract's range to levels."""
    low, high = contract.image_range
    return distance / (high - low) * MAX_LEVEL


def rounding_miss(pixels: Array, expected: Array) -> Array:
    """Return the distance of each float64 pixel from the interval of numbers that round to the given byte.

    The distance is 0 if the float64 pixel rounds to that byte, so that rounding itself does not count as an error.

    Args:
        pixels: uint8 pixels.
        expected: the float64 pixels before rounding, in [0, 255], of the same shape.

    Returns:
        Distances in levels, float64, of the same shape.
    """
    beyond: Array = np.maximum(np.abs(np.asarray(pixels, np.float64) - expected) - 0.5, 0)
    return beyond


def to_layout(image: Array, part: Part) -> Array:
    """Return an image (N, C, H, W) as (N, H, W, C) if the part has channels last, else unchanged."""
    return np.moveaxis(image, 1, -1) if part == PIXELS["uint8-hwc"] else image
