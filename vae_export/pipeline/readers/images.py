"""Files of images as rows: uint8 (C, H, W), of the size and the colours that the encoder takes."""

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
    """One file a row.

    Args:
        files: in their order.
        item: (C, H, W), with C of 1 or 3.
        fit: bring images of another size to this one, their middle cut out, and colours to grey; else refuse them.
    """

    def __init__(self, files: Sequence[Path], item: tuple[int, ...], *, fit: bool) -> None:
        require("pictures")
        if item[0] not in (1, 3):
            raise DataError("no picture of this model", expected="images of 1 or 3 channels", got=item[0])
        self._files = tuple(str(file) for file in files)  # a tenth of what paths weigh on their way to another machine
        self._fit = fit
        self.rows, self.item, self.dtype = len(files), item, np.dtype(np.uint8)

    def read(self, start: int, stop: int) -> Array:
        rows = np.empty((stop - start, *self.item), np.uint8)
        for index in range(start, stop):
            rows[index - start] = self._row(Path(self._files[index]))
        return rows

    def place(self, row: int) -> str:
        return self._files[row]

    def _row(self, file: Path) -> Array:
        from vae_export.io.image_files import read_image

        channels, height, width = self.item
        pixels = read_image(file, (height, width) if self._fit else None)
        if pixels.shape[:2] != (height, width):
            raise DataError(
                "image of another size",
                where=file,
                expected=f"{width} x {height}",
                got=f"{pixels.shape[1]} x {pixels.shape[0]}",
                do="pass --fit to cut and resize",
            )
        return _grey(pixels, file, fit=self._fit)[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _grey(pixels: ImageArray, file: Path, *, fit: bool) -> Array:
    """(H, W, 3) → (H, W), by the weights of ITU-R BT.601 where it is coloured."""
    if (pixels == pixels[..., :1]).all():
        return pixels[..., 0]
    if not fit:
        raise DataError("image in colour", where=file, expected="a grey one", do="pass --fit to make it grey")
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).convert("L"))
