"""A disk that is full at any write of a training: one line of error, and the last files load."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Outcome, mounted
from tests.train.conftest import TINY, one_line
from train import pictures
from train.resume import load_state
from vae_export.models.checkpoint import load_checkpoint
from vae_export.runs import Run

pytestmark = pytest.mark.slow

Invoke = Callable[..., Outcome]

#: About as large as a real one.
PICTURE = bytes(100_000)
USUAL = (*TINY, "--epochs", 3, "--seed", 7, "--weight-average", 0)
#: Number of disk sizes between almost nothing and almost enough. They lie closer together than any checkpoint, state or
#: set of pictures is large, so that the write of each fails at one of them.
STEPS = 20
#: Sizes are in KiB. tmpfs allocates whole pages.
AMPLE, PAGE = 16_000, 4


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "disk", "-t", "tmpfs", "-o", f"size={AMPLE}k", "tmpfs")


@pytest.fixture
def _pictures_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write pictures as always, and do not draw them: that takes five times as long as the training."""
    for name in ("grid_png", "draw_curves", "draw_units"):
        monkeypatch.setattr(pictures, name, lambda *_: PICTURE)


def disk_usage(folder: Path) -> int:
    """Return the KiB that all files of a folder take."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return sum(PAGE * -(-size // (PAGE * 1024)) for size in sizes)


def resize(disk: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}k", str(disk)], check=True, capture_output=True)


@pytest.mark.usefixtures("_pictures_of_one_size")
def test_disk_full_at_any_write_keeps_the_last_files(invoke: Invoke, disk: Path, tmp_path: Path) -> None:
    whole, run = Run(tmp_path / "whole"), Run(disk / "run")
    assert invoke("train", *USUAL, "--out", whole.folder).code == 0
    enough = disk_usage(whole.folder) + PAGE
    too_small = range(PAGE, enough - 2 * PAGE, enough // STEPS)
    failed: dict[str, int] = {}
    codes = []
    for size in (*too_small, enough):
        if run.folder.exists():
            shutil.rmtree(run.folder)
        resize(disk, size)
        done = invoke("train", *USUAL, "--out", run.folder)
        codes.append(done.code)
        if done.code == 0:
            continue
        assert done.code == 6, done.err
        match = re.search(r"disk full: (\S+); expected [\d,]+ bytes, got [\d,]+ bytes free", one_line(done.err))
        assert match, done.err
        where = str(Path(match[1]).relative_to(disk))
        assert not list(disk.rglob(".partial-*"))
        if run.checkpoint.exists():
            load_checkpoint(run.checkpoint)
        if run.training_state.exists():
            assert load_checkpoint(run.checkpoint).provenance["epoch"] >= load_state(run).epochs
        for line in run.metrics.read_text().splitlines() if run.metrics.exists() else ():
            json.loads(line)
        if where not in failed and run.training_state.exists():  # with room again it goes on
            resize(disk, AMPLE)
            resumed = invoke("train", "--resume", "--out", run.folder)
            assert resumed.code == 0, resumed.err
            assert run.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
        failed[where] = size
    assert codes == [6] * len(too_small) + [0]
    assert {"run/checkpoint.safetensors", "run/state/training.safetensors"} <= failed.keys(), failed
    assert any(where.startswith("run/.partial-") for where in failed), failed  # pictures, in their staging folder
