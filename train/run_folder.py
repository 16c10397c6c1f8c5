"""Lock a run folder for a training, remove or keep the files of an earlier one, and write checkpoints and metrics.

`data.json` says where the images lie, so that `evaluate` finds them again. No checkpoint holds that: checkpoints are
handed on, and paths of a machine stay in its run folder.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from train.config import DATA_FOLDER, DataOptions
from train.resume import TrainingState, save_state
from vae_export.errors import InputError, OutputExistsError, UsageError
from vae_export.io.atomic import (
    PARTIAL,
    append_line,
    check_writable,
    locked,
    storage_errors,
    sync_folder,
    write_atomic,
    write_generation,
)
from vae_export.io.staging import sweep
from vae_export.models.checkpoint import Checkpoint, checkpoint_bytes
from vae_export.runs import Run


def check_out(run: Run, *, force: bool) -> None:
    """Check, before any work, that a new training may use a run folder.

    Args:
        run: the run folder; it need not exist.
        force: whether an earlier run in it may be replaced.

    Raises:
        StorageError: another process is using the folder.
        OutputExistsError: it holds a run, and `force` is False.
        UsageError: it holds something else, or is not a folder.
    """
    if not os.path.lexists(run.folder):
        return
    if not run.folder.is_dir():
        raise UsageError("not a folder", where=run.folder, do="choose another --out")
    if (run.folder / ".lock").exists():
        with locked(run.folder):
            pass
    ours = run.checkpoint.exists() or run.previous_checkpoint.exists() or run.training_state.exists()
    leftovers = {".lock", run.state.name, run.metrics.name}  # of a training that ended before its first state
    if not ours and {entry.name for entry in run.folder.iterdir()} <= leftovers:
        return
    if not force:
        raise OutputExistsError(run.folder)
    if not ours:
        raise UsageError("not a run, so --force will not replace it", where=run.folder, do="choose another --out")


@contextmanager
def new_run(run: Run, *, force: bool) -> Iterator[None]:
    """Lock the run folder for a new training.

    An earlier run in it stays whole until the first checkpoint of the new training is on the disk; `RunWriter` then
    removes it. What remains of a run without a checkpoint is removed here.

    Raises:
        StorageError: the folder is in use or cannot be written.
        OutputExistsError, UsageError: as for `check_out`.
    """
    check_out(run, force=force)
    with locked(run.folder):
        _sweep_stale_partials(run)
        if not run.checkpoint.exists():
            _clear(run)
        yield


def _clear(run: Run) -> None:
    """Remove an earlier run but for its checkpoint, which becomes the previous one.

    The earlier export must not lie beside a checkpoint that it was not made from.
    """
    with storage_errors(run.folder):
        run.training_state.unlink(missing_ok=True)
        run.previous_training_state.unlink(missing_ok=True)
        for folder in (run.export, run.pictures, run.events):
            if folder.exists():
                shutil.rmtree(folder)
        for file in (run.evaluations, run.data):
            file.unlink(missing_ok=True)
        run.metrics.write_bytes(b"")
        if run.checkpoint.exists():
            os.replace(run.checkpoint, run.previous_checkpoint)


@contextmanager
def resumed_run(run: Run) -> Iterator[None]:
    """Lock the folder of a run that is continued, and keep everything in it.

    Args:
        run: the run folder.

    Raises:
        UsageError: the folder does not exist.
        StorageError: another process is using the folder.
    """
    if not run.folder.is_dir():
        raise UsageError("nothing to resume", where=run.folder, expected="a run", do="train without --resume")
    with locked(run.folder):
        _sweep_stale_partials(run)
        yield


def _sweep_stale_partials(run: Run) -> None:
    """Remove what a killed process left half written."""
    check_writable(run.folder)
    sweep(run.folder)
    with storage_errors(run.folder):
        run.state.mkdir(exist_ok=True)
        sweep(run.state)


class RunWriter:
    """Writes the files of a training to its run folder.

    Every write is atomic and on the disk when the method returns. All methods raise `StorageError`.

    Args:
        run: the run folder, held by `new_run` or `resumed_run`.
        enabled: False in all processes of a training but the first: then nothing is written.
        continues: True for a resumed training. Otherwise a checkpoint in the folder is that of an earlier run.
    """

    def __init__(self, run: Run, *, enabled: bool, continues: bool = False) -> None:
        self._run, self._enabled = run, enabled
        self._replaces = not continues and run.checkpoint.exists()

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint; the one before it becomes `Run.previous_checkpoint`.

        The first checkpoint of a training also replaces an earlier run in the folder, once it is on the disk.
        """
        if not self._enabled:
            return
        run, data = self._run, checkpoint_bytes(checkpoint)
        if not self._replaces:
            write_generation(run.checkpoint, data, previous=run.previous_checkpoint)
            return
        first = run.state / f"{PARTIAL}first-{run.checkpoint.name}"
        write_atomic(first, data)
        _clear(run)
        with storage_errors(run.checkpoint):
            os.replace(first, run.checkpoint)
            sync_folder(run.folder)
        self._replaces = False

    def write_state(self, state: TrainingState) -> None:
        """Replace the training state; the one before it becomes `Run.previous_training_state`.

        Before the first checkpoint of a training, the state of an earlier run in the folder is kept instead.
        """
        if self._enabled and not self._replaces:
            save_state(state, self._run)

    def write_data(self, options: DataOptions, sha256: str) -> None:
        """Record where the images lie."""
        if self._enabled:
            folder = options.folder or (None if options.name == "digits" else DATA_FOLDER)
            place = {"name": options.name, "folder": folder and os.path.abspath(folder), "sha256": sha256}
            write_atomic(self._run.data, json.dumps(place).encode())

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Append an epoch's line to `metrics.jsonl`."""
        if self._enabled:
            append_line(self._run.metrics, json.dumps(line))

    def truncate_metrics(self, epochs: int) -> None:
        """Drop the lines after the first `epochs`: a kill may have left one that the state does not know of."""
        if self._enabled and self._run.metrics.exists():
            lines = self._run.metrics.read_bytes().splitlines(keepends=True)
            if len(lines) > epochs:
                write_atomic(self._run.metrics, b"".join(lines[:epochs]))


def read_data_folder(run: Run, sha256: str) -> Path | None:
    """Return the folder that `RunWriter.write_data` recorded, or None if there is no record of these images.

    Args:
        run: the run.
        sha256: digest of the images of the run's checkpoint.

    Raises:
        InputError: the record cannot be read.
    """
    if not run.data.exists():
        return None
    try:
        place = json.loads(run.data.read_text("utf-8"))
        return Path(place["folder"]) if place["folder"] is not None and place["sha256"] == sha256 else None
    except (OSError, ValueError, LookupError, TypeError) as error:
        do = "delete it, and pass --data-dir"
        raise InputError("record of the images cannot be read", where=run.data, got=repr(error), do=do) from error
