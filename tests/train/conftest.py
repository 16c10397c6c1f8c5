"""What the tests of `train/` share: the command line in a process of its own, small files, one small training."""

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

#: A real training that takes a second: the digits, a small network, one thread. Precision is not left to be
#: measured: two trainings are to be the same.
TINY = ("--dataset", "digits", "--hidden-size", "16", "--latent-size", "3", "--threads", "1", "--precision", "float32")

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
#: The command line in this process, see `tests/conftest.py`.
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
    """The run folder of a finished training. Not to be written to."""

    def make(folder: Path) -> None:
        done = cli("train", *TINY, "--epochs", 3, "--seed", 7, "--out", folder / "run")
        assert done.returncode == 0, done.stderr

    return own_copy(made_once(shared / "trained", make), tmp_path_factory)


def own_copy(folder: Path, factory: pytest.TempPathFactory) -> Path:
    """This worker's copy of the run in a folder: a command that reads a run locks it."""
    return Path(shutil.copytree(folder / "run", factory.mktemp(folder.name) / "run"))


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than a small training, and have tests of their own. Of trainings in this process alone."""
    monkeypatch.setattr("train.pictures.draw_pictures", lambda *_: None)


def write_idx(path: Path, array: Pixels, *, shape: tuple[int, ...] | None = None) -> None:
    """`array` as an IDX file, with a header that claims `shape`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = array.shape if shape is None else shape
    path.write_bytes(bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + array.tobytes())


def write_mnist(root: Path, kind: str = "MNIST", *, train: int = 240, test: int = 40) -> Path:
    """A small set in torchvision's layout; image i is filled with i. Returns the folder of its files."""
    raw = root / kind / "raw"
    for split, count in (("train", train), ("t10k", test)):
        images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], (count, 28, 28))
        write_idx(raw / f"{split}-images-idx3-ubyte", images)
        write_idx(raw / f"{split}-labels-idx1-ubyte", np.zeros(count, np.uint8))
    return raw


def one_line(stderr: str) -> str:
    """The error of a failed command: the last line, and no traceback before it."""
    assert "Traceback" not in stderr
    line = stderr.strip().splitlines()[-1]
    assert line.startswith("vae-export: "), stderr
    return line
