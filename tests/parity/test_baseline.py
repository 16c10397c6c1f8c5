"""Two certificates side by side: what is worse is said, what is as good or better is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vae_export.errors import InputError
from vae_export.parity.baseline import SLACK, read_baseline, regressions
from vae_export.record import FORMAT


def certificate(*rows: dict[str, Any], verdict: str = "pass") -> dict[str, Any]:
    return {"format": FORMAT, "verdict": verdict, "rows": list(rows)}


def row(ratio: float | None = 0.5, *, output: str = "image", passed: bool = True, batch: int = 1) -> dict[str, Any]:
    names = {"part": "decoder", "target": "onnx/CPUExecutionProvider", "setting": "all, 1 thread", "probe": "prior"}
    return {**names, "batch": batch, "output": output, "ratio": ratio, "passed": passed}


def test_what_is_equal_or_better_is_no_regression() -> None:
    assert regressions(certificate(row()), certificate(row())) == []
    assert regressions(certificate(row(0.5)), certificate(row(0.1))) == []
    assert regressions(certificate(row(0.5)), certificate(row(0.5 + SLACK))) == []
    assert regressions(certificate(row()), certificate(row(), row(0.9, output="more"))) == []


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (certificate(), "and 0 other rows: verified then, and not now"),
        (certificate(row(output="mean")), "verified then, and not now"),
        (certificate(row(batch=2)), "verified then, and not now"),
        (certificate(row(0.5 + SLACK + 0.01)), "2.51 times PyTorch's rounding; was 0.5"),
        (certificate(row(9.0, passed=False)), "failed, at 9 times PyTorch's rounding; was 0.5"),
        (certificate(row(None, passed=False)), "failed, at inf times PyTorch's rounding"),
        (certificate(row(0.5, passed=False)), "failed, at 0.5 times PyTorch's rounding"),
        (certificate(row(None)), "inf times PyTorch's rounding"),
    ],
)
def test_what_is_worse_is_said_in_one_line(now: dict[str, Any], said: str) -> None:
    [line] = regressions(certificate(row()), now)
    assert line.startswith("decoder, onnx/CPUExecutionProvider, all, 1 thread, prior, 1, image")
    assert said in line


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[]", "of another version"),
        ('{"format": "vae-export-certificate/0"}', "of another version"),
        (json.dumps(certificate(row(), verdict="fail")), "did not pass"),
        (json.dumps(certificate()), "no rows"),
        (json.dumps(certificate(row(None))), "no rows"),
        (json.dumps(certificate({"part": "decoder"})), "no rows"),
        (json.dumps({"format": FORMAT, "verdict": "pass"}), "no rows"),
    ],
)
def test_what_is_no_certificate_that_passed_is_refused(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "certificate.json"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match=error):
        read_baseline(path)


def test_a_certificate_that_passed_is_a_baseline(tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(certificate(row())), "utf-8")
    assert read_baseline(path) == certificate(row())
    with pytest.raises(InputError, match="cannot be read"):
        read_baseline(tmp_path / "none.json")
