"""What a network may be given: float32 rows of its input's shape, finite and in range, or an error that names the row.

Converted, because a file says what it holds: other floats and byte orders to float32, 8-bit levels to the range of
pixels, images without a channel axis or with it last.
"""

from __future__ import annotations

import math

import numpy as np

from vae_export.contract import BATCH, Array, TensorSpec
from vae_export.errors import DataError
from vae_export.pipeline.readers.base import Reader
from vae_export.runtime.model import ROUNDING


class ValidatedReader:
    """The rows of a source as an input of a network. Raises `DataError` for a shape or dtype that cannot become one."""

    def __init__(self, source: Reader, spec: TensorSpec) -> None:
        self._source, self._spec = source, spec
        self.rows, self.item, self.dtype = source.rows, spec.item, np.dtype(np.float32)
        self._image = math.isfinite(spec.low) and math.isfinite(spec.high)
        levels = self._image and source.dtype == np.uint8
        if not levels and source.dtype.kind != "f":
            expected = "float32, or uint8 levels" if self._image else "float32"
            raise DataError("wrong dtype", where=source.place(0), expected=expected, got=source.dtype)
        self._axes = self._layout()
        self._levels = (
            (spec.low + (spec.high - spec.low) * (np.arange(256) / 255)).astype(np.float32) if levels else None
        )

    def read(self, start: int, stop: int) -> Array:
        rows = self._source.read(start, stop)
        if self._axes == "last":
            rows = np.moveaxis(rows, -1, 1)
        rows = rows.reshape(stop - start, *self.item)
        if self._levels is not None:
            return self._levels[rows]
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused as that
            rows = rows.astype(np.float32, order="C", copy=False)
        self._check(rows, start)
        return rows

    def place(self, row: int) -> str:
        return self._source.place(row)

    def _layout(self) -> str:
        """Where the source has its channels: first, last or nowhere."""
        item, wanted = self._source.item, self._spec.item
        if item == wanted:
            return "first"
        if self._image and wanted[0] == 1 and item == wanted[1:]:
            return "nowhere"
        if self._image and item == (*wanted[1:], wanted[0]):
            return "last"
        raise DataError(
            "wrong shape",
            where=self._source.place(0),
            expected=f"'{self._spec.name}' of {(BATCH, *wanted)}",
            got=(self.rows, *item),
        )

    def _check(self, rows: Array, start: int) -> None:
        if not np.isfinite(rows).all():
            index, value = _first(rows, ~np.isfinite(rows))
            raise DataError("not finite", where=self.place(start + index), expected="finite numbers", got=value)
        if not self._image:
            return
        low, high = self._spec.low, self._spec.high
        slack = ROUNDING * (high - low)
        wrong = (rows < low - slack) | (rows > high + slack)
        if wrong.any():
            index, value = _first(rows, wrong)
            expected, do = f"pixels in [{low:g}, {high:g}]", "scale them, or store 8-bit levels as uint8"
            raise DataError("out of range", where=self.place(start + index), expected=expected, got=value, do=do)


def _first(rows: Array, wrong: Array) -> tuple[int, float]:
    """The first row with a wrong number, and that number."""
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    return index[0], float(rows[index])
