"""Lock a run folder for a training, remove or keep the files of an earlier one, and write checkpoints and metrics."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from train.resume import TrainingState, save_state
from vae_export.errors import OutputExistsError, UsageError
from vae_export.io.atomic import append_line, check_writable, locked, storage_errors, write_atomic, write_generation
from vae_export.io.staging import sweep
from vae_export.models.checkpoint import Checkpoint, checkpoint_bytes
from vae_export.runs import Run


def check_out(run: Run, *, force: bool) -> None:
    """Check, before any work, that a new training may use a run folder.

    Args:
        run: The run folder; it need not exist.
        force: Whether an earlier run in it may be replaced.

    Raises:
        StorageError: Another process is using the folder.
        OutputExistsError: It holds a run, and `force` is False.
        UsageError: It holds something else, or is not a folder.
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
    """Lock the run folder for a new training and clear it of an earlier one.

    The earlier checkpoint becomes the previous one, until the new training has two of its own. The earlier export is
    removed, since it must not lie beside a checkpoint that it was not made from, and so is the earlier state.

    Raises:
        StorageError: The folder is in use or cannot be written.
        OutputExistsError, UsageError: As for `check_out`.
    """
    check_out(run, force=force)
    with locked(run.folder):
        _sweep_stale_partials(run)
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
def resumed_run(run: Run) -> Iterator[None]:
    """Lock the folder of a run that is continued, and keep everything in it.

    Args:
        run: The run folder.

    Raises:
        UsageError: The folder does not exist.
        StorageError: Another process is using the folder.
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
        run: The run folder, held by `new_run` or `resumed_run`.
        enabled: False in all processes of a training but the first: then nothing is written.
    """

    def __init__(self, run: Run, *, enabled: bool) -> None:
        self._run, self._enabled = run, enabled

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint; the one before it becomes `Run.previous_checkpoint`."""
        if self._enabled:
            data = checkpoint_bytes(checkpoint)
            write_generation(self._run.checkpoint, data, previous=self._run.previous_checkpoint)

    def write_state(self, state: TrainingState) -> None:
        """Replace the training state; the one before it becomes `Run.previous_training_state`."""
        if self._enabled:
            save_state(state, self._run)

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
