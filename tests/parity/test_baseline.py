"""Two certificates side by side: what is worse is said, what is as good or better is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vae_export.errors import InputError
from vae_export.parity.baseline import SLACK, read_baseline, regressions
from vae_export.parity.certificate import FORMAT


def certificate(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"format": FORMAT, "rows": list(rows)}


def row(error: float | None = 0.5, *, output: str = "image", passed: bool = True, band: float | None = 1.0) -> dict:
    names = {"part": "decoder", "target": "onnx/CPUExecutionProvider", "probe": "prior", "output": output}
    return {**names, "error": error, "band": band, "passed": passed}


def test_what_is_equal_or_better_is_no_regression() -> None:
    assert regressions(certificate(row()), certificate(row())) == []
    assert regressions(certificate(row(0.5)), certificate(row(0.1))) == []
    assert regressions(certificate(row(0.5)), certificate(row(0.5 + SLACK))) == []
    assert regressions(certificate(row()), certificate(row(), row(0.9, output="more"))) == []
    assert regressions(certificate(row(3.0, passed=False)), certificate(row(2.0, passed=False))) == []


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (certificate(), "was verified, is not any more"),
        (certificate(row(output="mean")), "was verified, is not any more"),
        (certificate(row(0.5 + SLACK + 0.01)), "0.76 of its band; was 0.5"),
        (certificate(row(2.0, passed=False)), "failed, with 2 of its band; was 0.5"),
        (certificate(row(None, passed=False)), "failed, with inf of its band"),
        (certificate(row(0.5, passed=False)), "failed, with inf of its band"),
        (certificate(row(0.5, band=None, passed=False)), "failed, with inf of its band"),
        (certificate(row(), row(2.0, passed=False)), "failed, with 2 of its band"),
    ],
)
def test_what_is_worse_is_said_in_one_line(now: dict[str, Any], said: str) -> None:
    [line] = regressions(certificate(row()), now)
    assert line.startswith("decoder, onnx/CPUExecutionProvider, prior, image: ")
    assert said in line


def test_a_baseline_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(certificate(row())), "utf-8")
    assert read_baseline(path) == certificate(row())
    for text, error in (
        ("{", "cannot be read"),
        ("[]", "of another version"),
        ('{"format": "vae-export-certificate/0"}', "of another version"),
        ("[" * 100_000, "cannot be read"),
    ):
        path.write_text(text, "utf-8")
        with pytest.raises(InputError, match=error):
            read_baseline(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_baseline(tmp_path / "none.json")
