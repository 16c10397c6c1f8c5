"""Grey levels: what an application sees of an image after it has rounded it to 8 bits.

A difference of one rounding error can flip a pixel whose exact value lies on the boundary between two grey levels. Such
a pixel proves nothing; any other that differs does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vae_export.contract import LEVELS, Array


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


def levels(image: Array, low: float, high: float) -> Array:
    """The 8-bit level of each pixel of an image in [low, high], rounded half up, as an application would: int16."""
    return np.floor(np.clip(scaled(image, low, high), 0, LEVELS) + 0.5).astype(np.int16)


def compare(image: Array, exact: Array, *, low: float, high: float, band: float) -> GreyLevels:
    """Hold an image against the float64 one, both in [low, high] and of one shape; `band` is in the image's unit."""
    level, expected = levels(image, low, high), levels(exact, low, high)
    difference = np.abs(level - expected)
    # A level is explained where the exact value, moved by no more than the band, has it too.
    lowest, highest = levels(exact - band, low, high), levels(exact + band, low, high)
    unexplained = (level < lowest) | (level > highest)
    return GreyLevels(int((difference > 0).sum()), int(unexplained.sum()), int(difference.max(initial=0)))


def scaled(image: Array, low: float, high: float) -> Array:
    """An image in [low, high] with its levels not yet rounded: float64 in [0, 255]."""
    return (np.asarray(image, np.float64) - low) / (high - low) * LEVELS
