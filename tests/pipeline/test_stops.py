"""A command that is interrupted, or whose disk fills, leaves no file."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.commands import ROOT, Invoke, command
from vae_export.pipeline import writers

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["a.npy", "a", "b"])
def test_full_disk_is_exit_code_6(
    invoke: Invoke, bundle: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(writers, "check_room", lambda *_: None)  # another program fills the disk meanwhile
    options = ("--shards", "npy", "--shard-rows", 100) if name == "b" else ()
    outcome = invoke("sample", "-n", 3000, "--bundle", bundle, "--out", small_disk / name, *options)
    assert outcome.code == 6
    assert "disk full" in outcome.err
    assert list(small_disk.iterdir()) == []


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.mark.parametrize("out", ["a.npy", "a", "a.npz", "b"])
@pytest.mark.parametrize(("number", "code"), SIGNALS, ids=["SIGINT", "SIGTERM"])
def test_interrupted_command_leaves_no_file(bundle: Path, tmp_path: Path, out: str, number: int, code: int) -> None:
    home = tmp_path / "home"
    home.mkdir()
    if out == "a.npz":
        np.save(tmp_path / "images.npy", np.zeros((2_000_000, 28, 28), np.uint8))
        typed = ["encode", tmp_path / "images.npy"]
    else:
        typed = ["sample", "-n", 3_000_000]
        typed.append("--levels")
    typed += ["--shards", "npy"] if out == "b" else []
    process = subprocess.Popen(
        command(*typed, "--bundle", bundle, "--out", home / out, "--batch-size", 64, "--levels")[
            : None if out != "a.npz" else -1
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: bool(list(home.iterdir())), process)
    time.sleep(0.3)  # while it computes
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert err.splitlines()[-1].startswith("vae-export: ")
    assert list(home.iterdir()) == []


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
