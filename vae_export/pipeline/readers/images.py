"""A reader of image files: uint8 rows (C, H, W) of the size and the colours that the encoder takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vae_export.contract import Array
from vae_export.errors import DataError
from vae_export.system.extras import require

if TYPE_CHECKING:
    from vae_export.io.image_files import ImageArray


class ImageReader:
    """Image files, one for each row.

    Args:
        files: the files, in the order of the rows.
        item: (C, H, W), where C is 1 or 3.
        fit: centre-crop and resize images of another size, and convert colours to grey; without it refuse them.

    Raises:
        DataError: the model does not take images of 1 or 3 channels; `read` raises it for files that do not fit.
        MissingExtraError: Pillow is not installed.
    """

    def __init__(self, files: Sequence[Path], item: tuple[int, ...], *, fit: bool) -> None:
        require("pictures")
        if item[0] not in (1, 3):
            raise DataError("image files do not fit this model", expected="images of 1 or 3 channels", got=item[0])
        self._files = tuple(str(file) for file in files)  # pickled, a string is a tenth of the size of a path
        self._fit = fit
        self.rows, self.item, self.dtype = len(files), item, np.dtype(np.uint8)

    def read(self, start: int, stop: int) -> Array:
        """Return images start to stop - 1: uint8 (stop - start, C, H, W). Raises `DataError`."""
        rows = np.empty((stop - start, *self.item), np.uint8)
        for index in range(start, stop):
            rows[index - start] = self._read_row(Path(self._files[index]))
        return rows

    def locate(self, row: int) -> str:
        """Return the path of the image, for a message."""
        return self._files[row]

    def _read_row(self, file: Path) -> Array:
        from vae_export.io.image_files import read_image

        channels, height, width = self.item
        pixels = read_image(file, (height, width) if self._fit else None)
        if pixels.shape[:2] != (height, width):
            raise DataError(
                "image of another size",
                where=file,
                expected=f"{width} x {height}",
                got=f"{pixels.shape[1]} x {pixels.shape[0]}",
                do="pass --fit to crop and resize",
            )
        return _to_grey(pixels, file, fit=self._fit)[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _to_grey(pixels: ImageArray, file: Path, *, fit: bool) -> Array:
    """Return (H, W) for (H, W, 3), with the weights of ITU-R BT.601 for an image in colour."""
    if (pixels == pixels[..., :1]).all():
        return pixels[..., 0]
    if not fit:
        raise DataError("image in colour", where=file, expected="a grey one", do="pass --fit to convert it")
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).convert("L"))
