"""An export that is stopped, or whose disk is full, publishes nothing."""

from __future__ import annotations

import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests import sample_models
from tests.commands import command, run_cli
from tests.conftest import Exported
from vae_export import Source, export
from vae_export.io.atomic import PARTIAL

pytestmark = pytest.mark.slow


def test_full_disk_leaves_nothing(small_disk: Path, mlp: Exported) -> None:
    (small_disk / "filler").write_bytes(bytes(900_000))
    result = run_cli(
        "export", "--checkpoint", mlp.checkpoint, "--out", small_disk / "out", "--format", "torchscript", cwd=small_disk
    )
    assert result.returncode == 6
    assert "disk full" in result.stderr
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def started(run: Path, out: Path, until: str) -> subprocess.Popen[str]:
    """An export in a process of its own, which has just said a line that begins with `until`."""
    child = subprocess.Popen(
        # Long enough to be stopped in: the one format is slow to write, the other quick to come to its verification.
        command("export", "--run", run, "--out", out, "--format", "onnx" if until == "writing" else "torchscript"),
        cwd=run,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith(until):
            return child
    pytest.fail("ended before it was stopped")


@pytest.mark.parametrize(
    ("signal", "code", "said"),
    [
        (signal.SIGINT, 130, "vae-export: interrupted"),
        (signal.SIGTERM, 143, "vae-export: terminated"),
        (signal.SIGKILL, -signal.SIGKILL, ""),
    ],
)
@pytest.mark.parametrize("until", ["writing", "verifying"])
def test_stopped_export_publishes_nothing(
    run_folder: Path, tmp_path: Path, signal: int, code: int, said: str, until: str
) -> None:
    out = tmp_path / "exported" / "here"
    child = started(run_folder, out, until)
    time.sleep(0.05)
    child.send_signal(signal)
    stdout, stderr = child.communicate(timeout=60)
    assert child.returncode == code
    assert stdout == ""
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1:] == [said] if said else True
    assert not out.exists()
    left = [path.name for path in out.parent.iterdir()] if out.parent.exists() else []
    if said:
        assert left == []
        assert not out.parent.exists()  # the export had made it
    else:  # nothing can tidy up after SIGKILL but the next export
        assert left
        assert all(name.startswith(PARTIAL) for name in left)
        export(
            replace(Source.of(sample_models.checkpoint("mlp", (1, 4, 4))), encoder=None), out, formats=["torchscript"]
        )
        assert [path.name for path in out.parent.iterdir()] == [out.name]
