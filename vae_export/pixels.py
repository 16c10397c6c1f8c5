"""An image as the bytes of a screen: what the decoders of `--pixels` give, made of a float32 or float64 image.

Here in numpy, as an application without such a file does it; `vae_export.part_modules.PixelsGraph` is the same within a
graph. The rounding is that of `vae_export.grey`. No torch in here: the runtime reads it too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vae_export.contract import LEVELS, PIXELS, Array, Contract, Part
from vae_export.grey import levels, scaled

if TYPE_CHECKING:
    import numpy.typing as npt


def to_bytes(image: Array, contract: Contract, part: Part) -> npt.NDArray[np.uint8]:
    """image (N, C, H, W) in the contract's range → uint8, row-major in the layout of `part`."""
    return np.ascontiguousarray(arranged(levels(image, *contract.image_range), part), np.uint8)


def unrounded(image: Array, contract: Contract, part: Part) -> Array:
    """image (N, C, H, W) in the contract's range → float64 in [0, 255], in the layout of `part`."""
    return arranged(scaled(image, *contract.image_range), part)


def in_levels(distance: float, contract: Contract) -> float:
    """A distance between pixels, in grey levels."""
    low, high = contract.image_range
    return distance / (high - low) * LEVELS


def missed(pixels: Array, exact: Array) -> Array:
    """How far each exact pixel, in [0, 255], is from the nearest number that rounds to the byte in its place.

    0 where it does so itself. This is what of a byte can be held against a band: the half of a level that it is off its
    exact value at most is what bytes are.
    """
    beyond: Array = np.maximum(np.abs(np.asarray(pixels, np.float64) - exact) - 0.5, 0)
    return beyond


def arranged(image: Array, part: Part) -> Array:
    """(N, C, H, W) → (N, H, W, C) where the part has its channels last."""
    return np.moveaxis(image, 1, -1) if part == PIXELS["uint8-hwc"] else image
