"""Grey levels: what an application sees of an image after it has rounded it to 8 bits.

A difference of one rounding error can flip a pixel whose exact value lies on the boundary between two grey levels. Such
a pixel proves nothing; any other that differs does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vae_export.contract import Array

LEVELS = 255


@dataclass(frozen=True)
class GreyLevels:
    """Attributes:
    differing: pixels whose level differs from that of the float64 image.
    unexplained: those of them that lie further from a rounding boundary than the band.
    worst: the largest difference in levels.
    """

    differing: int
    unexplained: int
    worst: int


def levels(image: Array, low: float, high: float) -> Array:
    """The 8-bit level of each pixel of an image in [low, high], rounded half up, as an application would: int16."""
    return np.floor(np.clip(_scaled(image, low, high), 0, LEVELS) + 0.5).astype(np.int16)


def compare(image: Array, exact: Array, *, low: float, high: float, band: float) -> GreyLevels:
    """Hold an image against the float64 one, both in [low, high] and of one shape; `band` is in the image's unit."""
    difference = np.abs(levels(image, low, high) - levels(exact, low, high))
    differs = difference > 0
    # How far the exact value is from the nearest k + 1/2, where the level changes.
    scaled = np.clip(_scaled(exact, low, high), 0, LEVELS)
    to_boundary = np.abs(scaled - (np.floor(scaled) + 0.5))
    explained = to_boundary <= band * LEVELS / (high - low)
    return GreyLevels(int(differs.sum()), int((differs & ~explained).sum()), int(difference.max(initial=0)))


def _scaled(image: Array, low: float, high: float) -> Array:
    return (np.asarray(image, np.float64) - low) / (high - low) * LEVELS
