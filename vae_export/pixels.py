"""Grey levels: what an application sees of an image after it has rounded it to 8 bits.

A difference of one rounding error can flip a pixel whose exact value lies on the boundary between two grey levels. Such
a pixel proves nothing; any other that differs does.

An image as the bytes of a screen: what the decoders of `--pixels` give, made of a float32 or float64 image.

Here in numpy, as an application without such a file does it; `PixelsModule` of `vae_export.capture.part_modules` is the
same within a graph. The rounding is that of `vae_export.pixels`. No torch in here: the runtime reads it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vae_export.contract import MAX_LEVEL, PIXELS, Array, Contract, Part

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True)
class GreyLevels:
    """Attributes:
    differing: pixels whose level differs from that of the float64 image.
    unexplained: those of them whose level no value within the band of the exact one has.
    worst: the largest difference in levels.
    """

    differing: int
    unexplained: int
    worst: int


def to_levels(image: Array, low: float, high: float) -> Array:
    """The 8-bit level of each pixel of an image in [low, high], rounded half up, as an application would: int16."""
    return np.floor(np.clip(scaled(image, low, high), 0, MAX_LEVEL) + 0.5).astype(np.int16)


def compare_levels(image: Array, exact: Array, *, low: float, high: float, band: float) -> GreyLevels:
    """Hold an image against the float64 one, both in [low, high] and of one shape; `band` is in the image's unit."""
    level, expected = to_levels(image, low, high), to_levels(exact, low, high)
    difference = np.abs(level - expected)
    # A level is explained where the exact value, moved by no more than the band, has it too.
    lowest, highest = to_levels(exact - band, low, high), to_levels(exact + band, low, high)
    unexplained = (level < lowest) | (level > highest)
    return GreyLevels(int((difference > 0).sum()), int(unexplained.sum()), int(difference.max(initial=0)))


def scaled(image: Array, low: float, high: float) -> Array:
    """An image in [low, high] with its levels not yet rounded: float64 in [0, 255]."""
    return (np.asarray(image, np.float64) - low) / (high - low) * MAX_LEVEL


def to_bytes(image: Array, contract: Contract, part: Part) -> npt.NDArray[np.uint8]:
    """image (N, C, H, W) in the contract's range → uint8, row-major in the layout of `part`."""
    return np.ascontiguousarray(arranged(to_levels(image, *contract.image_range), part), np.uint8)


def unrounded(image: Array, contract: Contract, part: Part) -> Array:
    """image (N, C, H, W) in the contract's range → float64 in [0, 255], in the layout of `part`."""
    return arranged(scaled(image, *contract.image_range), part)


def in_levels(distance: float, contract: Contract) -> float:
    """A distance between pixels, in grey levels."""
    low, high = contract.image_range
    return distance / (high - low) * MAX_LEVEL


def rounding_miss(pixels: Array, exact: Array) -> Array:
    """How far each exact pixel, in [0, 255], is from the nearest number that rounds to the byte in its place.

    0 where it does so itself. This is what of a byte can be held against a band: the half of a level that it is off its
    exact value at most is what bytes are.
    """
    beyond: Array = np.maximum(np.abs(np.asarray(pixels, np.float64) - exact) - 0.5, 0)
    return beyond


def arranged(image: Array, part: Part) -> Array:
    """(N, C, H, W) → (N, H, W, C) where the part has its channels last."""
    return np.moveaxis(image, 1, -1) if part == PIXELS["uint8-hwc"] else image
