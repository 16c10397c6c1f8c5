"""Write a pipeline's outputs as one array file, a folder of shards, PNG files, or one picture of all images.

Each writer is a context manager. It writes outputs as they arrive and publishes them atomically when the block ends.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import numpy as np
from numpy.lib import format as npy_format

from vae_export.contract import Array
from vae_export.errors import StorageError, UsageError
from vae_export.io.atomic import PARTIAL, check_room, storage_errors, write_atomic
from vae_export.io.staging import check_free, check_replaceable, staged_file, staged_folder, sweep
from vae_export.system.extras import require

#: The shape of a row and the dtype of each output, by its name.
Outputs = Mapping[str, tuple[tuple[int, ...], "np.dtype[np.generic]"]]

ShardFormat = Literal["npy", "parquet"]

#: The most pixels that one picture of all images may have.
MAX_PIXELS = 64_000_000
#: Pillow's mode by the number of channels.
_PNG_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
#: Level and width in pixels of the lines between the images of a grid.
_LINE_LEVEL, _LINE_WIDTH = 255, 2
#: Digits of the number in the name of an image file.
_DIGITS = 6
#: The earliest timestamp of a ZIP archive. A fixed timestamp makes equal arrays give equal bytes.
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


class Writer(Protocol):
    """Receives the outputs of a pipeline, several rows at a time."""

    def write(self, arrays: Mapping[str, Array]) -> None:
        """Write the next rows of each output, (rows, *item); raise `StorageError` if they cannot be written."""


@contextlib.contextmanager
def npy_file(path: Path, rows: int, outputs: Outputs, *, force: bool) -> Iterator[Writer]:
    """Write the only output as an .npy file.

    Args:
        path: the file.
        rows: rows of the whole output.
        outputs: shape of a row and dtype of the output; the array is (rows, *shape).
        force: whether to replace an existing file.

    Yields:
        The writer. The file is published at the end of the block.

    Raises:
        UsageError: the file exists.
        StorageError: the file cannot be written.
    """
    ((name, (item, dtype)),) = outputs.items()
    check_room(path, _bytes_of(rows, outputs))
    with staged_file(path, force=force) as file:
        _write_npy_header(file, (rows, *item), dtype)
        yield _NpyFiles({name: file})


@contextlib.contextmanager
def npz_file(path: Path, rows: int, outputs: Outputs, *, force: bool) -> Iterator[Writer]:
    """Write several outputs as the arrays of an uncompressed .npz file.

    A ZIP archive takes one member after the other, but the outputs arrive in parallel. So they are kept in unnamed
    files until the block ends.

    Args:
        path: the file.
        rows: rows of the whole output.
        outputs: shape of a row and dtype of each output; an array is (rows, *shape).
        force: whether to replace an existing file.

    Yields:
        The writer. The file is published at the end of the block.

    Raises:
        UsageError: the file exists.
        StorageError: the file cannot be written.
    """
    check_room(path, 2 * _bytes_of(rows, outputs))
    with staged_file(path, force=force) as target, contextlib.ExitStack() as stack:
        parts: dict[str, IO[bytes]] = {}
        for name, (item, dtype) in outputs.items():
            parts[name] = stack.enter_context(tempfile.TemporaryFile(prefix=PARTIAL, dir=path.parent))
            _write_npy_header(parts[name], (rows, *item), dtype)
        yield _NpyFiles(parts)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for name, part in parts.items():
                part.seek(0)
                with archive.open(zipfile.ZipInfo(f"{name}.npy", _ZIP_EPOCH), "w", force_zip64=True) as member:
                    shutil.copyfileobj(part, member, 1 << 20)


@contextlib.contextmanager
def shard_folder(path: Path, format: ShardFormat, rows: int, outputs: Outputs, *, force: bool) -> Iterator[Shards]:
    """Write all outputs as a folder of shards, files with several rows each.

    Args:
        path: the folder.
        format: .npy files OUTPUT-00000.npy, OUTPUT-00001.npy, …; or Parquet files part-00000.parquet, … with one
            column of Arrow tensors for each output.
        rows: rows of the whole output.
        outputs: shape of a row and dtype of each output.
        force: whether to replace an existing folder that contains only such files.

    Yields:
        The staging folder, in which any process may write shards. It is published at the end of the block.

    Raises:
        UsageError: the folder exists, or contains other files.
        StorageError: the folder cannot be written.
        MissingExtraError: the format needs pyarrow, which is not installed.
    """
    if format == "parquet":
        require("parquet")
    if force:
        stems = ["part"] if format == "parquet" else list(outputs)
        check_replaceable(
            path, rf"(?:{'|'.join(map(re.escape, stems))})-\d{{5,}}\.{format}", f"{stems[0]}-00000.{format}, …"
        )
    check_room(path, _bytes_of(rows, outputs))
    with staged_folder(path, force=force) as folder:
        yield Shards(folder.absolute(), format, tuple(outputs))
        sweep(folder)  # a killed worker leaves a partial file; another worker has written the whole one


@dataclass(frozen=True)
class Shards:
    """A folder of shards that this process, or others with access to the folder, are writing.

    Attributes:
        folder: the staging folder.
        format: format of the files.
        names: names of the outputs.
    """

    folder: Path
    format: ShardFormat
    names: tuple[str, ...]

    def write(self, index: int, arrays: Mapping[str, Array]) -> None:
        """Write the files of a chunk. Each file is written atomically, even if this process is killed.

        Args:
            index: the number of the chunk.
            arrays: the rows of each output, (rows, *item), by name.

        Raises:
            StorageError: the folder does not exist on this machine, or a file cannot be written.
        """
        if not self.folder.is_dir():
            do = "put --out on storage that all machines share"
            raise StorageError("output folder is missing", where=self.folder, expected="shared storage", do=do)
        files = self.files(index)
        if self.format == "parquet":
            with staged_file(files[0], force=True, parents=False) as file:
                _write_parquet(file, arrays)
            return
        for path, name in zip(files, self.names, strict=True):
            with staged_file(path, force=True, parents=False) as file:
                _write_npy_header(file, arrays[name].shape, arrays[name].dtype)
                _write_numbers(file, arrays[name])

    def check(self, index: int) -> None:
        """Raise `StorageError` unless the files of chunk `index` exist."""
        for path in self.files(index):
            if not path.is_file():
                do = "put --out on storage that all machines share"
                raise StorageError("shard is missing", where=path, expected="shared storage", do=do)

    def files(self, index: int) -> list[Path]:
        """Return the paths of the files of chunk `index`."""
        if self.format == "parquet":
            return [self.folder / f"part-{index:05}.parquet"]
        return [self.folder / f"{name}-{index:05}.npy" for name in self.names]


@contextlib.contextmanager
def picture_folder(path: Path, name: str, channels: int, *, force: bool) -> Iterator[Writer]:
    """Write the images of one output as 000000.png, 000001.png, …

    Args:
        path: the folder.
        name: name of the output, uint8 (rows, C, H, W).
        channels: number of channels, C: 1 to 4.
        force: whether to replace an existing folder that contains only such files.

    Yields:
        The writer. The folder is published at the end of the block.

    Raises:
        UsageError: the folder exists or contains other files, or PNG does not support this number of channels.
        StorageError: the folder cannot be written.
        MissingExtraError: Pillow is not installed.
    """
    _check_channels(channels)
    if force:
        check_replaceable(path, rf"\d{{{_DIGITS},}}\.png", f"{0:0{_DIGITS}}.png, {1:0{_DIGITS}}.png, …")
    with staged_folder(path, force=force) as folder:
        yield _PngFiles(folder, path, name)


@contextlib.contextmanager
def grid(path: Path, rows: int, item: tuple[int, ...], names: Sequence[str], *, force: bool) -> Iterator[Writer]:
    """Write all images as one PNG file.

    Args:
        path: the file.
        rows: number of images of each output.
        item: shape of an image, (C, H, W).
        names: names of the outputs, uint8; the images of one row are side by side.
        force: whether to replace an existing file.

    Yields:
        The writer. The file is published at the end of the block.

    Raises:
        UsageError: the file exists, there are too many images for one picture, or PNG does not support this number of
            channels.
        StorageError: the file cannot be written.
        MissingExtraError: Pillow is not installed.
    """
    _check_channels(item[0])
    check_free(path, force=force)
    picture = _Grid(rows * len(names), item, names)
    yield picture
    check_free(path, force=force)
    write_atomic(path, _png(picture.pixels))


class _NpyFiles:
    """An open .npy file for each output. On a full disk a write raises an error; a memory map would raise a signal."""

    def __init__(self, files: Mapping[str, IO[bytes]]) -> None:
        self._files = files

    def write(self, arrays: Mapping[str, Array]) -> None:
        for name, file in self._files.items():
            _write_numbers(file, arrays[name])


class _PngFiles:
    """A staging folder to which one PNG file is written for each image."""

    def __init__(self, folder: Path, final: Path, name: str) -> None:
        self._folder, self._final, self._name = folder, final, name
        self._count = 0

    def write(self, arrays: Mapping[str, Array]) -> None:
        for image in arrays[self._name]:
            data = _png(image)
            with storage_errors(self._final, needed=len(data)):
                (self._folder / f"{self._count:0{_DIGITS}}.png").write_bytes(data)
            self._count += 1


class _Grid:
    """One picture, filled row by row; the images of several outputs alternate."""

    def __init__(self, images: int, item: tuple[int, ...], names: Sequence[str]) -> None:
        channels, self._height, self._width = item
        self._names = tuple(names)
        self._columns = math.ceil(math.sqrt(images / len(names))) * len(names)
        rows = math.ceil(images / self._columns)
        height = rows * (self._height + _LINE_WIDTH) - _LINE_WIDTH
        width = min(images, self._columns) * (self._width + _LINE_WIDTH) - _LINE_WIDTH
        self._count = 0
        if height * width > MAX_PIXELS:
            raise UsageError(
                "too many images for one picture",
                expected=f"up to {MAX_PIXELS:,} pixels",
                got=f"{width:,} x {height:,}",
                do="choose a folder: an --out without .png",
            )
        self.pixels = np.full((channels, height, width), _LINE_LEVEL, np.uint8)

    def write(self, arrays: Mapping[str, Array]) -> None:
        for images in zip(*(arrays[name] for name in self._names), strict=True):
            for image in images:
                row, column = divmod(self._count, self._columns)
                top, left = row * (self._height + _LINE_WIDTH), column * (self._width + _LINE_WIDTH)
                self.pixels[:, top : top + self._height, left : left + self._width] = image
                self._count += 1


def _write_npy_header(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Write the header of an .npy file of little-endian numbers in C order."""
    header = {"descr": npy_format.dtype_to_descr(dtype.newbyteorder("<")), "fortran_order": False, "shape": shape}
    npy_format.write_array_header_1_0(file, header)


def _write_numbers(file: IO[bytes], array: Array) -> None:
    """Write the numbers that follow the header of an .npy file, little-endian and in C order."""
    file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data.cast("B"))


def _write_parquet(file: object, arrays: Mapping[str, Array]) -> None:
    """Write one Parquet file, without dictionary and compression, because floats rarely repeat."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = {name: pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(a)) for name, a in arrays.items()}
    table = pa.table(columns)
    parquet.write_table(table, file, use_dictionary=False, compression="none", row_group_size=max(1, len(table)))


def _png(image: Array) -> bytes:
    """Return the bytes of a PNG file of an image, uint8 (C, H, W)."""
    from PIL import Image

    pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    stream = io.BytesIO()
    Image.fromarray(pixels, _PNG_MODES[len(image)]).save(stream, "PNG")
    return stream.getvalue()


def _bytes_of(rows: int, outputs: Outputs) -> int:
    """Return the size of all outputs in bytes."""
    return rows * sum(math.prod(item) * dtype.itemsize for item, dtype in outputs.values())


def _check_channels(channels: int) -> None:
    require("pictures")
    if channels not in _PNG_MODES:
        expected, do = " or ".join(map(str, _PNG_MODES)), "write .npy or --shards"
        raise UsageError("PNG does not support these images", expected=f"{expected} channels", got=channels, do=do)
