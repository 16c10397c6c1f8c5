"""Images as PNG: a folder with a file for each, or one picture of them all. Takes 8-bit levels."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from vae_export.contract import Array
from vae_export.errors import UsageError
from vae_export.io.atomic import storage_errors, write_atomic
from vae_export.io.staging import check_free, staged_folder
from vae_export.pipeline.writers.base import check_replaceable
from vae_export.system.extras import require

#: By the number of channels, what PNG calls such pixels.
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
#: Levels and width of the lines between the images of a grid.
_LINE, _WIDTH = 255, 2
_DIGITS = 6
#: Of a grid.
MAX_PIXELS = 64_000_000


def png(image: Array) -> bytes:
    """uint8 (C, H, W) → the bytes of a PNG file."""
    from PIL import Image

    pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    stream = io.BytesIO()
    Image.fromarray(pixels, MODES[len(image)]).save(stream, "PNG")
    return stream.getvalue()


class _Folder:
    def __init__(self, folder: Path, final: Path, name: str) -> None:
        self._folder, self._final, self._name = folder, final, name
        self._count = 0

    def write(self, arrays: Mapping[str, Array]) -> None:
        for image in arrays[self._name]:
            data = png(image)
            with storage_errors(self._final, needed=len(data)):
                (self._folder / f"{self._count:0{_DIGITS}}.png").write_bytes(data)
            self._count += 1


@contextlib.contextmanager
def picture_folder(path: Path, name: str, channels: int, *, force: bool) -> Iterator[_Folder]:
    """The images of output `name` as 000000.png, 000001.png, …"""
    _check_channels(channels)
    check_replaceable(path, "*.png")
    with staged_folder(path, force=force) as folder:
        yield _Folder(folder, path, name)


class _Grid:
    """Images row by row, in `sets` that stand beside each other: an image, its reconstruction, the next image, …"""

    def __init__(self, images: int, item: tuple[int, ...], names: Sequence[str]) -> None:
        channels, self._height, self._width = item
        self._names = tuple(names)
        self._columns = math.ceil(math.sqrt(images / len(names))) * len(names)
        rows = math.ceil(images / self._columns)
        self._shape = (
            channels,
            rows * (self._height + _WIDTH) - _WIDTH,
            min(images, self._columns) * (self._width + _WIDTH) - _WIDTH,
        )
        self._count = 0
        if self._shape[1] * self._shape[2] > MAX_PIXELS:
            raise UsageError(
                "too many images for one picture",
                expected=f"up to {MAX_PIXELS:,} pixels",
                got=f"{self._shape[2]:,} x {self._shape[1]:,}",
                do="choose a folder: an --out without .png",
            )
        self.pixels = np.full(self._shape, _LINE, np.uint8)

    def write(self, arrays: Mapping[str, Array]) -> None:
        for images in zip(*(arrays[name] for name in self._names), strict=True):
            for image in images:
                row, column = divmod(self._count, self._columns)
                top, left = row * (self._height + _WIDTH), column * (self._width + _WIDTH)
                self.pixels[:, top : top + self._height, left : left + self._width] = image
                self._count += 1


@contextlib.contextmanager
def grid(path: Path, rows: int, item: tuple[int, ...], names: Sequence[str], *, force: bool) -> Iterator[_Grid]:
    """One picture of all images, those of several outputs beside each other."""
    _check_channels(item[0])
    check_free(path, force=force)
    made = _Grid(rows * len(names), item, names)
    yield made
    check_free(path, force=force)
    write_atomic(path, png(made.pixels))


def _check_channels(channels: int) -> None:
    require("pictures")
    if channels not in MODES:
        expected, do = " or ".join(map(str, MODES)), "write .npy or --shards"
        raise UsageError("no picture of such images", expected=f"{expected} channels", got=channels, do=do)
