"""What a training is a function of, and what changes its rounding alone: by these a resume knows it as the same.

Both are flat, so that a difference has a name and two values.

What resuming needs: a training between two steps, in `state/training.safetensors`.

The header of the sealed file (see `vae_export.io.hashed_safetensors`) holds

    format        "vae-export-state/1"
    arguments     of the command that began the training, so that --resume alone repeats them
    settings      what the weights are a function of; another value of any of them would be another training
    surroundings  what changes rounding alone: device, threads, versions
    changes       of surroundings, at resumes before this one
    position      steps done, over all epochs, and the seconds that those of the present epoch took
    epochs        scored and on record in metrics.jsonl
    saved         what is in checkpoint.safetensors; null before the first epoch ended

and its tensors are weights, their average, Adam's moments and the sum of the epoch's losses: `Trainer.tensors`. What is
drawn is a function of seed and step (`train.trainer`), and so no random state is in here.

Who may write to a run folder, and what of an earlier training stays in it.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from train.scoring import Score
from vae_export._version import __version__
from vae_export.errors import CheckpointError, DataError, OutputExistsError, UsageError
from vae_export.io.atomic import check_writable, locked, storage_errors, write_generation
from vae_export.io.hashed_safetensors import hashed_bytes, read_hashed
from vae_export.io.staging import sweep
from vae_export.models.config import RENAMED_FAMILIES, VAEConfig
from vae_export.runs import Run

Flat = dict[str, Any]


def settings(config: VAEConfig, data: Mapping[str, Any], training: Mapping[str, Any]) -> Flat:
    """All that the weights are a function of; `data` is `Dataset.to_json()`, `training` options by their names."""
    pixels = {"dataset": data["name"], **{key: data[key] for key in ("protocol", "images", "sha256")}}
    flat: Flat = json.loads(json.dumps(config.to_json() | pixels | dict(training)))  # as it will be read again
    return flat


def surroundings(device: torch.device, *, compiled: bool = False, processes: int = 1) -> Flat:
    """Sums are split among threads and processes, and versions and compilers differ in how they compute them: results
    agree within rounding."""
    found = {"device": device.type, "torch": torch.__version__, "python": platform.python_version()}
    found |= {"compiled": "yes" if compiled else "no", "processes": str(processes)}
    if device.type == "cpu":
        found["threads"] = str(torch.get_num_threads())
    return found | {"vae-export": __version__}


def check_same_training(before: Mapping[str, Any], now: Mapping[str, Any], *, where: object, epochs: int) -> None:
    """Refuse to go on with other settings, after so many epochs.

    The number of epochs may change where the learning rate does not depend on it: nothing that was done would have been
    done otherwise. Raises `UsageError` naming both values of each, `DataError` for other images.
    """
    other = {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}
    if "epochs" in other and now.get("learning_rate_schedule") != "one-cycle" and now["epochs"] >= epochs:
        other.remove("epochs")
    if not other:
        return
    if other <= {"sha256", "images"}:
        raise DataError(
            "not the images that the training began with",
            where=now["dataset"],
            expected=f"SHA-256 {before.get('sha256')}",
            got=now["sha256"],
        )
    other -= {"sha256", "images"}
    raise UsageError(
        "resume would be another training",
        where=where,
        expected=", ".join(f"{name} {_shown(before.get(name))}" for name in sorted(other)),
        got=", ".join(f"{name} {_shown(now.get(name))}" for name in sorted(other)),
        do="leave these options out, or train anew with another --out",
    )


def changed_surroundings(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What of the surroundings is another, a few words each."""
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            yield f"{name} {_shown(before.get(name))} → {_shown(now.get(name))}"


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


STATE_FORMAT = "vae-export-state/1"


@dataclass(frozen=True)
class SavedCheckpoint:
    """What is in the run's checkpoint.

    Attributes:
        epoch: epochs that were completed before it was written.
        steps: steps of the optimizer.
    """

    epoch: int
    steps: int
    validation: Score
    test: Score

    def to_json(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "steps": self.steps,
            "scores": {"validation": self.validation.to_json(), "test": self.test.to_json()},
        }


@dataclass(frozen=True)
class TrainingState:
    """See above; `settings` and `surroundings` are flat, so that two of them can be told apart by name."""

    arguments: Mapping[str, Any]
    settings: Mapping[str, Any]
    surroundings: Mapping[str, Any]
    changes: tuple[str, ...]
    position: int
    seconds: float
    epochs: int
    saved: SavedCheckpoint | None
    tensors: Mapping[str, Tensor]


def save_state(state: TrainingState, run: Run) -> None:
    """Write atomically; the state before it stays beside it. Raises `StorageError`; then nothing has changed."""
    header = {field.name: getattr(state, field.name) for field in fields(state) if field.name != "tensors"}
    header |= {"format": STATE_FORMAT, "saved": None if state.saved is None else asdict(state.saved)}
    write_generation(run.training_state, hashed_bytes(header, state.tensors), previous=run.previous_training_state)


def load_state(run: Run) -> TrainingState:
    """The state that a training of `run` can go on from.

    Raises:
        UsageError: there is none.
        CheckpointError, IntegrityError: it cannot be read, or was altered; the message says how to go on from the one
            before it.
    """
    path, previous = run.training_state, run.previous_training_state
    if not path.exists() and not previous.exists():
        expected = f"{path.name}, which a training leaves from its first epoch on"
        raise UsageError("nothing to resume", where=run.state, expected=expected, do="train without --resume")
    expected, do = "a state of python cli.py train", recovery_hint(run)
    header, tensors, _ = read_hashed(path, "training state", STATE_FORMAT, (torch.float32,), expected=expected, do=do)
    try:
        saved = header["saved"]
        if saved is not None:
            saved = SavedCheckpoint(saved["epoch"], saved["steps"], _score(saved["validation"]), _score(saved["test"]))
        return TrainingState(
            _with_present_names(header["arguments"]),
            _with_present_names(header["settings"]),
            header["surroundings"],
            tuple(header["changes"]),
            header["position"],
            header["seconds"],
            header["epochs"],
            saved,
            tensors,
        )
    except (LookupError, TypeError) as error:
        raise CheckpointError("training state is incomplete", where=path, got=repr(error), do=do) from error


def _with_present_names(values: Mapping[str, Any]) -> Flat:
    """Return `values` with a family, and the preset named after it, by their present names."""
    named = {name: values[name] for name in ("family", "preset") if values.get(name) is not None}
    return {**values, **{name: RENAMED_FAMILIES.get(value, value) for name, value in named.items()}}


def recovery_hint(run: Run) -> str | None:
    """How to go on from the state before the last one."""
    if not run.previous_training_state.exists():
        return None
    command = ["cp", str(run.previous_training_state), str(run.training_state)]
    return f"to go on from the one before it: {shlex.join(command)}"


def _score(values: Mapping[str, Any]) -> Score:
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return Score(**{**values, **lists})


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
def new_run(run: Run, *, force: bool) -> Iterator[None]:
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
def resumed_run(run: Run) -> Iterator[None]:
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
