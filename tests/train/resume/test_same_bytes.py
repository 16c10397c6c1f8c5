"""A stopped training resumes to the same bytes as one that was not stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.commands import tree
from tests.train.conftest import ROOT, Invoke, one_line
from tests.train.resume.conftest import STEPS, USUAL, figures, stop_at
from train.resume import load_state, save_state
from vae_export.models.checkpoint import load_checkpoint
from vae_export.runs import Run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "options",
    [
        ["--data-protocol", "dynamic", "--weight-average", 0.9, "--kl-warmup", 2],
        ["--family", "blog"],  # draws dropout
        ["--family", "conv", "--free-bits", 0.1],  # weights in an order of their own
        ["--likelihood", "discretised-logistic", "--stages", "1:1e-3,3:5e-4", "--precision", "bfloat16"],
    ],
    ids=lambda options: str(options[1]),
)
def test_training_stopped_many_times_ends_in_the_same_bytes(
    invoke: Invoke, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[object]
) -> None:
    reference = Run(tmp_path / "reference")
    assert invoke("train", *USUAL, *options, "--out", reference.folder).code == 0
    # Within the first epoch, one step on, before its scores, after a last step, before one, and within the last epoch.
    stops = [5, 7, STEPS, 2 * STEPS - 1, 3 * STEPS - 2, 3 * STEPS + 9]
    stop_at(monkeypatch, *stops)
    first = invoke("train", *USUAL, *options, "--out", run.folder)
    codes = [first.code]
    while codes[-1] == 143:
        resumed = invoke("train", "--resume", "--out", run.folder)
        codes.append(resumed.code)
    assert resumed.code == 0, resumed.err
    assert len(codes) == len(stops) + 1
    assert run.checkpoint.read_bytes() == reference.checkpoint.read_bytes()
    assert figures(run) == figures(reference)
    assert (load_state(run).steps_done, load_state(run).epochs) == (4 * STEPS, 4)
    for name, tensor in load_state(reference).tensors.items():
        assert torch.equal(tensor, load_state(run).tensors[name]), name


#: A training that waits in its second epoch, for a line: what it is sent meanwhile never comes too late.
WAITING = """
import sys
from train.cli import train
from train.progress import TrainingProgress
from vae_export.cli.app import main

def step(report, epoch, step, total, real=TrainingProgress.step):
    real(report, epoch, step, total)
    if (epoch, step) == (2, 8):
        print("waiting", flush=True)
        sys.stdin.readline()

TrainingProgress.step = step
main(train)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_stopped_or_killed_process_resumes_to_the_same_bytes(
    invoke: Invoke, run: Run, reference: Run, number: signal.Signals
) -> None:
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", WAITING, "train", *USUAL, "--out", str(run.folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(number)
        said = process.communicate("\n", timeout=120)[1]
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert (number == signal.SIGKILL) == ("--resume" not in said)
    load_checkpoint(run.checkpoint)
    resumed = invoke("train", "--resume", "--out", run.folder)
    assert resumed.code == 0, resumed.err
    assert "resumed after epoch" in resumed.err
    assert run.checkpoint.read_bytes() == reference.checkpoint.read_bytes()
    assert not list(run.folder.rglob(".partial-*"))


def test_resume_of_finished_training_changes_nothing(invoke: Invoke, reference: Run) -> None:
    before = tree(reference.folder)
    done = invoke("train", "--resume", "--out", reference.folder, "--json")
    assert done.code == 0
    assert "finished: all 4 epochs are done" in done.err
    assert json.loads(done.out)["epoch"] == load_state(reference).saved.epoch  # type: ignore[union-attr]
    assert {**tree(reference.folder), ".lock": b""} == {**before, ".lock": b""}


def test_resume_draws_missing_pictures(
    invoke: Invoke, run: Run, reference: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(reference.folder, run.folder)
    shutil.rmtree(run.pictures)
    monkeypatch.setattr("train.pictures.draw_pictures", lambda _model, _images, run: run.pictures.mkdir())
    assert invoke("train", "--resume", "--out", run.folder).code == 0
    assert run.pictures.is_dir()


def test_resume_accepts_the_original_options(invoke: Invoke, stopped: Run, reference: Run) -> None:
    done = invoke("train", "--resume", *USUAL, "--out", stopped.folder)
    assert done.code == 0, done.err
    assert stopped.checkpoint.read_bytes() == reference.checkpoint.read_bytes()


def test_resume_without_folder_takes_the_newest_run(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stopped_once: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    for name in ("first", "second"):
        shutil.copytree(stopped_once, Path("artifacts") / name)
        os.utime(Run(Path("artifacts") / name).training_state)
    done = invoke("train", "--resume")
    assert done.code == 0, done.err
    assert f"run: {Path('artifacts') / 'second'}" in done.err
    assert load_state(Run(Path("artifacts") / "first")).epochs == 2


def test_resume_accepts_more_epochs_of_a_constant_rate(invoke: Invoke, run: Run, tmp_path: Path) -> None:
    long = Run(tmp_path / "long")
    assert invoke("train", *USUAL, "--family", "blog", "--epochs", 3, "--out", long.folder).code == 0
    assert invoke("train", *USUAL, "--family", "blog", "--epochs", 2, "--out", run.folder).code == 0
    _name_family_as_earlier_versions_did(run)
    done = invoke("train", "--resume", "--epochs", 3, "--out", run.folder)
    assert done.code == 0, done.err
    assert run.checkpoint.read_bytes() == long.checkpoint.read_bytes()
    fewer = invoke("train", "--resume", "--epochs", 2, "--out", run.folder)
    assert fewer.code == 2
    assert "expected more than the 3 that are done, got 2" in one_line(fewer.err)


def test_more_epochs_follow_a_new_cycle_and_resume_to_the_same_bytes(
    invoke: Invoke, run: Run, reference: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = Run(tmp_path / "long")
    for folder in (run.folder, long.folder):
        shutil.copytree(reference.folder, folder)
    done = invoke("train", "--resume", "--epochs", 7, "--out", long.folder)
    assert done.code == 0, done.err
    assert "note: from here to epoch 7 the learning rate follows a new cycle" in done.err
    rates = [line["learning_rate"] for line in map(json.loads, long.metrics.read_text().splitlines())]
    assert rates[3] < 1e-6 > rates[6]  # the end of each cycle
    assert rates[4] > rates[5] > 1e-4
    with monkeypatch.context() as patch:
        stop_at(patch, 5 * STEPS + 3)
        assert invoke("train", "--resume", "--epochs", 7, "--out", run.folder).code == 143
    assert invoke("train", "--resume", "--out", run.folder).code == 0
    assert run.checkpoint.read_bytes() == long.checkpoint.read_bytes()
    assert load_checkpoint(run.checkpoint).provenance["training"]["cycle_start"] == 4 * STEPS


def _name_family_as_earlier_versions_did(run: Run) -> None:
    state, former = load_state(run), {"family": "post"}
    save_state(replace(state, settings={**state.settings, **former}, arguments={**state.arguments, **former}), run)


def test_resume_records_another_number_of_threads(invoke: Invoke, stopped: Run, reference: Run) -> None:
    done = invoke("train", "--resume", "--out", stopped.folder, "--threads", 2)
    torch.set_num_threads(1)
    assert done.code == 0, done.err
    assert "note: threads 1 → 2" in done.err
    training = load_checkpoint(stopped.checkpoint).provenance["training"]
    assert training["changed_on_resume"] == ["threads 1 → 2 at step 51"]
    assert training["threads"] == 2
    expected = load_checkpoint(reference.checkpoint).weights
    for name, tensor in load_checkpoint(stopped.checkpoint).weights.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4)
