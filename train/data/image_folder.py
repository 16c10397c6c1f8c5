"""Read a folder of image files of any size, cropped to their middle square and resized to one size.

Files are decoded by several threads, in the order of their paths: Pillow decodes and resizes without Python's lock.
Where the pixels of all images do not fit into memory, they go to a file on the disk, see `train.data.pixel_file`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from train.config import InMemory
from train.data.pixel_file import PixelFile
from vae_export.errors import DataError
from vae_export.io.image_files import IMAGE_FORMATS, ImageArray, find_images, read_fitted
from vae_export.system.hardware import available_memory

#: Share of the available memory that pixels may take, and how often they are there at once: read, and split in three.
_MEMORY_SHARE, _COPIES = 0.5, 2
#: Images that are decoded before the next ones are begun, and most threads that decode them.
_AHEAD, _MAX_WORKERS = 256, 16
#: Sides that images are resized to where none was asked for: the largest that they have. Smaller ones become 28 x 28.
_USUAL_SIDES = (64, 32)
_SMALLEST_SIDE = 28
#: Images that are looked at before all are read.
_PREVIEWED = 16


@dataclass(frozen=True)
class FolderPreview:
    """The size and the colours of a few images of a folder, before all are read.

    Attributes:
        side: side in pixels that they are resized to where none was asked for.
        is_colour: whether one of them is in colour.
    """

    side: int
    is_colour: bool


def preview_folder(folder: Path) -> FolderPreview:
    """Read a few images of a folder, spread over it. Those that cannot be read are left to `read_folder`."""
    files = find_images(folder)
    shortest, is_colour = [], False
    for file in files[:: max(1, len(files) // _PREVIEWED)]:
        with contextlib.suppress(DataError):
            image, stored = read_fitted(file, None)
            shortest.append(min(stored))
            is_colour |= bool((image != image[..., :1]).any())
    side = min(shortest, default=0)
    return FolderPreview(next((usual for usual in _USUAL_SIDES if usual <= side), _SMALLEST_SIDE), is_colour)


@dataclass(frozen=True)
class FolderImages:
    """The images of a folder, and what was done to them.

    Attributes:
        pixels: uint8 (N, C, H, W); C is 1 if all images are grey, else 3.
        in_memory: whether they are in memory, and not in a file on the disk.
        cropped: how many were cropped to their middle.
        resized: how many were reduced or enlarged.
        skipped: how many could not be read.
    """

    pixels: Tensor
    in_memory: bool
    cropped: int
    resized: int
    skipped: int

    def describe(self) -> str:
        """Return a line such as "4,000 colour images of 64 x 64: 12 cropped to the middle, 4,000 resized"."""
        count, channels, height, width = self.pixels.shape
        changes = {"cropped to the middle": self.cropped, "resized": self.resized, "skipped": self.skipped}
        done = ", ".join(f"{number:,} {name}" for name, number in changes.items() if number)
        where = "" if self.in_memory else "; on the disk, since they would fill the memory"
        colour = "grey" if channels == 1 else "colour"
        return f"{count:,} {colour} images of {height} x {width}: {done or 'unchanged'}{where}"

    def to_json(self) -> dict[str, int]:
        """Return the numbers that are kept with a checkpoint."""
        return {"cropped": self.cropped, "resized": self.resized, "skipped": self.skipped}


def read_folder(
    folder: Path,
    size: int | None,
    *,
    skip_unreadable: bool = False,
    in_memory: InMemory = "auto",
    report: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> FolderImages:
    """Read all images below a folder, in the order of their paths.

    Args:
        folder: its subfolders are read too; names that begin with a dot are left out.
        size: side of the resulting square images, in pixels; None for that of `preview_folder`.
        skip_unreadable: whether to leave out files that cannot be read.
        in_memory: whether all pixels are in memory ("yes") or on the disk ("no"); "auto" is "yes" where they take at
            most half of the memory that is free.
        report: called with a line for each file that is left out.
        progress: called after each image with the number of images read and of all images.

    Returns:
        The images.

    Raises:
        DataError: there are no images, too many for the memory, or one that cannot be read.
        StorageError: the disk has no room for their pixels.
    """
    if not folder.is_dir():
        raise DataError("no such folder", where=folder, do="say where the images are: --data-dir FOLDER")
    files = find_images(folder)
    if not files:
        expected = f"files of {', '.join(IMAGE_FORMATS)}"
        do = "say where the images are: --data-dir FOLDER"
        raise DataError("no images", where=folder, expected=expected, got="none of these", do=do)
    size = size or preview_folder(folder).side
    fits = _COPIES * len(files) * 3 * size * size <= _MEMORY_SHARE * available_memory()
    if in_memory == "yes" and not fits:
        got = f"{len(files):,} images of {size} x {size}"
        do = "leave --in-memory out, or choose a smaller --image-size"
        raise DataError("too many images for the memory", where=folder, got=got, do=do)
    stays = in_memory == "yes" or (in_memory == "auto" and fits)
    pixels: _MemoryPixels | _DiskPixels = (_MemoryPixels if stays else _DiskPixels)(len(files), size)
    read = cropped = resized = 0
    is_colour = False
    for index, decoded in enumerate(_decoded(files, size)):
        if isinstance(decoded, DataError):
            if not skip_unreadable:
                do = "repair or remove it, or pass --skip-unreadable"
                raise DataError(
                    decoded.what, where=decoded.where, expected=decoded.expected, got=decoded.got, do=do
                ) from decoded
            report(f"skipped: {decoded}")
        else:
            image, (height, width) = decoded
            pixels.append(image.transpose(2, 0, 1))
            is_colour = is_colour or bool((image != image[..., :1]).any())
            read += 1
            cropped += height != width
            resized += min(height, width) != size
        progress(index + 1, len(files))
    if not read:
        raise DataError("no images", where=folder, got=f"{len(files):,} files that cannot be read")
    return FolderImages(pixels.taken(3 if is_colour else 1), stays, cropped, resized, len(files) - read)


def _decoded(files: Sequence[Path], side: int) -> Iterator[tuple[ImageArray, tuple[int, int]] | DataError]:
    """Decode files with several threads; yield pixels (side, side, 3) and stored size, or the error, in their order."""

    def decode(file: Path) -> tuple[ImageArray, tuple[int, int]] | DataError:
        try:
            return read_fitted(file, (side, side))
        except DataError as error:
            return error

    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MAX_WORKERS)) as workers:
        for start in range(0, len(files), _AHEAD):
            yield from workers.map(decode, files[start : start + _AHEAD])


class _MemoryPixels:
    """Pixels of a known number of files in memory."""

    def __init__(self, count: int, side: int) -> None:
        self._images = np.empty((count, 3, side, side), dtype=np.uint8)
        self._read = 0

    def append(self, image: ImageArray) -> None:
        self._images[self._read] = image
        self._read += 1

    def taken(self, channels: int) -> Tensor:
        images = self._images[: self._read]
        return torch.from_numpy(images if channels == 3 else images[:, :channels].copy())


class _DiskPixels:
    """Pixels of a known number of files in a file on the disk."""

    def __init__(self, count: int, side: int) -> None:
        # The second half is for the copy that is split in three.
        self._file, self._shape = PixelFile(_COPIES * count * 3 * side * side), (3, side, side)

    def append(self, image: ImageArray) -> None:
        self._file.append(torch.from_numpy(np.ascontiguousarray(image)))

    def taken(self, channels: int) -> Tensor:
        return self._file.mapped(*self._shape)[:, :channels]
