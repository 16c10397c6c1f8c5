"""A path that somebody typed → the source that reads it."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from vae_export.contract import TensorSpec
from vae_export.errors import DataError
from vae_export.pipeline.readers.arrays import NpyReader, NpzReader, choose_field
from vae_export.pipeline.readers.base import Chain, Reader
from vae_export.pipeline.readers.images import ImageReader
from vae_export.pipeline.readers.parquet import ParquetReader
from vae_export.pipeline.readers.validate import ValidatedReader
from vae_export.system.extras import require

NPY, NPZ, PARQUET = ".npy", ".npz", ".parquet"
ARRAYS = (NPY, NPZ, PARQUET)

#: What an array or a column is called that holds latents: an encoder's mean is the best guess of a latent.
LATENT_NAMES = ("latent", "mean")
IMAGE_NAMES = ("image", "reconstruction")


def open_latents(path: Path, spec: TensorSpec, *, field: str | None = None) -> ValidatedReader:
    """Latents in an .npy, .npz or .parquet file, or in a folder of .npy or .parquet files.

    Args:
        path: of the file or folder.
        spec: of the decoder's input.
        field: which array of an .npz, which column of a .parquet, or which .npy files of a folder; None guesses.

    Raises `DataError`; `MissingExtraError` where what reads the file is not installed.
    """
    return ValidatedReader(_open(path, spec, field, LATENT_NAMES, images=False, fit=False), spec)


def open_images(path: Path, spec: TensorSpec, *, field: str | None = None, fit: bool = False) -> ValidatedReader:
    """Images in arrays, as `open_latents` takes them; else an image file, or a folder of them.

    Args:
        path, field: as for latents.
        spec: of the encoder's input.
        fit: cut, resize and make grey what is of another size or colour; else refuse it.

    Raises as `open_latents` does.
    """
    return ValidatedReader(_open(path, spec, field, IMAGE_NAMES, images=True, fit=fit), spec)


def _open(path: Path, spec: TensorSpec, field: str | None, names: Sequence[str], *, images: bool, fit: bool) -> Reader:
    if not path.exists():
        raise DataError("cannot be read", where=path, got=os.strerror(errno.ENOENT))
    if not path.is_dir():
        if path.suffix in ARRAYS:
            return _array(path, spec, field, names)
        if images:
            _check_plain(path)
            return ImageReader([path], spec.item, fit=fit)
        raise DataError("no file of this kind is read", where=path, expected=" | ".join(ARRAYS), got=path.suffix)
    files = sorted(file for file in path.iterdir() if file.suffix in ARRAYS and not file.name.startswith("."))
    if files:
        return _folder(path, files, spec, field, names)
    if images:
        require("pictures")
        from vae_export.io.image_files import find_images

        if found := find_images(path):
            return ImageReader(found, spec.item, fit=fit)
    expected = f"{'images, or ' if images else ''}files in {' or '.join(ARRAYS)}"
    raise DataError("nothing to read", where=path, expected=expected, got="none")


def _array(path: Path, spec: TensorSpec, field: str | None, names: Sequence[str]) -> Reader:
    _check_plain(path)
    match path.suffix:
        case ".npy":
            return NpyReader(path)
        case ".npz":
            return NpzReader(path, field, names)
        case _:
            return ParquetReader(path, field, names, spec.item)


def _folder(path: Path, files: Sequence[Path], spec: TensorSpec, field: str | None, names: Sequence[str]) -> Reader:
    """Shards of one kind. Those in .npy are named FIELD-NUMBER.npy, one set of files a field."""
    kinds = sorted({file.suffix for file in files})
    if len(kinds) > 1:
        raise DataError("files of several kinds", where=path, expected="one kind", got=" ".join(kinds))
    if kinds == [NPY]:
        fields = list(dict.fromkeys(_field(file) for file in files))
        chosen = choose_field(fields, path, field, names)
        files = [file for file in files if _field(file) == chosen]
    return Chain([_array(file, spec, field, names) for file in files])


def _check_plain(path: Path) -> None:
    if not path.is_file():  # a device or a pipe would never end
        raise DataError("cannot be read", where=path, expected="a plain file")


def _field(file: Path) -> str:
    """`mean` of `mean-00003.npy`."""
    return file.stem.rpartition("-")[0]
