"""Arrays in .npy files of any origin (numpy.lib.format is the specification): headers checked, nothing unpickled.

Rows are read with plain reads, not through a memory map: a mapped file that somebody cuts short kills the process.

Arrays in .npz files of any origin: ZIP archives of .npy files, read forwards, never unpacked as a whole.
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
from vae_export.pipeline.readers.base import BLOCK_BYTES, Stream

#: Numbers that are converted, by the letter of their kind; anything else is no array of ours.
_KINDS = "fiub"


@dataclass(frozen=True)
class NpyHeader:
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


def read_npy_header(stream: BinaryIO, size: int, where: str) -> NpyHeader:
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
    header = NpyHeader(shape, dtype, fortran, stream.tell())
    if header.size != size:
        raise DataError("damaged", where=where, expected=f"{header.size:,} bytes, by its header", got=f"{size:,}")
    if math.prod(shape) == 0:
        raise DataError("no rows", where=where, expected="1 and up", got=shape)
    return header


class NpyReader:
    """The rows of one .npy file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with open(path, "rb") as file:
                self._header = read_npy_header(file, os.fstat(file.fileno()).st_size, str(path))
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


#: Of one unpacked member, and how much larger it may be than what is packed. The ratio is asked of large ones only:
#: some kilobytes of zeros are no bomb.
MAX_BYTES, MAX_RATIO, RATIO_FROM = 256 << 30, 200, 64 << 20
MAX_MEMBERS = 1000
_ENCRYPTED = 1


class NpzReader:
    """The rows of one array of an .npz file: of `field`, else of the first of `names` that is there, else the only one.

    Raises `DataError`.
    """

    def __init__(self, path: Path, field: str | None, names: Sequence[str]) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self._member = _choose(archive, path, field, names)
                self._where = f"{path}, {self._member}"
                info = archive.getinfo(self._member)
                _check(info, self._where)
                with archive.open(info) as stream:
                    self._header: NpyHeader = read_npy_header(cast(Any, stream), info.file_size, self._where)
        except _DAMAGE as error:
            raise DataError("no readable npz file", where=path, got=error) from error
        if self._header.fortran:
            do = "save np.ascontiguousarray(array)"
            raise DataError("array in Fortran order", where=self._where, expected="a row after the other", do=do)
        self._stream = Stream(self._blocks, _beginning, self._where)

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
        return self._stream.read(start, stop)

    def place(self, row: int) -> str:
        return f"{self._where}, row {row}"

    def _blocks(self, _: int) -> Iterator[Array]:
        """All rows, some at a time. What follows the last one is asked for too: only then is the checksum compared."""
        header = self._header
        row = math.prod(header.item) * header.dtype.itemsize
        step = max(1, BLOCK_BYTES // row)
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(self._member) as stream:
                if archive.getinfo(self._member).file_size != header.size:
                    raise DataError("file changed while it was read", where=self._where)
                _exactly(stream, header.offset)
                for start in range(0, self.rows, step):
                    count = min(step, self.rows - start)
                    data = _exactly(stream, count * row)
                    if start + count == self.rows:
                        stream.read(1)
                    block = np.frombuffer(data, header.dtype).reshape(count, *header.item)
                    yield block.astype(self.dtype, copy=False)
        except _DAMAGE as error:
            raise DataError("damaged", where=self._where, got=error) from error


#: What zipfile raises on archives that are none, or cut short, or altered.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, KeyError, RuntimeError, ValueError)


def _beginning(_: int) -> int:
    """The only row at which reading can begin."""
    return 0


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError(f"{size - len(data)} bytes are missing")
    return data


def _choose(archive: zipfile.ZipFile, path: Path, field: str | None, names: Sequence[str]) -> str:
    members = archive.namelist()
    if len(members) > MAX_MEMBERS or len(set(members)) != len(members):
        raise DataError("no readable npz file", where=path, got="too many members, or two of one name")
    known = [name.removesuffix(".npy") for name in members if name.endswith(".npy")]
    return f"{choose_field(known, path, field, names)}.npy"


def choose_field(known: Sequence[str], path: Path, field: str | None, names: Sequence[str]) -> str:
    """Which of the arrays or columns `known` is meant; raises `DataError` where that is not clear."""
    wanted = names if field is None else [field]
    for name in wanted:
        if name in known:
            return name
    if field is None and len(known) == 1:
        return known[0]
    expected, got = " or ".join(f"'{name}'" for name in wanted), ", ".join(known[:20]) or "nothing"
    raise DataError("no such array", where=path, expected=expected, got=got, do="name one with --field")


def _check(info: zipfile.ZipInfo, where: str) -> None:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & _ENCRYPTED:
        raise DataError("packed in another way", where=where, expected="np.savez or np.savez_compressed")
    if info.file_size > MAX_BYTES:
        raise DataError("too large", where=where, expected=f"up to {MAX_BYTES:,} bytes", got=f"{info.file_size:,}")
    if info.file_size > RATIO_FROM and info.file_size > MAX_RATIO * max(1, info.compress_size):
        ratio = info.file_size // max(1, info.compress_size)
        raise DataError("packed too tightly", where=where, expected=f"up to {MAX_RATIO} times", got=f"{ratio} times")
