"""Processes that train together: the loss curve of one, one writer, and one end for all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import made_once
from tests.train.conftest import ROOT, TINY, Invoke
from train.data.datasets import draw_binary
from train.distributed import PeerEndedError, Processes, join_processes
from train.resume import load_state
from train.trainer import StepRng
from vae_export.errors import MachineError, UsageError
from vae_export.models.checkpoint import load_checkpoint
from vae_export.runs import Run

pytestmark = pytest.mark.slow

#: What depends on the whole batch (free bits), on the images' place in it (dynamic), and on more than the last step.
USUAL: tuple[str, ...] = (*TINY, "--epochs", "2", "--seed", "7", "--precision", "float32", "--data-protocol", "dynamic")
USUAL = (*USUAL, "--free-bits", "0.3", "--weight-average", "0.9")
STEPS = 22

#: `cli.py train` without pictures, in which a process may come to harm at a step of the second epoch.
SCRIPT = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from train import pictures
from train.cli import train
from train.distributed import local_rank
from train.progress import TrainingProgress
from vae_export.cli.app import main
from vae_export.errors import DataError

def step(report, epoch, step, total, real=TrainingProgress.step):
    real(report, epoch, step, total)
    if (epoch, step, str(local_rank())) == (2, 5, os.environ.get("HARM_RANK")):
        if os.environ["HARM"] == "error":
            raise DataError("harm was done", where="step 5")
        os.kill(os.getpid(), int(os.environ["HARM"]))

TrainingProgress.step = step
pictures.draw_pictures = lambda *_: None
main(train)
"""


def launch(folder: Path, *options: object, harm: object = None, rank: int = 1) -> tuple[int, str]:
    """Train in two processes; return torchrun's exit code and what all of them wrote to stderr."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *torchrun, str(script), "train", *map(str, options)]
    changes = {} if harm is None else {"HARM": str(harm), "HARM_RANK": str(rank)}
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | changes
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)
    return done.returncode, done.stderr


def curve(run: Run) -> list[float]:
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    key = "negative_elbo_nats_per_image"
    return [line[name] if name == "loss" else line[name][key] for line in lines for name in ("loss", "train", "test")]


@pytest.fixture(scope="session")
def pair(shared: Path) -> Run:
    """Return a finished training of two processes. Do not write to it."""

    def make(folder: Path) -> None:
        code, said = launch(folder, *USUAL, "--out", folder / "run")
        assert code == 0, said
        assert said.count("epoch 2/2") == 1, "only the first process prints"

    return Run(made_once(shared / "pair", make) / "run")


@pytest.mark.usefixtures("without_pictures")
def test_two_processes_follow_the_loss_curve_of_one(invoke: Invoke, pair: Run, tmp_path: Path) -> None:
    alone = Run(tmp_path / "run")
    done = invoke("train", *USUAL, "--out", alone.folder)
    assert done.code == 0, done.err
    assert len(curve(pair)) == 6
    assert curve(pair) == pytest.approx(curve(alone), rel=1e-5)
    assert load_checkpoint(pair.checkpoint).provenance["training"]["processes"] == 2


def test_signal_to_one_process_ends_all_and_they_resume(pair: Run, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    code, said = launch(tmp_path, *USUAL, "--out", run.folder, harm=15)
    assert code != 0
    assert said.count("vae-export: terminated: after 32 steps") == 1, said  # where they next ask each other
    assert said.count("exitcode  : 143") == 2, said
    assert load_state(run).steps_done == 32
    code, said = launch(tmp_path, "--resume", "--out", run.folder)
    assert code == 0, said
    assert "resumed after epoch 1 and 10 of 22 steps" in said
    assert run.checkpoint.read_bytes() == pair.checkpoint.read_bytes()
    assert curve(run) == curve(pair)


def test_killed_first_process_is_one_line_and_loses_no_checkpoint(pair: Run, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    code, said = launch(tmp_path, *USUAL, "--out", run.folder, harm=9, rank=0)
    assert code != 0
    assert said.count("vae-export: error:") == said.count("a process of this training has ended") == 1, said
    assert (load_state(run).epochs, load_state(run).steps_done) == (1, STEPS)
    load_checkpoint(run.checkpoint)
    code, said = launch(tmp_path, "--resume", "--out", run.folder)
    assert code == 0, said
    assert run.checkpoint.read_bytes() == pair.checkpoint.read_bytes()


@pytest.mark.parametrize("rank", [0, 1])
def test_error_in_one_process_is_printed_once_and_ends_all(tmp_path: Path, rank: int) -> None:
    run = Run(tmp_path / "run")
    code, said = launch(tmp_path, *USUAL, "--out", run.folder, harm="error", rank=rank)
    assert code != 0
    assert said.count("vae-export: error:") == said.count("vae-export: error: harm was done: step 5") == 1, said
    assert "exitcode  : 3" in said
    assert load_state(run).epochs == 1
    load_checkpoint(run.checkpoint)
    assert not list(run.folder.rglob(".partial-*"))
    # Where there is a run already, neither writes.
    if rank == 0:
        before = run.checkpoint.read_bytes()
        code, said = launch(tmp_path, *USUAL, "--out", run.folder)
        assert said.count("vae-export: error: output exists") == 1, said
        assert run.checkpoint.read_bytes() == before


def test_slices_cover_a_batch_and_draw_what_the_whole_draws() -> None:
    pixels = torch.randint(0, 256, (12, 1, 4, 4), dtype=torch.uint8)
    draws = StepRng(3, torch.device("cpu"))
    whole = draw_binary(pixels, draws.step_generator(5))
    parts = [
        draw_binary(pixels, draws.step_generator(5), selected=Processes(rank, 3).batch_slice(12)) for rank in range(3)
    ]
    assert torch.equal(torch.cat(parts), whole)
    with pytest.raises(UsageError, match="batch size cannot be shared"):
        Processes(0, 5).batch_slice(12)


def test_loss_sums_of_another_process_count_are_averaged() -> None:
    assert Processes(1, 2).own_share(torch.tensor([3.0, 5.0])) == 5
    assert Processes(1, 3).own_share(torch.tensor([3.0, 5.0])) == 4
    assert Processes().own_share(torch.tensor(7.0)) == 7


def test_unreachable_processes_are_a_machine_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(MachineError, match=r"processes cannot be joined; got .*torchrun"),
        join_processes(torch.device("cpu")),
    ):
        pass
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(MachineError, match="bad WORLD_SIZE"), join_processes(torch.device("cpu")):
        pass
    assert PeerEndedError(3).code == 3
