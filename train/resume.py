"""Continue a training: read and write its state, and check that its options and images are unchanged.

`state/training.safetensors` holds a training between two steps. The header of the file (see
`vae_export.io.hashed_safetensors`) has the keys

    format        "vae-export-state/1"
    arguments     the arguments of the command that began the training, which --resume repeats
    settings      the options that determine the weights; none of them may change
    surroundings  device, threads and versions, which change rounding only
    changes       the changes of the surroundings at earlier resumes
    position      the number of steps done, over all epochs
    seconds       the time that the steps of the current epoch took
    epochs        the number of epochs that metrics.jsonl records
    saved         the content of checkpoint.safetensors; null before the end of the first epoch

and its tensors are the weights, their average, Adam's moments and the sum of the epoch's losses
(`Trainer.state_tensors`). Random numbers are a function of seed and step (`train.trainer`), so no random state is kept.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from train.recipes import Recipe
from train.scoring import Score
from vae_export.errors import CheckpointError, DataError, UsageError
from vae_export.io.atomic import write_generation
from vae_export.io.hashed_safetensors import hashed_bytes, read_hashed
from vae_export.models.config import RENAMED_FAMILIES
from vae_export.runs import Run

STATE_FORMAT = "vae-export-state/1"


@dataclass(frozen=True)
class SavedCheckpoint:
    """The contents of the run's checkpoint.

    Attributes:
        epoch: how many epochs were completed before it was written.
        steps: how many steps of the optimizer were done.
        validation: score of the validation images, by which it was chosen.
        test: score of the test images.
    """

    epoch: int
    steps: int
    validation: Score
    test: Score

    def to_json(self) -> dict[str, Any]:
        """Return the entry of a training state's header."""
        return {
            "epoch": self.epoch,
            "steps": self.steps,
            "scores": {"validation": self.validation.to_json(), "test": self.test.to_json()},
        }


@dataclass(frozen=True)
class TrainingState:
    """A training between two steps; the module's docstring describes each field.

    `environment` is the header's `surroundings`, `steps_done` its `position`.
    """

    arguments: Mapping[str, Any]
    settings: Mapping[str, Any]
    environment: Mapping[str, str]
    changes: tuple[str, ...]
    steps_done: int
    seconds: float
    epochs: int
    saved: SavedCheckpoint | None
    tensors: Mapping[str, Tensor]


def save_state(state: TrainingState, run: Run) -> None:
    """Write the state atomically and keep the one before it. Raises `StorageError`; then nothing has changed."""
    header = {
        "arguments": state.arguments,
        "settings": state.settings,
        "surroundings": state.environment,
        "changes": state.changes,
        "position": state.steps_done,
        "seconds": state.seconds,
        "epochs": state.epochs,
        "saved": None if state.saved is None else asdict(state.saved),
        "format": STATE_FORMAT,
    }
    write_generation(run.training_state, hashed_bytes(header, state.tensors), previous=run.previous_training_state)


def load_state(run: Run) -> TrainingState:
    """Read the state that a training can be continued from.

    Raises:
        UsageError: there is none.
        CheckpointError: it cannot be read. The message says how to continue from the state before it.
        IntegrityError: it was altered; the message says the same.
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


def _with_present_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with a family, and the preset named after it, by their present names."""
    named = {name: values[name] for name in ("family", "preset") if values.get(name) is not None}
    return {**values, **{name: RENAMED_FAMILIES.get(value, value) for name, value in named.items()}}


def recovery_hint(run: Run) -> str | None:
    """Return the command that puts the state before the last one in place, or None if there is none."""
    if not run.previous_training_state.exists():
        return None
    command = ["cp", str(run.previous_training_state), str(run.training_state)]
    return f"to resume from the state before it: {shlex.join(command)}"


def _score(values: Mapping[str, Any]) -> Score:
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return Score(**{**values, **lists})


def continued_recipe(recipe: Recipe, state: TrainingState) -> Recipe:
    """Return the recipe that a training continues with.

    Args:
        recipe: the recipe of the options.
        state: the state to continue from. If it was to have another number of epochs, a new cycle of the learning rate
            begins at its step; otherwise its cycle goes on.
    """
    if recipe.schedule != "one-cycle":
        return recipe
    is_new = recipe.epochs != state.settings.get("epochs")
    return replace(recipe, cycle_start=state.steps_done if is_new else state.settings.get("cycle_start", 0))


def check_same_training(before: Mapping[str, Any], now: Mapping[str, Any], *, where: object, epochs: int) -> None:
    """Refuse to continue a training with settings that would have made it another one.

    The number of epochs may change, and the learning rate of the steps to come with it (`continued_recipe`).

    Args:
        before: the settings that the training began with (`TrainingProvenance.settings`).
        now: the settings that it would continue with.
        where: the run folder, for the error.
        epochs: how many epochs are done.

    Raises:
        UsageError: a setting differs, and the message names both values; or all epochs are done.
        DataError: the images differ.
    """
    other = {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}
    if "epochs" in other:
        if now["epochs"] <= epochs:
            expected, got = f"more than the {epochs} that are done", now["epochs"]
            raise UsageError("no epochs to resume for", where=where, expected=expected, got=got)
        other -= {"epochs", "cycle_start"}
    if not other:
        return
    if other <= {"sha256", "images"}:
        raise DataError(
            "images differ from those that the training began with",
            where=now["dataset"],
            expected=f"SHA-256 {before.get('sha256')}",
            got=now["sha256"],
        )
    other -= {"sha256", "images"}
    raise UsageError(
        "options differ from the resumed training",
        where=where,
        expected=", ".join(f"{name} {_shown(before.get(name))}" for name in sorted(other)),
        got=", ".join(f"{name} {_shown(now.get(name))}" for name in sorted(other)),
        do="leave these options out, or train anew with another --out",
    )


def environment_changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Describe, a few words each, what differs between two environments (`TrainingProvenance.environment`)."""
    return [
        f"{name} {_shown(before.get(name))} → {_shown(now.get(name))}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
