"""A reader of image files: uint8 rows (C, H, W) of the size and the colours that the encoder takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vae_export.contract import Array
from vae_export.errors import DataError
from vae_export.system.extras import require
from vae_export.tensors import Expression, Shape, Size

if TYPE_CHECKING:
    from vae_export.io.image_files import ImageArray


class ImageReader:
    """Image files, one for each row.

    Args:
        files: the files, in the order of the rows.
        item: (C, H, W), where C is 1 to 4: grey, grey and opacity, RGB, RGBA. Where H or W is an expression such as
            "8*h", the first image gives the size of all.
        fit: centre-crop and resize images of another size, and convert colours to grey; without it refuse them.

    Raises:
        DataError: the model does not take images of 1 to 4 channels; `read` raises it for files that do not fit.
        MissingExtraError: Pillow is not installed.
    """

    def __init__(self, files: Sequence[Path], item: Shape, *, fit: bool) -> None:
        require("pictures")
        channels, *sizes = item
        if channels not in (1, 2, 3, 4):
            raise DataError("image files do not fit this model", expected="images of 1 to 4 channels", got=channels)
        self._has_opacity = channels in (2, 4)
        self._files = tuple(str(file) for file in files)  # pickled, a string is a tenth of the size of a path
        self._fit = fit
        height, width = self._fixed(sizes)
        self.rows, self.item, self.dtype = len(files), (int(channels), height, width), np.dtype(np.uint8)

    def read(self, start: int, stop: int) -> Array:
        """Return images start to stop - 1: uint8 (stop - start, C, H, W). Raises `DataError`."""
        rows = np.empty((stop - start, *self.item), np.uint8)
        for index in range(start, stop):
            rows[index - start] = self._read_row(Path(self._files[index]))
        return rows

    def locate(self, row: int) -> str:
        """Return the path of the image, for a message."""
        return self._files[row]

    def _fixed(self, sizes: Sequence[Size]) -> tuple[int, int]:
        """Return height and width: the first image's, or with `fit` the next ones below that the expressions allow."""
        from vae_export.io.image_files import read_image

        height, width = sizes
        if isinstance(height, int) and isinstance(width, int):
            return height, width
        found = read_image(Path(self._files[0])).shape[:2]
        fitted = [_size_below(size, pixels) for size, pixels in zip((height, width), found, strict=True)]
        if list(found) != fitted and not self._fit:
            raise DataError(
                "image of another size",
                where=self._files[0],
                expected=f"{width} x {height}",
                got=f"{found[1]} x {found[0]}",
                do="pass --fit to crop and resize",
            )
        return fitted[0], fitted[1]

    def _read_row(self, file: Path) -> Array:
        from vae_export.io.image_files import read_image

        channels, height, width = self.item
        pixels = read_image(file, (height, width) if self._fit else None, opacity=self._has_opacity)
        if pixels.shape[:2] != (height, width):
            raise DataError(
                "image of another size",
                where=file,
                expected=f"{width} x {height}",
                got=f"{pixels.shape[1]} x {pixels.shape[0]}",
                do="pass --fit to crop and resize",
            )
        if channels < 3:
            grey = _to_grey(pixels[..., :3], file, fit=self._fit)
            return np.stack([grey, *np.moveaxis(pixels[..., 3:], -1, 0)])
        return pixels.transpose(2, 0, 1)


def _size_below(size: Size, pixels: int) -> int:
    """Return the largest number of pixels that a size allows, up to those of the image."""
    if isinstance(size, int):
        return size
    expression = Expression.parse(size)
    return expression.at(max(1, (pixels - expression.offset) // expression.factor))


def _to_grey(pixels: ImageArray, file: Path, *, fit: bool) -> Array:
    """Return (H, W) for (H, W, 3), with the weights of ITU-R BT.601 for an image in colour."""
    if (pixels == pixels[..., :1]).all():
        return pixels[..., 0]
    if not fit:
        raise DataError("image in colour", where=file, expected="a grey one", do="pass --fit to convert it")
    from PIL import Image

    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))
