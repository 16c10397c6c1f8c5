"""Resuming refuses a damaged state or checkpoint."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.train.conftest import Invoke, one_line
from tests.train.resume.conftest import figures
from train import resume
from vae_export.io.hashed_safetensors import hashed_bytes, read_hashed
from vae_export.runs import Run

pytestmark = pytest.mark.slow


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5000] ^= 4
    path.write_bytes(data)


def rewrite(change: Callable[[dict[str, object], dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Return a damage: a state with a valid hash over content that no training writes."""

    def apply(path: Path) -> None:
        header, tensors, _ = read_hashed(path, "state", resume.STATE_FORMAT, [torch.float32], expected="one")
        change(header, tensors)
        path.write_bytes(hashed_bytes(header, tensors))

    return apply


DAMAGE = {
    "truncated": (truncate, 3, "training state cannot be read"),
    "flipped bit": (flip, 4, "training state was altered"),
    "other version": (rewrite(lambda header, _: header.update(format="vae-export-state/9")), 3, "vae-export-state/9"),
    "missing key": (rewrite(lambda header, _: header.pop("position")), 3, "'position'"),
    "missing tensor": (rewrite(lambda _, tensors: tensors.pop("loss")), 3, "missing loss"),
    "extra tensor": (rewrite(lambda _, tensors: tensors.update(more=torch.zeros(1))), 3, "unknown more"),
    "other shape": (rewrite(lambda _, tensors: tensors.update(loss=torch.zeros(2))), 3, "loss is torch.float32 (2,)"),
    "gone": (Path.unlink, 3, "no such file"),
}


@pytest.mark.parametrize(("damage", "code", "what"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_state_is_refused_with_the_command_to_recover(
    invoke: Invoke,
    stopped: Run,
    reference: Run,
    damage: Callable[[Path], None],
    code: int,
    what: str,
) -> None:
    damage(stopped.training_state)
    done = invoke("train", "--resume", "--out", stopped.folder)
    assert done.code == code, done.err
    line = one_line(done.err)
    assert what in line
    advice = line[line.index("cp ") :]
    subprocess.run(shlex.split(advice), check=True)
    resumed = invoke("train", "--resume", "--out", stopped.folder)
    assert resumed.code == 0, resumed.err
    assert stopped.checkpoint.read_bytes() == reference.checkpoint.read_bytes()
    assert figures(stopped) == figures(reference)


def test_resume_refuses_a_damaged_checkpoint(invoke: Invoke, stopped: Run) -> None:
    flip(stopped.checkpoint)
    done = invoke("train", "--resume", "--out", stopped.folder)
    assert done.code == 4
    assert str(stopped.previous_checkpoint) in one_line(done.err)
