"""Two certificates side by side: what is worse is said, what is as good or better is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vae_export.artifact.certificate import FORMAT
from vae_export.errors import InputError
from vae_export.parity.certificate_diff import SLACK, read_baseline, regressions


def certificate(
    *rows: dict[str, Any], drift: list[dict[str, Any]] | None = None, verdict: str = "pass"
) -> dict[str, Any]:
    return {"format": FORMAT, "verdict": verdict, "rows": list(rows), "drift": drift or []}


def row(
    ratio: float | None = 0.5,
    mean_ratio: float | None = 0.4,
    *,
    reach: float = 8.0,
    output: str = "image",
    passed: bool = True,
    batch: int = 1,
) -> dict[str, Any]:
    names = {"part": "decoder", "target": "onnx/CPUExecutionProvider", "setting": "all, 1 thread", "probe": "prior"}
    worst = {"ratio": ratio, "rounding": 2e-7, "band": reach * 2e-7}
    mean = {"mean_ratio": mean_ratio, "mean_rounding": 1e-8, "mean_band": reach * 1e-8}
    return {**names, "batch": batch, "output": output, **worst, **mean, "passed": passed}


def drift(**figures: object) -> list[dict[str, Any]]:
    names = {"part": "decoder", "target": "onnx+int8/CPUExecutionProvider"}
    return [{**names, "worst_levels": 12, "mean_levels": 0.3, "nats_high": 0.06, **figures}]


def test_what_is_equal_or_better_is_no_regression() -> None:
    assert regressions(certificate(row()), certificate(row())) == []
    assert regressions(certificate(row(0.5)), certificate(row(0.1))) == []
    assert regressions(certificate(row(0.5)), certificate(row(2.5))) == []
    assert regressions(certificate(row()), certificate(row(), row(0.9, output="more"))) == []


@pytest.mark.parametrize("reach", [8.0, 4.0, 2.0])
def test_the_slack_of_a_row_is_a_quarter_of_its_own_band(reach: float) -> None:
    before = certificate(row(0.5, 0.4, reach=reach))
    assert regressions(before, certificate(row(0.49 + SLACK * reach, 0.39 + SLACK * reach, reach=reach))) == []
    [line] = regressions(before, certificate(row(0.51 + SLACK * reach, reach=reach)))
    assert line.endswith(f"{0.51 + SLACK * reach:.3g} times PyTorch's rounding; was 0.5")
    [line] = regressions(before, certificate(row(0.5, 0.41 + SLACK * reach, reach=reach)))
    assert line.endswith(f"{0.41 + SLACK * reach:.3g} times PyTorch's mean rounding; was 0.4")


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (certificate(), "and 0 other rows: verified then, and not now"),
        (certificate(row(output="mean")), "verified then, and not now"),
        (certificate(row(batch=2)), "verified then, and not now"),
        (certificate(row(2.51)), "2.51 times PyTorch's rounding; was 0.5"),
        (certificate(row(0.5, None)), "inf times PyTorch's mean rounding; was 0.4"),
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
    ("figures", "said"),
    [
        ({"worst_levels": 15, "mean_levels": 0.5, "nats_high": 0.08}, None),  # a quarter, or less than a person sees
        ({"worst_levels": 3, "mean_levels": 0.01, "nats_high": -1.0}, None),
        ({"worst_levels": 16}, "16 grey levels at the worst pixel; was 12"),
        ({"mean_levels": 0.56}, "0.56 grey levels a pixel on average; was 0.3"),
        ({"nats_high": 0.09}, "0.09 nats an image, at most; was 0.06"),
        ({"nats_high": None}, "inf nats an image, at most; was 0.06"),
    ],
)
def test_a_file_that_costs_more_than_it_did_is_worse(figures: dict[str, Any], said: str | None) -> None:
    found = regressions(certificate(row(), drift=drift()), certificate(row(), drift=drift(**figures)))
    assert found == ([] if said is None else [f"decoder, onnx+int8/CPUExecutionProvider: {said}"])


def test_a_cost_that_is_no_longer_measured_is_worse() -> None:
    assert len(regressions(certificate(row(), drift=drift()), certificate(row()))) == 3
    unmeasured = drift(nats_high=None)
    assert regressions(certificate(row(), drift=unmeasured), certificate(row(), drift=drift())) == []


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
        (json.dumps(certificate({**row(), "rounding": 0})), "no rows"),
        (json.dumps({"format": FORMAT, "verdict": "pass", "rows": [row()]}), "costs that cannot be compared"),
        (json.dumps(certificate(row(), drift=drift(mean_levels="few"))), "costs that cannot be compared"),
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
