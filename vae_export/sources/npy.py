"""Arrays in .npy files of any origin (numpy.lib.format is the specification): headers checked, nothing unpickled.

Rows are read with plain reads, not through a memory map: a mapped file that somebody cuts short kills the process.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format

from vae_export.contract import Array
from vae_export.errors import DataError

#: Numbers that are converted, by the letter of their kind; anything else is no array of ours.
_KINDS = "fiub"


@dataclass(frozen=True)
class Header:
    """Attributes:
    shape: rows first.
    dtype: with the file's byte order.
    fortran: whether the first axis varies fastest.
    offset: of the first number, from where the header began.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int

    @property
    def size(self) -> int:
        """Bytes of header and numbers."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize

    @property
    def item(self) -> tuple[int, ...]:
        return self.shape[1:]


def read_header(stream: BinaryIO, size: int, where: str) -> Header:
    """The header at the beginning of `stream`, true to the `size` bytes that there are. Raises `DataError`."""
    try:
        version = npy_format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version}")
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except Exception as error:  # it is Python that is parsed there: damaged ones raise half a dozen kinds
        raise DataError("no readable npy file", where=where, got=str(error)[:200]) from error
    if dtype.hasobject:
        do = "save it as numbers: objects are pickles, which are programs, and are never loaded"
        raise DataError("array of Python objects", where=where, expected="numbers", got=dtype, do=do)
    if dtype.kind not in _KINDS or dtype.itemsize > 8:
        raise DataError("wrong dtype", where=where, expected="float32", got=dtype)
    if not shape or any(extent < 0 for extent in shape):
        raise DataError("wrong shape", where=where, expected="rows first", got=shape)
    header = Header(shape, dtype, fortran, stream.tell())
    if header.size != size:
        raise DataError("damaged", where=where, expected=f"{header.size:,} bytes, by its header", got=f"{size:,}")
    if math.prod(shape) == 0:
        raise DataError("no rows", where=where, expected="1 and up", got=shape)
    return header


class NpyFile:
    """The rows of one .npy file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with open(path, "rb") as file:
                self._header = read_header(file, os.fstat(file.fileno()).st_size, str(path))
        except OSError as error:
            raise DataError("cannot be read", where=path, got=error.strerror) from error

    @property
    def rows(self) -> int:
        return self._header.shape[0]

    @property
    def item(self) -> tuple[int, ...]:
        return self._header.item

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._header.dtype.newbyteorder("=")

    def read(self, start: int, stop: int) -> Array:
        header = self._header
        numbers = math.prod(header.item)
        try:
            with open(self._path, "rb", buffering=0) as file:
                if (size := os.fstat(file.fileno()).st_size) != header.size:
                    raise self._changed(header.size, size)
                if not header.fortran:
                    rows = np.empty((stop - start, *header.item), header.dtype)
                    self._fill(file, rows, start * numbers)
                else:  # each number of a row lies in a column of its own
                    columns = np.empty((numbers, stop - start), header.dtype)
                    for index in range(numbers):
                        self._fill(file, columns[index], index * self.rows + start)
                    rows = columns.reshape(*reversed(header.item), stop - start).T
        except OSError as error:
            raise DataError("cannot be read", where=self._path, got=error.strerror) from error
        return rows.astype(self.dtype, order="C", copy=False)

    def place(self, row: int) -> str:
        return f"{self._path}, row {row}"

    def _fill(self, file: BinaryIO, array: Array, first: int) -> None:
        """Fill a contiguous array with the numbers from number `first` on."""
        file.seek(self._header.offset + first * array.itemsize)
        view = array.data.cast("B")
        while len(view):
            if not (count := file.readinto(view)):  # type: ignore[attr-defined]  # a raw file has it
                raise self._changed("more bytes", "its end")
            view = view[count:]

    def _changed(self, expected: object, got: object) -> DataError:
        return DataError("file changed while it was read", where=self._path, expected=expected, got=got)
