"""Images on the disk that take part in a training as if they were in memory, for folders that do not fit.

Pixels are written once, decoded, to a temporary file that has no name and vanishes with the process. It is mapped:
torch reads it as a tensor, and the system keeps in memory what there is room for.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from vae_export.errors import StorageError
from vae_export.io.atomic import storage_errors

#: Images that are copied at a time when their order changes.
_CHUNK = 256


def scratch_folder() -> Path:
    """Return the folder of large temporary files: TMPDIR, or /var/tmp, since /tmp is in memory on many systems."""
    usual = Path("/var/tmp")  # noqa: S108
    return Path(tempfile.gettempdir()) if os.environ.get("TMPDIR") or not usual.is_dir() else usual


class PixelFile:
    """A temporary file of uint8 images, appended one after the other.

    Args:
        needed: the number of bytes that will be written.

    Raises:
        StorageError: the disk has no room for them.
    """

    def __init__(self, needed: int) -> None:
        self._folder, self._needed = scratch_folder(), needed
        if (free := shutil.disk_usage(self._folder).free) < needed:
            got, do = f"{free:,} bytes free", "set TMPDIR to a folder with more room, or choose a smaller --image-size"
            raise StorageError("no room for pixels", where=self._folder, expected=f"{needed:,} bytes", got=got, do=do)
        with storage_errors(self._folder):
            self._file = tempfile.TemporaryFile(dir=self._folder)  # open until it is mapped

    def append(self, pixels: Tensor) -> None:
        """Write images, uint8 and contiguous. Raises `StorageError`."""
        with storage_errors(self._folder, needed=self._needed):
            self._file.write(pixels.numpy().data)

    def mapped(self, *shape: int) -> Tensor:
        """Return all that was written as a tensor, uint8 (N, *shape). The file is closed, its pixels stay."""
        with self._file, storage_errors(self._folder, needed=self._needed):
            self._file.flush()
            return torch.frombuffer(mmap.mmap(self._file.fileno(), 0), dtype=torch.uint8).view(-1, *shape)


def reordered(pixels: Tensor, order: Tensor) -> Tensor:
    """Copy images on the disk to another file in a given order, as `pixels[order]` does in memory.

    Args:
        pixels: uint8 (N, C, H, W), of which no more than a few images are read at a time.
        order: indices of images, int64 (M,).

    Returns:
        uint8 (M, C, H, W), mapped.

    Raises:
        StorageError: the disk has no room for them.
    """
    if not len(order):
        return pixels[:0].clone()
    file = PixelFile(len(order) * pixels[0].numel())
    for indices in order.split(_CHUNK):
        file.append(pixels[indices].contiguous())
    return file.mapped(*pixels.shape[1:])
