"""MNIST and the data sets that come in its format, read and downloaded by torchvision.

torchvision's readers trust the files that they find, and unpack a `.gz` in place: a truncated or foreign file ends in
whatever exception the parser meets, and may stay half unpacked. So every file is unpacked and downloaded to the side
first, and every failure becomes one `DataError` that names the file.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib
import os
import re
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from train.config import DATA_FOLDER
from vae_export.errors import DataError
from vae_export.io.atomic import PARTIAL, storage_errors, write_atomic
from vae_export.io.image_files import holds_images
from vae_export.system.torchvision_operators import import_torchvision

#: The class in `torchvision.datasets` of each data set; it also names the folder that its files lie in.
CLASSES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
_FILES = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
#: Larger files are refused before they are read: a hostile `.gz` unpacks to any size.
_MAX_BYTES = 1 << 30


def read_mnist(
    name: str, root: Path, *, download: bool, report: Callable[[str], None] = lambda _: None
) -> tuple[Tensor, Tensor]:
    """Read the training and the test images of a data set.

    Args:
        name: a key of `CLASSES`.
        root: the folder above `<class>/raw/`, where the four files of the data set lie, plain or as `.gz`.
        download: whether to download what is missing.
        report: called with one line before a download.

    Returns:
        Training and test images, each uint8 (N, 1, H, W).

    Raises:
        DataError: a file is missing, cannot be read or is damaged; the download failed, or would go to a folder that
            was hardly meant.
    """
    raw = root / CLASSES[name] / "raw"
    if not all(_unpack(raw / file) for file in _FILES):
        _refuse_misplaced(name, root, raw)
        if not download:
            raise _missing(name, raw, "no such file, and --no-download")
        report(f"no {CLASSES[name]} in {raw}: downloading it there")
        _download(name, root, raw)
    train, test = _read_split(raw, "train"), _read_split(raw, "t10k")
    if train.shape[1:] != test.shape[1:]:
        sizes = " and ".join(f"{tuple(images.shape[2:])}" for images in (train, test))
        raise DataError("training and test images differ in size", where=raw, got=sizes)
    return train, test


def _refuse_misplaced(name: str, root: Path, raw: Path) -> None:
    """Raise `DataError` where another folder was meant: the files are near it, or it has pictures, or is a file."""
    if not root.exists():
        return
    if not root.is_dir():
        raise DataError("not a folder", where=root, do="say where the files are: --data-dir FOLDER")
    what = f"no {CLASSES[name]} files"
    for near in (root / "raw", root):
        if any((near / f"{_FILES[0]}{packed}").exists() for packed in ("", ".gz")):
            outer = near.absolute().parents
            is_named = (near.absolute().name, outer[0].name) == ("raw", CLASSES[name])
            do = f"pass --data-dir {outer[1]}" if is_named else f"move the four files to {raw}"
            raise DataError(what, where=raw, got=f"{_FILES[0]} in {near}", do=do)
    if holds_images(root, within=root != DATA_FOLDER):  # pictures may lie beside data sets there
        do = "for your own pictures pass --dataset folder"
        raise DataError(what, where=raw, got=f"pictures in {root}", do=do)


def _read_split(raw: Path, split: str) -> Tensor:
    readers = torchvision_datasets().mnist
    file = raw / f"{split}-images-idx3-ubyte"
    images = _read_file(readers.read_image_file, file)
    labels = _read_file(readers.read_label_file, raw / f"{split}-labels-idx1-ubyte")
    if len(images) != len(labels):
        expected, got = f"{len(labels):,} images, as many as labels", f"{len(images):,}"
        raise DataError("images and labels differ in number", where=file, expected=expected, got=got)
    return images.unsqueeze(1)


def _read_file(read: Callable[[Path], Tensor], file: Path) -> Tensor:
    again = f"delete it and train again: {file.name} will be downloaded"
    try:
        if (size := file.stat().st_size) > _MAX_BYTES:
            raise DataError("too large", where=file, expected=f"up to {_MAX_BYTES:,} bytes", got=f"{size:,}", do=again)
        return read(file)
    except OSError as error:
        raise DataError("cannot be read", where=file, got=error.strerror) from error
    except (AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        expected, got = "uint8 numbers, as many as its header states", f"{size:,} bytes ({error!r})"
        raise DataError("not an intact IDX file", where=file, expected=expected, got=got, do=again) from error


def _unpack(file: Path) -> bool:
    """Return whether `file` exists, after unpacking its `.gz` if only that exists."""
    packed = file.with_name(f"{file.name}.gz")
    if not file.exists() and packed.exists():
        try:
            with gzip.open(packed) as stream:
                data = stream.read(_MAX_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError("cannot be unpacked", where=packed, got=error, do="delete it and train again") from error
        if len(data) > _MAX_BYTES:
            raise DataError("too large", where=packed, expected=f"up to {_MAX_BYTES:,} bytes", got="more, unpacked")
        write_atomic(file, data)
    return file.exists()


def _download(name: str, root: Path, raw: Path) -> None:
    """Download all files of a data set to a temporary folder, then move them into place."""
    made = not root.exists()
    with storage_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=root) as staging:
                with contextlib.redirect_stdout(sys.stderr):  # torchvision prints, and stdout is for results
                    downloaded = getattr(torchvision_datasets(), CLASSES[name])(staging, download=True)
                raw.mkdir(parents=True, exist_ok=True)
                for file in _FILES:
                    os.replace(Path(downloaded.raw_folder, file), raw / file)
        except (RuntimeError, ValueError, EOFError, zlib.error, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
                raise  # the disk failed, not the network
            if made:
                root.rmdir()
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]  # torchvision: a line a mirror
            reason = re.sub(r".*<urlopen error (?:\[Errno -?\d+\] )?(.*)>.*", r"\1", reason)
            raise _missing(name, raw, f"none, and the download failed: {reason}") from error


def _missing(name: str, raw: Path, got: str) -> DataError:
    expected = f"{raw / _FILES[0]} and the three beside it"
    do = "put them there, pass --data-dir, or train on data that needs no network: --dataset digits"
    return DataError(f"no {CLASSES[name]} files", where=raw, expected=expected, got=got, do=do)


def torchvision_datasets() -> Any:
    """Import the module `torchvision.datasets`, whichever torch torchvision was built for."""
    import_torchvision()
    return importlib.import_module("torchvision.datasets")
