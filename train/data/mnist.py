"""Import torchvision, whichever torch it was built for.

PyPI's torchvision is built for CUDA. Beside a CPU torch its compiled operators do not load, and the import dies on
registering the shapes of one of them: "operator torchvision::nms does not exist" (pytorch/vision#9085). Reading data
needs no compiled operator, so the two that the import asks for are declared, without a body, and it is tried again.

MNIST and the sets that come in its format: IDX files, read through torchvision after a check of their own.

torchvision checks what it downloads and trusts what is there: a file cut short by a killed process ends in a
traceback, a header that claims fewer images than there are passes unseen. So the header is compared with the bytes
first, and a download lands in a folder of its own until it is whole.

An IDX file is big-endian: two zero bytes, a type (8: uint8), the number of axes, the axes as uint32, the data.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import importlib
import math
import os
import struct
import sys
import tempfile
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from vae_export.cli.console import message
from vae_export.errors import DataError
from vae_export.io.atomic import PARTIAL, storage_errors, write_atomic

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@functools.cache
def torchvision_datasets() -> ModuleType:
    """The module `torchvision.datasets`."""
    try:
        return importlib.import_module("torchvision.datasets")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # half-imported; a second import would return them as they are
    for schema in _SCHEMAS:
        _declarations().define(schema)
    return importlib.import_module("torchvision.datasets")


@functools.cache
def _declarations() -> torch.library.Library:
    """Cached, since a schema is forgotten together with the library object that declared it."""
    return torch.library.Library("torchvision", "FRAGMENT")


#: Names of our data sets in `torchvision.datasets`; each also names the folder its files lie in.
CLASSES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}

#: No header may ask for more: a damaged one claims gigabytes, a hostile .gz delivers them.
_MAX_BYTES = 1 << 30
_UINT8 = 8


def read_idx(name: str, root: Path, *, download: bool) -> tuple[Tensor, Tensor]:
    """Training and test images of `name` (a key of `CLASSES`), each uint8 (N, 1, H, W).

    The files are `root`/<class>/raw/<split>-images-idx3-ubyte and -labels-idx1-ubyte, plain or with .gz. What is
    missing is downloaded, if allowed. Raises `DataError`.
    """
    raw = root / CLASSES[name] / "raw"
    if not all(_unpacked(file) for file in _files(raw)):
        _download(name, root, raw) if download else _missing(name, raw, "no such file, and --no-download")
    for images, labels in (("train-images-idx3-ubyte", "train-labels-idx1-ubyte"), _test_names()):
        counts = _checked_count(raw / images, axes=3), _checked_count(raw / labels, axes=1)
        if counts[0] != counts[1]:
            raise DataError(
                "images and labels differ in number",
                where=raw / images,
                expected=f"{counts[1]:,} images, as many as labels",
                got=f"{counts[0]:,}",
            )
    kind: Any = getattr(torchvision_datasets(), CLASSES[name])
    train, test = (kind(root, train=part).data.unsqueeze(1) for part in (True, False))
    if train.shape[1:] != test.shape[1:]:
        sizes = " and ".join(f"{tuple(part.shape[2:])}" for part in (train, test))
        raise DataError("training and test images differ in size", where=raw, got=sizes)
    return train, test


def _test_names() -> tuple[str, str]:
    return "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def _files(raw: Path) -> list[Path]:
    return [raw / name for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", *_test_names())]


def _unpacked(file: Path) -> bool:
    """Whether `file` is there, after unpacking its .gz if that is what is there."""
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
    """Fetch the whole set into a folder of its own, then move its files to where they belong."""
    message(f"downloading {CLASSES[name]} to {raw}")
    kind: Any = getattr(torchvision_datasets(), CLASSES[name])
    made = not root.exists()
    failure: Exception | None = None
    with storage_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=root) as staging:
            try:
                # Its progress is no result: stdout is for those.
                with contextlib.redirect_stdout(sys.stderr):
                    kind(staging, download=True)
            except (RuntimeError, ValueError, EOFError, zlib.error, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
                    raise  # about the disk, not the network: `storage_errors` knows what to say
                failure = error
            else:
                raw.mkdir(parents=True, exist_ok=True)
                for file in _files(Path(staging) / CLASSES[name] / "raw"):
                    os.replace(file, raw / file.name)
        if failure is not None and made:
            root.rmdir()
    if failure is not None:
        _missing(name, raw, f"not there, and the download failed ({_last_line(failure)})", failure)


def _missing(name: str, raw: Path, got: str, cause: Exception | None = None) -> None:
    raise DataError(
        f"no {CLASSES[name]} files",
        where=raw,
        expected=f"{_files(raw)[0]} and the three beside it",
        got=got,
        do="put them there, pass --data-dir, or train on data that needs no network: --dataset digits",
    ) from cause


def _last_line(error: Exception) -> str:
    """torchvision's message is a line a mirror; the last is the reason."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def _checked_count(file: Path, *, axes: int) -> int:
    """The number of items that `file` holds, its header being true to its bytes."""
    again = f"delete it and train again: {file.name} will be downloaded"
    try:
        size = file.stat().st_size
        with open(file, "rb") as stream:
            start = stream.read(4 + 4 * axes)
    except OSError as error:
        raise DataError("cannot be read", where=file, got=error.strerror) from error
    if len(start) < 4 + 4 * axes or start[:4] != bytes((0, 0, _UINT8, axes)):
        expected = f"an IDX file of uint8 with {axes} axes"
        raise DataError("not the file it should be", where=file, expected=expected, got=start[:4].hex(" "), do=again)
    shape: tuple[int, ...] = struct.unpack(f">{axes}I", start[4:])
    if not 0 < math.prod(shape) <= _MAX_BYTES:
        raise DataError("empty or too large", where=file, expected=f"1 to {_MAX_BYTES:,} bytes", got=shape, do=again)
    if size != (stated := len(start) + math.prod(shape)):
        raise DataError("damaged", where=file, expected=f"{stated:,} bytes, by its header", got=f"{size:,}", do=again)
    return shape[0]
