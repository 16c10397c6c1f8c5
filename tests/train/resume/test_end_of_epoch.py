"""A kill at any write of an epoch's end loses nothing, and weights that are not finite replace no state."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.train.conftest import Invoke, one_line
from tests.train.resume.conftest import STEPS, USUAL, figures, stop_at
from train.resume import load_state
from vae_export.models.checkpoint import load_checkpoint
from vae_export.runs import Run

pytestmark = pytest.mark.slow


class Killed(BaseException):
    """Stands for the end of the process."""


CALLS = ("link", "replace", "fsync")


def die(patch: pytest.MonkeyPatch, call: int, run: Run) -> list[str]:
    """Raise `Killed` at the nth call that makes an epoch's end durable, after the first epoch; list the calls."""
    made: list[str] = []

    def counted(name: str) -> Callable[..., object]:
        real = getattr(os, name)

        def wrapped(*arguments: object) -> object:
            if run.training_state.exists():
                made.append(name)
                if len(made) == call:
                    raise Killed
            return real(*arguments)

        return wrapped

    for name in CALLS:
        patch.setattr(os, name, counted(name))
    return made


def test_kill_at_any_write_of_an_epoch_end_loses_nothing(
    invoke: Invoke, tmp_path: Path, reference: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        whole = die(patch, -1, Run(tmp_path / "whole"))
        assert invoke("train", *USUAL, "--epochs", 2, "--out", tmp_path / "whole").code == 0
    for call in range(1, len(whole) + 1):
        run = Run(tmp_path / f"run-{call}")
        with monkeypatch.context() as patch, pytest.raises(Killed):
            die(patch, call, run)
            invoke("train", *USUAL, "--out", run.folder)
        acknowledged = load_state(run)
        assert acknowledged.epochs >= 1
        assert load_checkpoint(run.checkpoint).provenance["epoch"] >= acknowledged.epochs
        load_checkpoint(run.checkpoint)
        if call % 3 == 0:  # each would take long
            resumed = invoke("train", "--resume", "--out", run.folder)
            assert resumed.code == 0, resumed.err
            assert run.checkpoint.read_bytes() == reference.checkpoint.read_bytes()
            assert figures(run) == figures(reference)
    assert set(whole) == set(CALLS)


def test_nonfinite_weights_never_replace_a_good_state(
    invoke: Invoke, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from train.trainer import Trainer

    real = Trainer.state_tensors

    def poisoned(trainer: Trainer) -> dict[str, torch.Tensor]:
        tensors = real(trainer)
        if trainer.steps_done > STEPS:
            tensors["model.encoder.mean.weight"][0] = torch.nan
        return tensors

    monkeypatch.setattr(Trainer, "state_tensors", poisoned)
    stop_at(monkeypatch, 30)
    done = invoke("train", *USUAL, "--out", run.folder)
    assert done.code == 3
    assert "training diverged: epoch 2" in one_line(done.err)
    assert load_state(run).epochs == 1
