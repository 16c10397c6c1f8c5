"""Fixtures for resuming: trainings that were stopped, and the same training without a stop."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from tests.commands import run_python
from tests.conftest import made_once
from tests.train.conftest import TINY, Cli, own_copy
from train.progress import TrainingProgress
from vae_export.runs import Run

#: 22 steps an epoch.
USUAL = (*TINY, "--epochs", "4", "--seed", "7", "--precision", "float32")
STEPS = 22

#: A training whose process sends itself SIGTERM after a step, counted over all epochs.
STOPPING = """
import os, signal, sys
from train.cli import train
from train.progress import TrainingProgress
from vae_export.cli.app import main

def step(report, epoch, step, total, real=TrainingProgress.step):
    real(report, epoch, step, total)
    if (epoch - 1) * 22 + step == 50:
        os.kill(os.getpid(), signal.SIGTERM)

TrainingProgress.step = step
main(train)
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


@pytest.fixture(scope="session")
def reference(cli: Cli, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return the training that was not stopped. Do not write to it."""

    def make(folder: Path) -> None:
        done = cli("train", *USUAL, "--out", folder / "run")
        assert done.returncode == 0, done.stderr

    return Run(own_copy(made_once(shared / "reference", make), tmp_path_factory))


@pytest.fixture(scope="session")
def stopped_once(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same training, stopped within the third epoch. Do not write to it."""

    def make(folder: Path) -> None:
        done = run_python(STOPPING, "train", *USUAL, "--out", folder / "run")
        assert done.returncode == 143, done.stderr

    return own_copy(made_once(shared / "stopped", make), tmp_path_factory)


@pytest.fixture
def stopped(stopped_once: Path, run: Run) -> Run:
    """Return a copy of the stopped training."""
    shutil.copytree(stopped_once, run.folder)
    return run


@pytest.fixture(autouse=True)
def _without_pictures(without_pictures: None) -> None:
    """Draw no pictures in these trainings."""


def stop_at(monkeypatch: pytest.MonkeyPatch, *positions: int, number: int = signal.SIGTERM) -> None:
    """Send this process a signal after the steps at `positions`, counted over all epochs; one more step is done."""
    real = TrainingProgress.step

    def step(report: TrainingProgress, epoch: int, step: int, total: torch.Tensor) -> None:
        real(report, epoch, step, total)
        if (epoch - 1) * STEPS + step in positions:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(TrainingProgress, "step", step)


def figures(run: Run) -> list[object]:
    """Return the lines of metrics without their times."""
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [{key: line[key] for key in line if key not in ("seconds", "images_per_second")} for line in lines]
