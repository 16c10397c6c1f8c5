"""Files that are whole or absent: atomic writes, folders published by one rename, hashes, the lock on a run.

Neither torch, safetensors nor onnx calls fsync; a plain write under `kill -9` leaves torn files. So nothing in this
project writes to a final name itself: it makes the bytes and hands them to `write_atomic`, or fills a folder inside
`staged_folder`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vae_export.errors import OutputExistsError, StorageError, UsageError

#: Half-written files and folders carry this in their name; `sweep` removes what a killed process left.
PARTIAL = ".partial-"
#: Those of them that are held while they live, as staging folders are.
_PARTIAL_FILE = f"{PARTIAL}file-"


def sha256(data: bytes | memoryview | Path) -> str:
    """SHA-256 of bytes or of a file, as 64 lower-case hexadecimal digits."""
    if not isinstance(data, Path):
        return hashlib.sha256(data).hexdigest()
    with open(data, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that every reader, at any instant, sees the old file or the new one, whole.

    The parent folder is made. Raises `StorageError` if the disk is full or the folder cannot be written.
    """
    with storage_errors(path, needed=len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=PARTIAL, suffix=path.suffix, dir=path.parent)
        try:
            with open(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(partial, 0o666 & ~_umask())  # mkstemp makes 0600; others may read results
            os.replace(partial, path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def write_generation(path: Path, data: bytes, *, previous: Path) -> None:
    """`write_atomic`, and what lay at `path` stays as `previous`: at no instant is there neither.

    Raises `StorageError`; then `path` is as it was.
    """
    if path.exists():
        link = previous.with_name(f"{PARTIAL}{previous.name}")
        with storage_errors(previous, needed=len(data)):
            link.unlink(missing_ok=True)
            try:
                os.link(path, link)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, link)
                _sync_file(link)
            os.replace(link, previous)
            link.unlink(missing_ok=True)  # a rename between two names of one file does nothing (POSIX)
            _sync_folder(previous.parent)
    write_atomic(path, data)


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file, durably and whole: on a full disk the file is as it was. Raises `StorageError`."""
    data = line.encode() + b"\n"
    with storage_errors(path, needed=len(data)), open(path, "ab", buffering=0) as file:
        length = file.tell()
        try:
            # One write: no torn line, wherever the process is stopped. A disk that is nearly full takes a part of it.
            if file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(length)
            raise


@contextlib.contextmanager
def staged_file(final: Path, *, force: bool) -> Iterator[BinaryIO]:
    """Yield a file to write beside `final`; on success it becomes `final` by one rename, on failure it is gone.

    For what is too large to be made in memory first. An `OSError` in the block is taken for one of this file. What
    killed processes left of such files beside it is removed.
    """
    check_free(final, force=force)
    with storage_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        for stale in final.parent.glob(f"{_PARTIAL_FILE}*"):
            _remove_unless_held(stale)
        partial, handle = _held_file(final)
        try:
            with open(handle, "wb") as file:
                yield file
                file.flush()
                os.fchmod(handle, 0o666 & ~_umask())
                os.fsync(handle)
                if final.exists() and not force:  # somebody else made it while we worked
                    raise OutputExistsError(final)
                os.replace(partial, final)  # before it is closed: a file that nobody holds may be swept
            _sync_folder(final.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def staged_folder(final: Path, *, force: bool) -> Iterator[Path]:
    """Yield an empty folder beside `final`; on success it becomes `final` by one rename, on failure it is gone.

    With `force`, an existing `final` is moved aside first and removed last: a process killed between the two renames
    leaves the old folder under its partial name, and the next call puts it back. What a killed process left half-filled
    beside `final` is removed.
    """
    check_free(final, force=force)
    retired = _retired(final)
    with storage_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        for stale in _partial(final.parent):
            _remove_unless_held(stale)
        staging, handle = _held_folder(final.parent)
    try:
        yield staging
        with storage_errors(final):
            os.chmod(staging, 0o777 & ~_umask())
            for file in staging.rglob("*"):
                _sync_folder(file) if file.is_dir() else _sync_file(file)
            if final.exists():
                if not force:  # somebody else made it while we worked
                    raise OutputExistsError(final)
                _remove(retired)
                os.rename(final, retired)
            os.rename(staging, final)
            _sync_folder(final.parent)
            _remove(retired)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(handle)
        if retired.exists() and not final.exists():
            os.rename(retired, final)


def check_free(path: Path, *, force: bool) -> None:
    """Refuse an output that exists. Called before any long work, so that a refusal costs nothing."""
    retired = _retired(path)
    with storage_errors(path):
        if retired.exists() and not path.exists():
            os.rename(retired, path)
        if path.exists() and not force:
            raise OutputExistsError(path)


def check_writable(folder: Path) -> None:
    """Raise `StorageError` unless a file can be made in `folder` (made if need be). Ask before long work."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def check_room(path: Path, needed: int) -> None:
    """Raise `StorageError` if there are not `needed` bytes free where `path` is to be. Ask before long work."""
    with storage_errors(path, needed=needed):
        if _free_bytes(path) < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written in `folder`. Call it with the folder's lock held."""
    for stale in _partial(folder):
        if stale.is_dir() and not stale.is_symlink():
            _remove_unless_held(stale)  # an export writes into a run without its lock
        else:
            stale.unlink(missing_ok=True)


def _partial(folder: Path) -> Iterator[Path]:
    """What is half-written in `folder`, less complete older outputs: `check_free` decides about those."""
    return (path for path in folder.glob(f"{PARTIAL}*") if not path.name.startswith(f"{PARTIAL}old-"))


def _held_folder(parent: Path) -> tuple[Path, int]:
    """A new folder, and the handle that holds it: while that is open, and its process lives, nobody sweeps it away."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=parent))
        try:
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # swept between its making and its lock, as below
            continue
        _hold(handle)
        if folder.exists():
            return folder, handle
        os.close(handle)


def _held_file(final: Path) -> tuple[Path, int]:
    """A new file beside `final`, and the handle that holds it in the same way."""
    while True:
        handle, name = tempfile.mkstemp(prefix=_PARTIAL_FILE, suffix=final.suffix, dir=final.parent)
        _hold(handle)
        if os.path.exists(name):  # not swept between its making and its lock
            return Path(name), handle
        os.close(handle)


def _hold(handle: int) -> None:
    """Lock an open file or folder until it is closed, or its process dies."""
    import fcntl  # not on Windows, where the runtime, which imports this file, works all the same

    with contextlib.suppress(OSError):  # a file system without locks, on which nothing is swept either
        fcntl.flock(handle, fcntl.LOCK_EX)


def _remove_unless_held(stale: Path) -> None:
    """Remove a half-filled folder, or a half-written large file, whose process is dead; leave one that is held."""
    import fcntl

    kind = 0 if stale.name.startswith(_PARTIAL_FILE) else os.O_DIRECTORY
    with contextlib.suppress(OSError):  # held, or of another kind, or gone meanwhile, or without locks
        handle = os.open(stale, os.O_RDONLY | os.O_NOFOLLOW | kind)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(stale)
        finally:
            os.close(handle)


def _retired(path: Path) -> Path:
    """Where an output that is being replaced waits until the new one is in place."""
    if path.name in ("", ".."):  # `.`, `/` and `..` cannot be moved aside
        raise UsageError("not a name for an output", where=path, do="choose another --out")
    return path.with_name(f"{PARTIAL}old-{path.name}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for one writer. The kernel frees the lock when the holder dies, so none is ever stale."""
    import fcntl  # not on Windows, where the runtime, which imports this file, works all the same

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


@contextlib.contextmanager
def storage_errors(path: Path, *, needed: int | None = None) -> Iterator[None]:
    """Turn the operating system's errors about `path` into one-line `StorageError`s."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            room = f"{_free_bytes(path):,} bytes free"
            need = "enough room" if needed is None else f"{needed:,} bytes"
            raise StorageError("disk full", where=path, expected=need, got=room, do="free some space") from error
        if error.errno == errno.ENAMETOOLONG:
            raise StorageError("path too long", where=f"{str(path)[:60]}…", do="choose a shorter --out") from error
        what = "not a folder" if error.errno in (errno.EEXIST, errno.ENOTDIR) else "cannot write"
        raise StorageError(what, where=path, got=error.strerror or error, do="choose another --out") from error


def _free_bytes(path: Path) -> int:
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
