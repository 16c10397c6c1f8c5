"""Who may write to a run folder, and what of an earlier training stays in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from vae_export.errors import OutputExistsError, UsageError
from vae_export.files import locked
from vae_export.runs import Run
from vae_export.staging import sweep
from vae_export.storage import check_writable, storage_errors


def check_out(run: Run, *, force: bool) -> None:
    """Refuse a folder that is in use, that holds a run (without `force`), or that holds anything else.

    Called before data is read, so that a refusal costs nothing. Raises `StorageError`, `OutputExistsError`,
    `UsageError`.
    """
    if not os.path.lexists(run.folder):
        return
    if not run.folder.is_dir():
        raise UsageError("not a folder", where=run.folder, do="choose another --out")
    if (run.folder / ".lock").exists():
        with locked(run.folder):
            pass
    ours = run.checkpoint.exists() or run.previous_checkpoint.exists() or run.training_state.exists()
    left = {".lock", run.state.name, run.metrics.name}  # by a training that ended before there was anything to keep
    if not ours and {entry.name for entry in run.folder.iterdir()} <= left:
        return
    if not force:
        raise OutputExistsError(run.folder)
    if not ours:
        raise UsageError("not a run, so --force will not replace it", where=run.folder, do="choose another --out")


@contextmanager
def claimed(run: Run, *, force: bool) -> Iterator[None]:
    """Hold the run folder, cleared of an earlier training.

    Its checkpoint stays as the previous one, until the new training has two of its own. Its export goes: it must
    not lie beside a checkpoint that it was not made from. Its state goes: nothing may go on from it any more.
    """
    check_out(run, force=force)
    with locked(run.folder):
        _tidy(run)
        with storage_errors(run.folder):
            run.training_state.unlink(missing_ok=True)
            run.previous_training_state.unlink(missing_ok=True)
            if run.checkpoint.exists():
                os.replace(run.checkpoint, run.previous_checkpoint)
            for folder in (run.export, run.pictures, run.events):
                if folder.exists():
                    shutil.rmtree(folder)
            run.evaluations.unlink(missing_ok=True)
            run.metrics.write_bytes(b"")
        yield


@contextmanager
def reclaimed(run: Run) -> Iterator[None]:
    """Hold the folder of a run that is to go on, with all that is in it."""
    if not run.folder.is_dir():
        raise UsageError("nothing to resume", where=run.folder, expected="a run", do="train without --resume")
    with locked(run.folder):
        _tidy(run)
        yield


def _tidy(run: Run) -> None:
    check_writable(run.folder)
    sweep(run.folder)
    with storage_errors(run.folder):
        run.state.mkdir(exist_ok=True)
        sweep(run.state)
