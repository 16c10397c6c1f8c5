"""Open a path that a user typed as the input of a network: float32 rows of its shape, finite and in range.

A file states what it holds, so it is converted: other floats and byte orders to float32, 8-bit levels to the model's
range of pixels, and images with their channel axis last, or without one, to (C, H, W).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vae_export.contract import MAX_LEVEL, Array
from vae_export.errors import DataError
from vae_export.pipeline.readers.arrays import NpyReader, NpzReader, choose_field
from vae_export.pipeline.readers.base import ConcatenatedReader, Reader
from vae_export.pipeline.readers.images import ImageReader
from vae_export.pipeline.readers.parquet import ParquetReader
from vae_export.system.extras import require
from vae_export.tensors import BATCH, TensorSpec, axes_text, sizes_at

NPY, NPZ, PARQUET = ".npy", ".npz", ".parquet"
ARRAYS = (NPY, NPZ, PARQUET)

#: Names of an array or column that is read unless the user names one. An encoder's mean serves as a latent.
LATENT_NAMES = ("latent", "mean")
IMAGE_NAMES = ("image", "reconstruction")
#: The most endings of other files that a message about a folder names.
_NAMED_ENDINGS = 4


def open_latents(
    path: Path, spec: TensorSpec, *, field: str | None = None, sizes: dict[str, int] | None = None
) -> ValidatedReader:
    """Open latents in an .npy, .npz or .parquet file, or in a folder of .npy or .parquet files.

    Args:
        path: the file or folder.
        spec: the decoder's input.
        field: name of the array in an .npz, of the column in a .parquet, or of the .npy files in a folder; None takes
            the spec's name, `mean`, or the only one.
        sizes: values of symbols that other inputs have; those of this one are added.

    Returns:
        A reader of rows (N, *spec.item) of the spec's dtype.

    Raises:
        DataError: the path cannot be read, or holds something else. Numbers are checked while they are read.
        MissingExtraError: the package that reads the file is not installed.
    """
    names = tuple(dict.fromkeys((spec.name, *LATENT_NAMES)))
    return ValidatedReader(_open(path, spec, field, names, images=False, fit=False), spec, sizes)


def open_array(
    path: Path, spec: TensorSpec, *, field: str | None = None, sizes: dict[str, int] | None = None
) -> ValidatedReader:
    """Open an array of rows, such as a condition, as `open_latents` opens latents; the usual name is the spec's."""
    return ValidatedReader(_open(path, spec, field, (spec.name,), images=False, fit=False), spec, sizes)


def open_images(
    path: Path,
    spec: TensorSpec,
    *,
    field: str | None = None,
    fit: bool = False,
    sizes: dict[str, int] | None = None,
) -> ValidatedReader:
    """Open images or other data in arrays, as `open_latents` takes them, or an image file, or a folder of image files.

    Args:
        path: the file or folder.
        spec: the encoder's input.
        field: name of the array, column or files; None takes the spec's name, `reconstruction`, or the only one.
        fit: crop, resize and convert image files to grey as needed; without it they are refused.
        sizes: values of symbols that other inputs have; those of this one are added.

    Returns:
        A reader of float32 rows, such as (N, C, H, W), in the range of `spec`.

    Raises:
        DataError, MissingExtraError: as `open_latents`.
    """
    names = tuple(dict.fromkeys((spec.name, *IMAGE_NAMES)))
    return ValidatedReader(_open(path, spec, field, names, images=spec.is_image, fit=fit), spec, sizes)


class ValidatedReader:
    """The rows of another reader, converted to and checked against the input of a network.

    Args:
        reader: the rows as the file has them.
        spec: the input. The rows give its open sizes.
        sizes: values of symbols that other inputs have; those of this one are added.

    Raises:
        DataError: the shape or dtype does not fit. `read` raises it for numbers that are not finite or out of range.
    """

    def __init__(self, reader: Reader, spec: TensorSpec, sizes: dict[str, int] | None = None) -> None:
        self._reader = reader
        self._is_image = spec.is_image
        item, self._is_channels_last = self._find_item(spec, {} if sizes is None else sizes)
        self._spec = replace(spec, item=item)
        self.rows, self.item, self.dtype = reader.rows, item, np.dtype(spec.dtype)
        has_levels = spec.is_bounded and not spec.is_integer and reader.dtype == np.uint8
        if not has_levels and reader.dtype.kind not in ("iu" if spec.is_integer else "f"):
            expected = "integers" if spec.is_integer else "float32, or uint8 levels" if spec.is_bounded else "float32"
            raise DataError("wrong dtype", where=reader.locate(0), expected=expected, got=reader.dtype)
        self._pixel_of_level = (
            (spec.low + (spec.high - spec.low) * (np.arange(MAX_LEVEL + 1) / MAX_LEVEL)).astype(np.float32)
            if has_levels
            else None
        )

    def read(self, start: int, stop: int) -> Array:
        """Return rows start to stop - 1: (stop - start, *item) of the spec's dtype, checked. Raises `DataError`."""
        rows = self._reader.read(start, stop)
        if self._is_channels_last:
            rows = np.moveaxis(rows, -1, 1)
        rows = rows.reshape(stop - start, *self.item)
        if self._pixel_of_level is not None:
            return self._pixel_of_level[rows]
        if self._spec.is_integer:
            self._check_numbers(rows, start)
            return rows.astype(self.dtype, order="C", copy=False)
        with np.errstate(over="ignore"):  # a float64 beyond float32's range becomes infinite, which the check refuses
            rows = rows.astype(np.float32, order="C", copy=False)
        self._check_numbers(rows, start)
        return rows

    def locate(self, row: int) -> str:
        """Return the place of a row in the file, for a message."""
        return self._reader.locate(row)

    def _find_item(self, spec: TensorSpec, sizes: dict[str, int]) -> tuple[tuple[int, ...], bool]:
        """Return the shape of a row in the spec's order, and whether the file has the channels last."""
        found = self._reader.item
        candidates = [(found, False)]
        if self._is_image and spec.item[0] == 1:
            candidates.append(((1, *found), False))
        if self._is_image and len(found) == 3:
            candidates.append(((found[-1], *found[:-1]), True))
        for item, is_channels_last in candidates:
            values = dict(sizes)
            if len(item) == len(spec.item) and spec.fits((1, *item), values):
                sizes |= values
                return item, is_channels_last
        raise DataError(
            "wrong shape",
            where=self._reader.locate(0),
            expected=f"'{spec.name}' of {axes_text((BATCH, *sizes_at(spec.item, sizes)))}",
            got=(self._reader.rows, *found),
        )

    def _check_numbers(self, rows: Array, start: int) -> None:
        if not np.isfinite(rows).all():
            index, value = _first(rows, ~np.isfinite(rows))
            raise DataError("not finite", where=self.locate(start + index), expected="finite numbers", got=value)
        if (mask := self._spec.out_of_range(rows)) is not None:
            index, value = _first(rows, mask)
            low, high = self._spec.low, self._spec.high
            kind = "pixels" if self._is_image else "integers" if self._spec.is_integer else "numbers"
            expected = f"{kind} in [{low:g}, {high:g}]"
            do = "scale them, or store 8-bit levels as uint8" if self._is_image else None
            raise DataError("out of range", where=self.locate(start + index), expected=expected, got=value, do=do)


def missing(path: Path) -> DataError:
    """Return the error for a path at which nothing is."""
    return DataError("cannot be read", where=path, got=os.strerror(errno.ENOENT))


def _open(path: Path, spec: TensorSpec, field: str | None, names: Sequence[str], *, images: bool, fit: bool) -> Reader:
    if not path.exists():
        raise missing(path)
    if not path.is_dir():
        if path.suffix in ARRAYS:
            return _open_array(path, spec, field, names)
        if images:
            _check_regular(path)
            return ImageReader([path], spec.item, fit=fit)
        raise DataError("unknown file type", where=path, expected=" | ".join(ARRAYS), got=path.suffix or "none")
    files = sorted(file for file in path.iterdir() if file.suffix in ARRAYS and not file.name.startswith("."))
    if files:
        return _open_shards(path, files, spec, field, names)
    if images:
        require("pictures")
        from vae_export.io.image_files import find_images

        if found := find_images(path):
            return ImageReader(found, spec.item, fit=fit)
    expected = f"{'images, or ' if images else ''}files in {' or '.join(ARRAYS)}"
    endings = sorted({file.suffix or file.name for file in path.iterdir() if file.is_file()})
    got = f"files in {', '.join(endings[:_NAMED_ENDINGS])}" if endings else "none"
    raise DataError("nothing to read", where=path, expected=expected, got=got)


def _open_array(path: Path, spec: TensorSpec, field: str | None, names: Sequence[str]) -> Reader:
    _check_regular(path)
    match path.suffix:
        case ".npy":
            return NpyReader(path)
        case ".npz":
            return NpzReader(path, field, names)
        case _:
            # A flat list is given the spec's shape, which open sizes do not have.
            item = tuple(size for size in spec.item if isinstance(size, int))
            return ParquetReader(path, field, names, item if len(item) == len(spec.item) else ())


def _open_shards(
    path: Path, files: Sequence[Path], spec: TensorSpec, field: str | None, names: Sequence[str]
) -> Reader:
    """Open the shards of a folder. Those in .npy are named FIELD-NUMBER.npy, one set of files for each field."""
    kinds = sorted({file.suffix for file in files})
    if len(kinds) > 1:
        raise DataError("files of several types", where=path, expected="one kind", got=" ".join(kinds))
    if kinds == [NPY]:
        fields = list(dict.fromkeys(_field_of(file) for file in files))
        chosen = choose_field(fields, path, field, names)
        files = [file for file in files if _field_of(file) == chosen]
    return ConcatenatedReader([_open_array(file, spec, field, names) for file in files])


def _check_regular(path: Path) -> None:
    if not path.is_file():  # reading a device or a pipe might never end
        raise DataError("cannot be read", where=path, expected="a regular file")


def _field_of(file: Path) -> str:
    """Return `mean` for `mean-00003.npy`."""
    return file.stem.rpartition("-")[0]


def _first(rows: Array, wrong: Array) -> tuple[int, float]:
    """Return the index of the first row with a wrong number, and that number."""
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    return index[0], float(rows[index])
