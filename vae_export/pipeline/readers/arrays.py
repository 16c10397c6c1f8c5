"""Readers of .npy and .npz files from anyone (specification: numpy.lib.format). Nothing is ever unpickled.

An .npy file is read with plain reads: a memory map of a file that somebody truncates would kill the process. An .npz
file is a ZIP archive of .npy files, which is read forwards and never unpacked as a whole.
"""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np
from numpy.lib import format as npy_format

from vae_export.contract import Array
from vae_export.errors import DataError
from vae_export.pipeline.readers.base import BLOCK_BYTES, BlockStream

#: Kinds of dtype that are read: float, signed and unsigned integer, bool.
_KINDS = "fiub"
#: The most bytes of an unpacked member, and how many times larger than its packed form it may be. The ratio is checked
#: for large members only: a few kilobytes of zeros are not a ZIP bomb.
MAX_BYTES, MAX_RATIO, RATIO_FROM = 256 << 30, 200, 64 << 20
MAX_MEMBERS = 1000
_ENCRYPTED = 1
#: Errors that zipfile raises for archives that are damaged, truncated or something else.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, KeyError, RuntimeError, ValueError)


@dataclass(frozen=True)
class NpyHeader:
    """The header of an .npy file.

    Attributes:
        shape: (rows, *item).
        dtype: with the file's byte order.
        fortran: whether the first axis varies fastest.
        offset: position of the first number, in bytes from the start of the header.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int

    @property
    def size(self) -> int:
        """Size of header and numbers in bytes."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.shape[0]

    @property
    def item(self) -> tuple[int, ...]:
        """The shape of one row."""
        return self.shape[1:]

    @property
    def native_dtype(self) -> np.dtype[Any]:
        """The dtype in the machine's byte order."""
        return self.dtype.newbyteorder("=")


def read_npy_header(stream: BinaryIO, size: int, where: str) -> NpyHeader:
    """Read the header at the beginning of a stream, and check it against the size of the file.

    Args:
        stream: the file, at its beginning.
        size: its size in bytes.
        where: its name, for messages.

    Returns:
        The header. The stream is then at the first number.

    Raises:
        DataError: it is not an .npy file, it does not hold numbers, or its size is not the one that its header states.
    """
    try:
        version = npy_format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version}")
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except Exception as error:  # a header is a Python literal: a damaged one raises half a dozen kinds
        raise DataError("not a readable .npy file", where=where, got=str(error)[:200]) from error
    if dtype.hasobject:
        do = "save it as numbers: objects are pickles, which can run code, and are never loaded"
        raise DataError("array of Python objects", where=where, expected="numbers", got=dtype, do=do)
    if dtype.kind not in _KINDS or dtype.itemsize > 8:
        raise DataError("wrong dtype", where=where, expected="float32", got=dtype)
    if not shape or any(extent < 0 for extent in shape):
        raise DataError("wrong shape", where=where, expected="rows first", got=shape)
    header = NpyHeader(shape, dtype, fortran, stream.tell())
    if header.size != size:
        raise DataError("damaged", where=where, expected=f"{header.size:,} bytes, by its header", got=f"{size:,}")
    if math.prod(shape) == 0:
        raise DataError("no rows", where=where, expected="1 and up", got=shape)
    return header


class NpyReader:
    """The rows of an .npy file. Raises `DataError` for a file that cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with open(path, "rb") as file:
                self._header = read_npy_header(file, os.fstat(file.fileno()).st_size, str(path))
        except OSError as error:
            raise DataError("cannot be read", where=path, got=error.strerror) from error
        self.rows, self.item, self.dtype = self._header.rows, self._header.item, self._header.native_dtype

    def read(self, start: int, stop: int) -> Array:
        """Return rows start to stop - 1: (stop - start, *item). Raises `DataError`."""
        header = self._header
        numbers = math.prod(header.item)
        try:
            with open(self._path, "rb", buffering=0) as file:
                if (size := os.fstat(file.fileno()).st_size) != header.size:
                    raise self._changed(header.size, size)
                if not header.fortran:
                    rows = np.empty((stop - start, *header.item), header.dtype)
                    self._fill(file, rows, start * numbers)
                else:  # Fortran order: each number of a row lies in a column of its own
                    columns = np.empty((numbers, stop - start), header.dtype)
                    for index in range(numbers):
                        self._fill(file, columns[index], index * self.rows + start)
                    rows = columns.reshape(*reversed(header.item), stop - start).T
        except OSError as error:
            raise DataError("cannot be read", where=self._path, got=error.strerror) from error
        return rows.astype(self.dtype, order="C", copy=False)

    def locate(self, row: int) -> str:
        """Return the file and the number of the row, for a message."""
        return f"{self._path}, row {row}"

    def _fill(self, file: BinaryIO, array: Array, first: int) -> None:
        """Fill a contiguous array with the numbers of the file from number `first` on."""
        file.seek(self._header.offset + first * array.itemsize)
        view = array.data.cast("B")
        while len(view):
            if not (count := file.readinto(view)):  # type: ignore[attr-defined]  # a raw file has it
                raise self._changed("more bytes", "its end")
            view = view[count:]

    def _changed(self, expected: object, got: object) -> DataError:
        return DataError("file changed while it was read", where=self._path, expected=expected, got=got)


class NpzReader:
    """The rows of one array of an .npz file.

    Args:
        path: the file.
        field: name of the array; None takes the first of `names` that is there, or the only array.
        names: the names that are tried in turn.

    Raises:
        DataError: the file cannot be read, or it is not clear which array is meant.
    """

    def __init__(self, path: Path, field: str | None, names: Sequence[str]) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self._member = _choose_member(archive, path, field, names)
                self._where = f"{path}, {self._member}"
                info = archive.getinfo(self._member)
                _check_member(info, self._where)
                with archive.open(info) as stream:
                    self._header = read_npy_header(cast(Any, stream), info.file_size, self._where)
        except _DAMAGE as error:
            raise DataError("not a readable .npz file", where=path, got=error) from error
        if self._header.fortran:
            do = "save np.ascontiguousarray(array)"
            raise DataError("array in Fortran order", where=self._where, expected="C order", do=do)
        self.rows, self.item, self.dtype = self._header.rows, self._header.item, self._header.native_dtype
        self._stream = BlockStream(self._blocks, _first_row, self._where)

    def read(self, start: int, stop: int) -> Array:
        """Return rows start to stop - 1: (stop - start, *item). Raises `DataError`."""
        return self._stream.read(start, stop)

    def locate(self, row: int) -> str:
        """Return the file, the array and the number of the row, for a message."""
        return f"{self._where}, row {row}"

    def _blocks(self, _: int) -> Iterator[Array]:
        """Yield all rows in blocks. It reads to the end of the member: zipfile compares the checksum only there."""
        header = self._header
        row = math.prod(header.item) * header.dtype.itemsize
        step = max(1, BLOCK_BYTES // row)
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(self._member) as stream:
                if archive.getinfo(self._member).file_size != header.size:
                    raise DataError("file changed while it was read", where=self._where)
                _read_exactly(stream, header.offset)
                for start in range(0, self.rows, step):
                    count = min(step, self.rows - start)
                    data = _read_exactly(stream, count * row)
                    if start + count == self.rows:
                        stream.read(1)
                    block = np.frombuffer(data, header.dtype).reshape(count, *header.item)
                    yield block.astype(self.dtype, copy=False)
        except _DAMAGE as error:
            raise DataError("damaged", where=self._where, got=error) from error


def _first_row(_: int) -> int:
    """Return 0, the only row from which an .npz file can be read. A function with a name can be pickled."""
    return 0


def _read_exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError(f"{size - len(data)} bytes are missing")
    return data


def _choose_member(archive: zipfile.ZipFile, path: Path, field: str | None, names: Sequence[str]) -> str:
    members = archive.namelist()
    if len(members) > MAX_MEMBERS or len(set(members)) != len(members):
        raise DataError("not a readable .npz file", where=path, got="too many members, or two with one name")
    known = [name.removesuffix(".npy") for name in members if name.endswith(".npy")]
    return f"{choose_field(known, path, field, names)}.npy"


def choose_field(known: Sequence[str], path: Path, field: str | None, names: Sequence[str]) -> str:
    """Choose one of the arrays, columns or sets of shards in a file or folder.

    Args:
        known: the names in the file or folder.
        path: the file or folder, for the message.
        field: the name that the user gave, if any.
        names: the names that are tried in turn if the user gave none; the only one in `known` is always taken.

    Returns:
        The chosen name, one of `known`.

    Raises:
        DataError: none of the names fits.
    """
    wanted = names if field is None else [field]
    for name in wanted:
        if name in known:
            return name
    if field is None and len(known) == 1:
        return known[0]
    expected, got = " or ".join(f"'{name}'" for name in wanted), ", ".join(known[:20]) or "nothing"
    raise DataError("no such array", where=path, expected=expected, got=got, do="name one with --field")


def _check_member(info: zipfile.ZipInfo, where: str) -> None:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & _ENCRYPTED:
        raise DataError("unknown compression", where=where, expected="np.savez or np.savez_compressed")
    if info.file_size > MAX_BYTES:
        raise DataError("too large", where=where, expected=f"up to {MAX_BYTES:,} bytes", got=f"{info.file_size:,}")
    if info.file_size > RATIO_FROM and info.file_size > MAX_RATIO * max(1, info.compress_size):
        ratio = info.file_size // max(1, info.compress_size)
        raise DataError(
            "compression ratio too high", where=where, expected=f"up to {MAX_RATIO} times", got=f"{ratio} times"
        )
