"""`bench` on a terminal and for programs."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Invoke
from vae_export.bench import benchmark
from vae_export.bench.process import SubjectProcess
from vae_export.bench.subjects import EAGER, ROOFLINES

pytestmark = pytest.mark.slow


def test_json_equals_the_written_file(invoke: Invoke, run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "fast.json"
    given = ("bench", "--run", run_folder, "--quick", "--rounds", 1, "--batch", 2, "--threads", 1, "--out", out)
    given = (*given, "--target", "onnx/CPUExecutionProvider")
    outcome = invoke(*given, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out) == json.loads(out.read_text())
    assert out.with_suffix(".html").exists()
    assert invoke(*given).code == 2, "the timings exist"
    outcome = invoke(*given, "--force")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert any(line.startswith("eager/cpu") for line in lines)
    assert any(line.startswith("roofline") for line in lines)
    assert any(
        line.startswith("fastest float32 file for decoder, batch 2: onnx/CPUExecutionProvider") for line in lines
    )


class Dying(SubjectProcess):
    """The ONNX side's process is killed when it is first asked for a time."""

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        if do == "time" and self.subject.name.startswith("onnx/"):
            os.kill(self.pid, signal.SIGSEGV)
        return super().ask(do, **order)


def test_crashed_target_is_an_error_only_if_requested(
    invoke: Invoke, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "SubjectProcess", Dying)
    monkeypatch.setattr(benchmark, "choose_subjects", lambda *_: [*ROOFLINES, EAGER, "onnx/CPUExecutionProvider"])
    out = tmp_path / "fast.json"
    given = ("bench", "--run", run_folder, "--quick", "--rounds", 1, "--batch", 2, "--threads", 1, "--out", out)
    assert invoke(*given).code == 0
    outcome = invoke(*given, "--force", "--target", "onnx/CPUExecutionProvider")
    assert outcome.code == 6
    assert outcome.err.splitlines()[-1] == (
        "vae-export: error: could not be measured to the end: decoder, onnx/CPUExecutionProvider; "
        "got batch 2: its process died of SIGSEGV"
    )
    document = json.loads(out.read_text())
    assert {figure["side"] for figure in document["figures"]} == {EAGER}
    assert list(document["unusable"]) == ["decoder, onnx/CPUExecutionProvider"]
