"""Fixtures for training: the command line as a process, small IDX files, one small training."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.conftest import Outcome, made_once

ROOT = Path(__file__).parents[2]
CLI = (sys.executable, str(ROOT / "cli.py"))

#: Options of a training that takes a second. Threads and precision are fixed, since two trainings must be equal.
TINY = ("--dataset", "digits", "--hidden-size", "16", "--latent-size", "3", "--threads", "1", "--precision", "float32")

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
#: Runs the command line in this process, see `tests/conftest.py`.
Invoke = Callable[..., Outcome]
Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Run `cli.py` with arguments; `folder` is the working folder."""

    def run(*arguments: object, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
        command = [*CLI, *map(str, arguments)]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.fixture(scope="session")
def trained(cli: Cli, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of a finished training. Do not write to it."""

    def make(folder: Path) -> None:
        done = cli("train", *TINY, "--epochs", 3, "--seed", 7, "--out", folder / "run")
        assert done.returncode == 0, done.stderr

    return own_copy(made_once(shared / "trained", make), tmp_path_factory)


def own_copy(folder: Path, factory: pytest.TempPathFactory) -> Path:
    """Copy the run in a folder for this worker, since a command that reads a run locks it."""
    return Path(shutil.copytree(folder / "run", factory.mktemp(folder.name) / "run"))


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no pictures in this process: they take longer than a small training and have tests of their own."""
    monkeypatch.setattr("train.pictures.draw_pictures", lambda *_: None)


def write_idx(path: Path, array: Pixels, *, shape: tuple[int, ...] | None = None) -> None:
    """Write an array as an IDX file whose header claims `shape`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = array.shape if shape is None else shape
    path.write_bytes(bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + array.tobytes())


def write_mnist(root: Path, kind: str = "MNIST", *, train: int = 240, test: int = 40) -> Path:
    """Write a small data set in torchvision's layout, image i filled with i; return the folder of its files."""
    raw = root / kind / "raw"
    for split, count in (("train", train), ("t10k", test)):
        images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], (count, 28, 28))
        write_idx(raw / f"{split}-images-idx3-ubyte", images)
        write_idx(raw / f"{split}-labels-idx1-ubyte", np.zeros(count, np.uint8))
    return raw


def one_line(stderr: str) -> str:
    """Return the last line of a failed command, its error; there must be no traceback."""
    assert "Traceback" not in stderr
    line = stderr.strip().splitlines()[-1]
    assert line.startswith("vae-export: "), stderr
    return line
