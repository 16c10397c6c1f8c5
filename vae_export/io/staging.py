"""Write large files and folders under another name, and publish them by one rename."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vae_export.errors import OutputExistsError, UsageError
from vae_export.io.atomic import PARTIAL, storage_errors, sync_file, sync_folder, umask

#: Prefix of half-written files that are locked while their process lives, as staging folders are.
_PARTIAL_FILE = f"{PARTIAL}file-"


@contextlib.contextmanager
def staged_file(final: Path, *, force: bool, parents: bool = True) -> Iterator[BinaryIO]:
    """Yield a file to write beside `final`; on success it becomes `final` by one rename, on failure it is gone.

    Use it for content that is too large for memory. An `OSError` in the block counts as one of this file. Half-written
    files that killed processes left beside it are removed.

    Args:
        final: the path of the finished file.
        force: replace an existing file.
        parents: make the folder of the file. Without it, a folder that was removed meanwhile stops the writer.

    Raises:
        OutputExistsError: `final` exists, and `force` was not given.
        StorageError: the disk is full, or the folder cannot be written.
    """
    check_free(final, force=force)
    with storage_errors(final):
        if parents:
            final.parent.mkdir(parents=True, exist_ok=True)
        for stale in final.parent.glob(f"{_PARTIAL_FILE}*"):
            _remove_unless_held(stale)
        partial, handle = _held_file(final)
        try:
            with open(handle, "wb") as file:
                yield file
                file.flush()
                os.fchmod(handle, 0o666 & ~umask())
                os.fsync(handle)
                if final.exists() and not force:  # another process made it meanwhile
                    raise OutputExistsError(final)
                os.replace(partial, final)  # before it is closed: a file that nobody holds may be swept
            sync_folder(final.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def staged_folder(final: Path, *, force: bool) -> Iterator[Path]:
    """Yield an empty folder beside `final`; on success it becomes `final` by one rename, on failure it is gone.

    With `force`, an existing `final` is moved aside first and removed last: a process killed between the two renames
    leaves the old folder under its partial name, and the next call puts it back. Half-filled
    folders that killed processes left beside `final` are removed.

    Raises:
        OutputExistsError: `final` exists, and `force` was not given.
        StorageError: the disk is full, or the folder cannot be written.
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
            os.chmod(staging, 0o777 & ~umask())
            for file in staging.rglob("*"):
                sync_folder(file) if file.is_dir() else sync_file(file)
            if final.exists():
                if not force:  # another process made it meanwhile
                    raise OutputExistsError(final)
                _remove(retired)
                os.rename(final, retired)
            os.rename(staging, final)
            sync_folder(final.parent)
            _remove(retired)
    finally:
        # Processes elsewhere may still write into it by its name, so it loses that first: nothing new comes then.
        discarded = staging.with_name(f"{staging.name}-discarded")
        with contextlib.suppress(OSError):  # it was published
            os.rename(staging, discarded)
        _remove(discarded)
        os.close(handle)
        if retired.exists() and not final.exists():
            os.rename(retired, final)


def check_free(path: Path, *, force: bool) -> None:
    """Raise `OutputExistsError` for an output that exists, unless `force`. Call before long work."""
    retired = _retired(path)
    with storage_errors(path):
        if retired.exists() and not path.exists():
            os.rename(retired, path)
        if path.exists() and not force:
            raise OutputExistsError(path)


def sweep(folder: Path) -> None:
    """Remove the half-written files that killed processes left in `folder`. Call it with the folder's lock held."""
    for stale in _partial(folder):
        if stale.is_dir() and not stale.is_symlink():
            _remove_unless_held(stale)  # an export writes into a run without its lock
        else:
            stale.unlink(missing_ok=True)


def _partial(folder: Path) -> Iterator[Path]:
    """Return half-written files in `folder`, without complete older outputs, about which `check_free` decides."""
    return (path for path in folder.glob(f"{PARTIAL}*") if not path.name.startswith(f"{PARTIAL}old-"))


def _held_folder(parent: Path) -> tuple[Path, int]:
    """Make a folder and lock it: nobody sweeps it away while the returned handle is open and its process lives."""
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
    """Make a file beside `final` and lock it in the same way."""
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
    """Return the path at which an output that is being replaced is kept until the new one is in place."""
    if path.name in ("", ".."):  # `.`, `/` and `..` cannot be moved aside
        raise UsageError("not a name for an output", where=path, do="choose another --out")
    return path.with_name(f"{PARTIAL}old-{path.name}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
