"""Read a folder of image files of any size, cropped to their middle square and resized to one size."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vae_export.errors import DataError
from vae_export.io.image_files import IMAGE_FORMATS, find_images, read_fitted

#: Most bytes that all images together may take in memory.
MAX_BYTES = 8 << 30


#: Sides that images are resized to where none was asked for: the largest that they have. Smaller ones become 28 x 28.
_USUAL_SIDES = (64, 32)
_SMALLEST_SIDE = 28
#: Images that are looked at before all are read.
_GLANCES = 16


@dataclass(frozen=True)
class Glance:
    """A few images of a folder, looked at before all are read.

    Attributes:
        side: Side in pixels that they are resized to where none was asked for.
        is_colour: Whether one of them is in colour.
    """

    side: int
    is_colour: bool


def glance(folder: Path) -> Glance:
    """Look at a few images of a folder, spread over it. Those that cannot be read are left to `read_folder`."""
    files = find_images(folder)
    shortest, is_colour = [], False
    for file in files[:: max(1, len(files) // _GLANCES)]:
        with contextlib.suppress(DataError):
            image, stored = read_fitted(file, None)
            shortest.append(min(stored))
            is_colour |= bool((image != image[..., :1]).any())
    side = min(shortest, default=0)
    return Glance(next((usual for usual in _USUAL_SIDES if usual <= side), _SMALLEST_SIDE), is_colour)


@dataclass(frozen=True)
class FolderImages:
    """The images of a folder, and what was done to them.

    Attributes:
        pixels: uint8 (N, C, H, W); C is 1 if all images are grey, else 3.
        cropped: How many were cropped to their middle.
        resized: How many were reduced or enlarged.
        skipped: How many could not be read.
    """

    pixels: Tensor
    cropped: int
    resized: int
    skipped: int

    def describe(self) -> str:
        """Return a line such as "4,000 colour images of 64 x 64: 12 cropped to the middle, 4,000 resized"."""
        count, channels, height, width = self.pixels.shape
        changes = {"cropped to the middle": self.cropped, "resized": self.resized, "skipped": self.skipped}
        done = ", ".join(f"{number:,} {name}" for name, number in changes.items() if number)
        return f"{count:,} {'grey' if channels == 1 else 'colour'} images of {height} x {width}: {done or 'unchanged'}"

    def to_json(self) -> dict[str, int]:
        """Return the numbers that are kept with a checkpoint."""
        return {"cropped": self.cropped, "resized": self.resized, "skipped": self.skipped}


def read_folder(
    folder: Path,
    size: int | None,
    *,
    skip_unreadable: bool = False,
    report: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> FolderImages:
    """Read all images below a folder, in the order of their paths.

    Args:
        folder: Its subfolders are read too; names that begin with a dot are left out.
        size: Side of the resulting square images, in pixels; None for that of `glance`.
        skip_unreadable: Whether to leave out files that cannot be read.
        report: Is called with a line for each file that is left out.
        progress: Is called after each image with the number of images read and of all images.

    Returns:
        The images.

    Raises:
        DataError: There are no images, too many for the memory, or one that cannot be read.
    """
    if not folder.is_dir():
        raise DataError("no such folder", where=folder, do="say where the images are: --data-dir FOLDER")
    files = find_images(folder)
    if not files:
        expected = f"files of {', '.join(IMAGE_FORMATS)}"
        raise DataError("no images", where=folder, expected=expected, got="an empty folder")
    size = size or glance(folder).side
    if (needed := len(files) * 3 * size * size) > MAX_BYTES:
        got = f"{len(files):,} images of {size} x {size}, {needed:,} bytes"
        do = "choose a smaller --image-size"
        raise DataError("too many images", where=folder, expected=f"up to {MAX_BYTES:,} bytes", got=got, do=do)
    images = np.empty((len(files), 3, size, size), dtype=np.uint8)
    read = cropped = resized = 0
    for index, file in enumerate(files):
        try:
            image, (height, width) = read_fitted(file, (size, size))
        except DataError as error:
            if not skip_unreadable:
                do = "repair or remove it, or pass --skip-unreadable"
                raise DataError(error.what, where=error.where, expected=error.expected, got=error.got, do=do) from error
            report(f"skipped: {error}")
        else:
            images[read] = image.transpose(2, 0, 1)
            read += 1
            cropped += height != width
            resized += min(height, width) != size
        progress(index + 1, len(files))
    images = images[:read]
    if not read:
        raise DataError("no images", where=folder, got=f"{len(files):,} files that cannot be read")
    grey = (images == images[:, :1]).all()
    pixels = torch.from_numpy(images[:, :1].copy() if grey else images)
    return FolderImages(pixels, cropped, resized, len(files) - read)
