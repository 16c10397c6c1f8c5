"""`bench` on a terminal and for programs."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.lines import Invoke


def test_json_is_what_lies_in_the_file(invoke: Invoke, run_folder: Path, tmp_path: Path) -> None:
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
    assert any(line.startswith("limit") for line in lines)
    assert any(
        line.startswith("quickest float32 file for decoder, batch 2: onnx/CPUExecutionProvider") for line in lines
    )
