"""What disks do to us: one-line errors for the operating system's, questions asked before long work, and syncing."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vae_export.errors import StorageError

#: Half-written files and folders carry this in their name; `staging.sweep` removes what a killed process left.
PARTIAL = ".partial-"


@contextlib.contextmanager
def storage_errors(path: Path, *, needed: int | None = None) -> Iterator[None]:
    """Turn the operating system's errors about `path` into one-line `StorageError`s."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            room = f"{free_bytes(path):,} bytes free"
            need = "enough room" if needed is None else f"{needed:,} bytes"
            raise StorageError("disk full", where=path, expected=need, got=room, do="free some space") from error
        if error.errno == errno.ENAMETOOLONG:
            raise StorageError("path too long", where=f"{str(path)[:60]}…", do="choose a shorter --out") from error
        what = "not a folder" if error.errno in (errno.EEXIST, errno.ENOTDIR) else "cannot write"
        raise StorageError(what, where=path, got=error.strerror or error, do="choose another --out") from error


def check_writable(folder: Path) -> None:
    """Raise `StorageError` unless a file can be made in `folder` (made if need be). Ask before long work."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def check_room(path: Path, needed: int) -> None:
    """Raise `StorageError` if there are not `needed` bytes free where `path` is to be. Ask before long work."""
    with storage_errors(path, needed=needed):
        if free_bytes(path) < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def free_bytes(path: Path) -> int:
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free


def sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
