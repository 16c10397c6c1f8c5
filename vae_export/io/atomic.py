"""Write files atomically, compute hashes, lock a run folder, and check the disk before long work.

torch, safetensors and onnx do not call fsync, and a plain write that `kill -9` stops leaves a torn file. Therefore all
modules of this project write with `write_atomic`, or to a file or folder of `vae_export.io.staging`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from vae_export.errors import StorageError

#: The prefix of half-written files and folders. `staging.sweep` removes those of killed processes.
PARTIAL = ".partial-"
#: Two threads that read the umask at the same time would leave it at 0.
_READING_UMASK = threading.Lock()


@contextlib.contextmanager
def storage_errors(path: Path, *, needed: int | None = None) -> Iterator[None]:
    """Convert each `OSError` of the block to a `StorageError` with a message of one line.

    Args:
        path: the file or folder, for messages.
        needed: number of bytes to write, for messages; None if it is not known.

    Raises:
        StorageError: the disk is full, the path is too long, or the folder is not writable.
    """
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
    """Raise `StorageError` unless a file can be written in a folder, or the folder made. Call this before long work."""
    with storage_errors(folder), tempfile.TemporaryFile(dir=_existing(folder)):
        pass


def check_room(path: Path, needed: int) -> None:
    """Raise `StorageError` unless the disk of `path` has `needed` free bytes. Call this before long work."""
    with storage_errors(path, needed=needed):
        if free_bytes(path) < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def free_bytes(path: Path) -> int:
    """Return the free bytes of the disk that has `path`, or its nearest parent that exists."""
    return shutil.disk_usage(_existing(path)).free


def _existing(path: Path) -> Path:
    """Return a path, or its nearest parent that exists."""
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())


def sync_file(path: Path) -> None:
    """Write a file from the operating system's cache to the disk (fsync)."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Write the entries of a folder to the disk (fsync), so that a rename in it survives a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def umask() -> int:
    """Return the process's umask. It is set and restored, because the system has no call that only reads it."""
    with _READING_UMASK:
        mask = os.umask(0)
        os.umask(mask)
    return mask


def sha256(data: bytes | memoryview | Path) -> str:
    """Return the SHA-256 of bytes or of a file, as 64 lower-case hexadecimal digits."""
    if not isinstance(data, Path):
        return hashlib.sha256(data).hexdigest()
    with open(data, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader always sees either the whole old file or the whole new one.

    Args:
        path: the file; its folder is created.
        data: the new content.

    Raises:
        StorageError: the disk is full, or the folder is not writable.
    """
    with storage_errors(path, needed=len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=PARTIAL, suffix=path.suffix, dir=path.parent)
        try:
            with open(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(partial, 0o666 & ~umask())  # mkstemp makes 0600; others may read results
            os.replace(partial, path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_generation(path: Path, data: bytes, *, previous: Path) -> None:
    """Write a file with `write_atomic`, and keep its previous content at `previous`. One of the two always exists.

    Args:
        path: the file.
        data: the new content.
        previous: the path for the previous content, in a folder that exists.

    Raises:
        StorageError: the disk is full, or the folder is not writable; `path` is unchanged.
    """
    if path.exists():
        link = previous.with_name(f"{PARTIAL}{previous.name}")
        with storage_errors(previous, needed=len(data)):
            link.unlink(missing_ok=True)
            try:
                os.link(path, link)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, link)
                sync_file(link)
            os.replace(link, previous)
            link.unlink(missing_ok=True)  # a rename between two names of one file does nothing (POSIX)
            sync_folder(previous.parent)
    write_atomic(path, data)


def append_line(path: Path, line: str) -> None:
    """Append one line to a text file and sync it; raise `StorageError` and leave the file unchanged on a full disk.

    Args:
        path: the file.
        line: the line, without a line break.
    """
    data = line.encode() + b"\n"
    with storage_errors(path, needed=len(data)), open(path, "ab", buffering=0) as file:
        length = file.tell()
        try:
            # One write call, so that a killed process leaves no torn line. A nearly full disk may accept only a part.
            if file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(length)
            raise


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder for one writer within the block. The kernel frees the lock when the process ends.

    Args:
        folder: the folder, which is created.

    Raises:
        StorageError: another process holds the lock.
    """
    import fcntl  # imported late: Windows lacks it, and the runtime imports this module there

    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise StorageError(
                "run is in use",
                where=folder,
                got=f"a lock held by process {holder}",
                do="wait for it or choose another --out",
            ) from None
        with storage_errors(folder):
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        yield
