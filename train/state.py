"""What resuming needs: a training between two steps, in `state/training.safetensors`.

The header of the sealed file (see `vae_export.sealed`) holds

    format        "vae-export-state/1"
    arguments     of the command that began the training, so that --resume alone repeats them
    settings      what the weights are a function of; another value of any of them would be another training
    surroundings  what changes rounding alone: device, threads, versions
    changes       of surroundings, at resumes before this one
    position      steps done, over all epochs, and the seconds that those of the present epoch took
    epochs        scored and on record in metrics.jsonl
    saved         what is in checkpoint.safetensors; null before the first epoch ended

and its tensors are weights, their average, Adam's moments and the sum of the epoch's losses: `Trainer.tensors`. What is
drawn is a function of seed and step (`train.draws`), and so no random state is in here.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from train.evaluate import Score
from vae_export.errors import CheckpointError, UsageError
from vae_export.files import write_generation
from vae_export.runs import Run
from vae_export.sealed import read_sealed, seal

FORMAT = "vae-export-state/1"


@dataclass(frozen=True)
class Saved:
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
class State:
    """See above; `settings` and `surroundings` are flat, so that two of them can be told apart by name."""

    arguments: Mapping[str, Any]
    settings: Mapping[str, Any]
    surroundings: Mapping[str, Any]
    changes: tuple[str, ...]
    position: int
    seconds: float
    epochs: int
    saved: Saved | None
    tensors: Mapping[str, Tensor]


def save_state(state: State, run: Run) -> None:
    """Write atomically; the state before it stays beside it. Raises `StorageError`; then nothing has changed."""
    header = {field.name: getattr(state, field.name) for field in fields(state) if field.name != "tensors"}
    header |= {"format": FORMAT, "saved": None if state.saved is None else asdict(state.saved)}
    write_generation(run.training_state, seal(header, state.tensors), previous=run.previous_training_state)


def load_state(run: Run) -> State:
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
    expected, do = "a state of python cli.py train", way_back(run)
    header, tensors, _ = read_sealed(path, "training state", FORMAT, (torch.float32,), expected=expected, do=do)
    try:
        saved = header["saved"]
        if saved is not None:
            saved = Saved(saved["epoch"], saved["steps"], _score(saved["validation"]), _score(saved["test"]))
        return State(
            header["arguments"],
            header["settings"],
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


def way_back(run: Run) -> str | None:
    """How to go on from the state before the last one."""
    if not run.previous_training_state.exists():
        return None
    command = ["cp", str(run.previous_training_state), str(run.training_state)]
    return f"to go on from the one before it: {shlex.join(command)}"


def _score(values: Mapping[str, Any]) -> Score:
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return Score(**{**values, **lists})
