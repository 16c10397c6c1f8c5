"""A training that is stopped, locked out or on a full disk: one line of error, and the last checkpoint loads."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import mounted
from tests.train.conftest import CLI, ROOT, TINY, Invoke, one_line
from vae_export.models.checkpoint import load_checkpoint
from vae_export.runs import Run

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def training(run: Path) -> Iterator[subprocess.Popen[str]]:
    """Run an endless training in a process; enter the block after its first epochs."""
    command = [*CLI, "train", *TINY, "--epochs", "100000", "--out", str(run)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            metrics, deadline = Run(run).metrics, time.monotonic() + 60
            while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 2):
                assert process.poll() is None, process.stderr.read() if process.stderr else ""
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("sent", "code", "name"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_stopped_training_names_its_checkpoint_which_loads(
    tmp_path: Path, sent: signal.Signals, code: int, name: str
) -> None:
    with training(tmp_path / "run") as process:
        process.send_signal(sent)
        _, err = process.communicate(timeout=20)
        assert process.returncode == code
    line = one_line(err)
    assert line.startswith(f"vae-export: {name}: after ")
    assert str(Run(tmp_path / "run").checkpoint) in line
    load_checkpoint(Run(tmp_path / "run").checkpoint)


@pytest.mark.usefixtures("without_pictures")
def test_locked_folder_names_its_owner_and_a_kill_frees_it(invoke: Invoke, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with training(run) as process:
        second = invoke("train", *TINY, "--out", run, "--force")
        assert second.code == 6
        assert f"process {process.pid}" in one_line(second.err)
        process.kill()  # SIGKILL
        process.wait()
    load_checkpoint(Run(run).checkpoint)
    again = invoke("train", *TINY, "--epochs", 1, "--out", run, "--force")
    assert again.code == 0, again.err
    assert not list(run.rglob(".partial-*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 4 MB."""
    yield from mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=4m", "tmpfs")


@pytest.mark.usefixtures("without_pictures")
def test_full_disk_keeps_the_last_checkpoint(invoke: Invoke, small_disk: Path) -> None:
    run = Run(small_disk / "run")  # a checkpoint of 1.7 MB, the one before it, and no room for a third
    done = invoke("train", *TINY, "--hidden-size", 220, "--out", run.folder)
    assert done.code == 6, done.err
    assert "disk full" in one_line(done.err)
    load_checkpoint(run.checkpoint)
    assert not list(run.folder.rglob(".partial-*"))
