"""Write large files and folders under a temporary name, and publish them by one rename."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vae_export.errors import OutputExistsError, UsageError
from vae_export.io.atomic import PARTIAL, storage_errors, sync_file, sync_folder, umask

#: Prefix of half-written files. Like staging folders, they are locked while their process lives.
_PARTIAL_FILE = f"{PARTIAL}file-"


@contextlib.contextmanager
def staged_file(final: Path, *, force: bool, parents: bool = True) -> Iterator[BinaryIO]:
    """Yield a temporary file beside `final`. On success it is renamed to `final`; on failure it is removed.

    Use this for content that is too large for memory. Each `OSError` in the block becomes a `StorageError` about
    `final`. Half-written files of killed processes in the same folder are removed.

    Args:
        final: the path of the finished file.
        force: whether to replace an existing file.
        parents: whether to create the folder of the file; without it, a missing folder is an error.

    Yields:
        The temporary file, open for writing bytes.

    Raises:
        OutputExistsError: `final` exists, and `force` was not given.
        StorageError: the disk is full, or the folder is not writable.
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
                os.replace(partial, final)  # renamed before it is closed: another process may remove an unlocked file
            sync_folder(final.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def staged_folder(final: Path, *, force: bool) -> Iterator[Path]:
    """Yield an empty temporary folder beside `final`. On success it is renamed to `final`; on failure it is removed.

    With `force`, an existing `final` is renamed first and removed last. If the process is killed between the two
    renames, the next call restores the old folder. Half-filled folders of killed processes beside `final` are removed.

    Args:
        final: the path of the finished folder.
        force: whether to replace an existing folder.

    Raises:
        OutputExistsError: `final` exists, and `force` was not given.
        StorageError: the disk is full, or the folder is not writable.
    """
    check_free(final, force=force)
    retired = _retired(final)
    new_parents = [parent for parent in final.parents if not parent.exists()]
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
        # The folder is renamed before it is removed, so that other processes cannot add files by its old name.
        discarded = staging.with_name(f"{staging.name}-discarded")
        with contextlib.suppress(OSError):  # the folder was published
            os.rename(staging, discarded)
        _remove(discarded)
        os.close(handle)
        if retired.exists() and not final.exists():
            os.rename(retired, final)
        for parent in new_parents:  # the deepest comes first; with `final` or other files inside they stay
            with contextlib.suppress(OSError):
                parent.rmdir()


def check_free(path: Path, *, force: bool) -> None:
    """Raise `OutputExistsError` if an output exists and `force` is false. Call this before long work."""
    retired = _retired(path)
    with storage_errors(path):
        if retired.exists() and not path.exists():
            os.rename(retired, path)
        if path.exists() and not force:
            raise OutputExistsError(path)


def check_file_free(path: Path, *, force: bool) -> None:
    """Raise `UsageError` if the path of a file is a folder, which is never replaced, else what `check_free` raises."""
    if path.is_dir():
        raise UsageError("output is a folder", where=path, expected="the name of a file", do="choose another --out")
    check_free(path, force=force)


def check_replaceable(folder: Path, ours: str, expected: str, do: str = "choose another --out") -> None:
    """Check, before `force` replaces a folder, that nothing in it could be someone else's.

    Args:
        folder: the folder. What does not exist may be made; of a link, the link alone is replaced.
        ours: a regular expression that the paths of our files, relative to the folder, match as a whole.
        expected: what the folder may hold, for the message.
        do: the next step, for the message.

    Raises:
        UsageError: it is a file, or holds another file.
        StorageError: it cannot be read.
    """
    if not folder.exists() or folder.is_symlink():
        return
    if not folder.is_dir():
        raise UsageError("not a folder, so --force will not replace it", where=folder, do=do)
    with storage_errors(folder):
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if (path.is_symlink() or not path.is_dir()) and not re.fullmatch(ours, name):
                what = "not a folder that may be replaced"
                raise UsageError(what, where=folder, expected=f"nothing but {expected}", got=name, do=do)


def sweep(folder: Path) -> None:
    """Remove the half-written files of killed processes in a folder. The caller must hold the folder's lock."""
    for stale in _partial(folder):
        if stale.is_dir() and not stale.is_symlink():
            _remove_unless_held(stale)  # an export writes into a run without its lock
        else:
            stale.unlink(missing_ok=True)


def _partial(folder: Path) -> Iterator[Path]:
    """Return the half-written files in a folder, without complete older outputs, which `check_free` restores."""
    return (path for path in folder.glob(f"{PARTIAL}*") if not path.name.startswith(f"{PARTIAL}old-"))


def _held_folder(parent: Path) -> tuple[Path, int]:
    """Create and lock a folder. No process removes it while the returned handle is open."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=parent))
        try:
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another process removed the folder before it was locked
            continue
        _hold(handle)
        if folder.exists():
            return folder, handle
        os.close(handle)


def _held_file(final: Path) -> tuple[Path, int]:
    """Create and lock a file beside `final`. No process removes it while the returned handle is open."""
    while True:
        handle, name = tempfile.mkstemp(prefix=_PARTIAL_FILE, suffix=final.suffix, dir=final.parent)
        _hold(handle)
        if os.path.exists(name):  # no other process removed the file before it was locked
            return Path(name), handle
        os.close(handle)


def _hold(handle: int) -> None:
    """Lock an open file or folder until it is closed, or its process dies."""
    import fcntl  # imported late: Windows lacks it

    with contextlib.suppress(OSError):  # a file system without locks, on which no stale file is removed either
        fcntl.flock(handle, fcntl.LOCK_EX)


def _remove_unless_held(stale: Path) -> None:
    """Remove a half-written folder or large file unless a live process has locked it."""
    import fcntl

    kind = 0 if stale.name.startswith(_PARTIAL_FILE) else os.O_DIRECTORY
    with contextlib.suppress(OSError):  # locked, of another kind, already removed, or on a file system without locks
        handle = os.open(stale, os.O_RDONLY | os.O_NOFOLLOW | kind)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(stale)
        finally:
            os.close(handle)


def _retired(path: Path) -> Path:
    """Return the path that keeps the old output until the new one has replaced it."""
    if path.name in ("", ".."):  # `.`, `/` and `..` cannot be moved aside
        raise UsageError("not a valid output name", where=path, do="choose another --out")
    return path.with_name(f"{PARTIAL}old-{path.name}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
