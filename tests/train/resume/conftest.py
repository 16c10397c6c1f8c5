"""Trainings that were stopped, and the one that nobody stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.commands import run_python
from tests.conftest import Outcome
from tests.train.conftest import TINY, Cli
from train.report import Report
from vae_export.runs import Run

Invoke = Callable[..., Outcome]

#: 22 steps an epoch.
USUAL = (*TINY, "--epochs", "4", "--seed", "7", "--precision", "float32")
STEPS = 22

#: A training whose process sends itself SIGTERM after a step, counted over all epochs.
STOPPING = """
import os, signal, sys
from train.commands import train
from train.report import Report
from vae_export.cli.app import main

def step(report, epoch, step, total, real=Report.step):
    real(report, epoch, step, total)
    if (epoch - 1) * 22 + step == 50:
        os.kill(os.getpid(), signal.SIGTERM)

Report.step = step
main(train)
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


@pytest.fixture(scope="module")
def reference(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The training that nobody stopped. Not to be written to."""
    run = Run(tmp_path_factory.mktemp("reference") / "run")
    done = cli("train", *USUAL, "--out", run.folder)
    assert done.returncode == 0, done.stderr
    return run


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, stopped within the third epoch. Not to be written to."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    done = run_python(STOPPING, "train", *USUAL, "--out", folder)
    assert done.returncode == 143, done.stderr
    return folder


@pytest.fixture
def stopped(stopped_once: Path, run: Run) -> Run:
    """A copy of it."""
    shutil.copytree(stopped_once, run.folder)
    return run


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than these trainings, and have tests of their own."""
    monkeypatch.setattr("train.pictures.draw_pictures", lambda *_: None)


def stop_at(monkeypatch: pytest.MonkeyPatch, *positions: int, number: int = signal.SIGTERM) -> None:
    """Send this process a signal after those steps, counted over all epochs; the next one is done before it ends."""
    real = Report.step

    def step(report: Report, epoch: int, step: int, total: torch.Tensor) -> None:
        real(report, epoch, step, total)
        if (epoch - 1) * STEPS + step in positions:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Report, "step", step)


def figures(run: Run) -> list[object]:
    """The metrics without what the clock says."""
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [{key: line[key] for key in line if key not in ("seconds", "images_per_second")} for line in lines]
