"""`bench` on a terminal and for programs. The exported file runs in a real process; PyTorch and the roofline do not."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.bench.scripted import ScriptedProcess
from tests.commands import Invoke
from vae_export.bench import benchmark
from vae_export.bench.process import SubjectProcess
from vae_export.bench.subjects import EAGER, Subject

ONNX = "onnx/CPUExecutionProvider"
QUICK = ("--quick", "--rounds", 1, "--batch", 2, "--threads", 1)


def run_only_onnx(monkeypatch: pytest.MonkeyPatch, process: type[SubjectProcess]) -> None:
    """Answer for PyTorch and the roofline without a process."""

    def start(subject: Subject) -> Any:
        return (process if subject.name == ONNX else ScriptedProcess)(subject)

    monkeypatch.setattr(benchmark, "SubjectProcess", start)


@pytest.mark.slow
def test_json_output_equals_the_file(
    invoke: Invoke, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_only_onnx(monkeypatch, SubjectProcess)
    out = tmp_path / "fast.json"
    typed = ("bench", "--run", run_folder, *QUICK, "--out", out, "--target", ONNX)
    outcome = invoke(*typed, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out) == json.loads(out.read_text())
    assert out.with_suffix(".html").exists()
    assert invoke(*typed).code == 2, "the timings exist"
    outcome = invoke(*typed, "--force")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert any(line.startswith("eager/cpu") for line in lines)
    assert any(line.startswith("roofline") for line in lines)
    assert any(line.startswith(f"fastest float32 file for decoder, batch 2: {ONNX}") for line in lines)


def test_disturbed_rounds_are_counted(
    invoke: Invoke, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "SubjectProcess", ScriptedProcess)
    monkeypatch.setattr(ScriptedProcess, "seconds", {ONNX: [1e-3, 70e-3, 1e-3]})
    typed = ("bench", "--run", run_folder, *QUICK, "--rounds", 3, "--out", tmp_path / "fast.json", "--target", ONNX)
    outcome = invoke(*typed)
    assert outcome.code == 0, outcome.err
    assert "left out: 1 of 6 measurements, which other programs slowed down" in outcome.out.splitlines()


class DyingProcess(SubjectProcess):
    """A process that is killed when it is first asked for a time."""

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        if do == "time":
            os.kill(self.pid, signal.SIGSEGV)
        return super().ask(do, **arguments)


@pytest.mark.slow
def test_crash_of_a_target_is_an_error_only_if_it_was_requested(
    invoke: Invoke, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_only_onnx(monkeypatch, DyingProcess)
    monkeypatch.setattr(benchmark, "choose_subjects", lambda *_: [EAGER, ONNX])
    out = tmp_path / "fast.json"
    typed = ("bench", "--run", run_folder, *QUICK, "--out", out)
    assert invoke(*typed).code == 0
    outcome = invoke(*typed, "--force", "--target", ONNX)
    assert outcome.code == 6
    assert outcome.err.splitlines()[-1] == (
        "vae-export: error: measurement did not finish: decoder, onnx/CPUExecutionProvider; "
        "got batch 2: its process died of SIGSEGV"
    )
    document = json.loads(out.read_text())
    assert {figure["side"] for figure in document["figures"]} == {EAGER}
    assert list(document["unusable"]) == ["decoder, onnx/CPUExecutionProvider"]
