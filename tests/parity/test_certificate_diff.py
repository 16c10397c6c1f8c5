"""Regressions against a baseline, and what a thorough certificate would lose to a weaker verification."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.parity.small_exports import Subject
from vae_export.artifact.certificate import CERTIFICATE_FORMAT
from vae_export.errors import InputError, UsageError
from vae_export.parity import Budget, Tolerance
from vae_export.parity.certificate_diff import SLACK, read_baseline, regressions, weaker_points

ONNX = "onnx/CPUExecutionProvider"


def certificate(
    *rows: dict[str, Any], degradations: list[dict[str, Any]] | None = None, verdict: str = "pass"
) -> dict[str, Any]:
    return {"format": CERTIFICATE_FORMAT, "verdict": verdict, "rows": list(rows), "drift": degradations or []}


def row(
    ratio: float | None = 0.5,
    mean_ratio: float | None = 0.4,
    *,
    factor: float = 8.0,
    output: str = "image",
    passed: bool = True,
    batch: int = 1,
) -> dict[str, Any]:
    names = {"part": "decoder", "target": "onnx/CPUExecutionProvider", "setting": "all, 1 thread", "probe": "prior"}
    worst = {"ratio": ratio, "rounding": 2e-7, "band": factor * 2e-7}
    mean = {"mean_ratio": mean_ratio, "mean_rounding": 1e-8, "mean_band": factor * 1e-8}
    return {**names, "batch": batch, "output": output, **worst, **mean, "passed": passed}


def degradation(**figures: object) -> list[dict[str, Any]]:
    names = {"part": "decoder", "target": "onnx+int8/CPUExecutionProvider"}
    return [{**names, "worst_levels": 12, "mean_levels": 0.3, "nats_high": 0.06, **figures}]


def test_equal_or_better_certificate_has_no_regressions() -> None:
    assert regressions(certificate(row()), certificate(row())) == []
    assert regressions(certificate(row(0.5)), certificate(row(0.1))) == []
    assert regressions(certificate(row(0.5)), certificate(row(2.5))) == []
    assert regressions(certificate(row()), certificate(row(), row(0.9, output="more"))) == []


@pytest.mark.parametrize("factor", [8.0, 4.0, 2.0])
def test_error_may_grow_by_a_quarter_of_its_tolerance(factor: float) -> None:
    before = certificate(row(0.5, 0.4, factor=factor))
    assert regressions(before, certificate(row(0.49 + SLACK * factor, 0.39 + SLACK * factor, factor=factor))) == []
    [line] = regressions(before, certificate(row(0.51 + SLACK * factor, factor=factor)))
    assert line.endswith(f"{0.51 + SLACK * factor:.3g} times PyTorch's baseline error; was 0.5")
    [line] = regressions(before, certificate(row(0.5, 0.41 + SLACK * factor, factor=factor)))
    assert line.endswith(f"{0.41 + SLACK * factor:.3g} times PyTorch's mean baseline error; was 0.4")


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (certificate(), ": compared then, and not now"),
        (certificate(row(output="mean")), ": compared then, and not now"),
        (certificate(row(batch=2)), ": compared then, and not now"),
        (certificate(row(2.51)), "2.51 times PyTorch's baseline error; was 0.5"),
        (certificate(row(0.5, None)), "inf times PyTorch's mean baseline error; was 0.4"),
        (certificate(row(9.0, passed=False)), "failed, at 9 times PyTorch's baseline error; was 0.5"),
        (certificate(row(None, passed=False)), "failed, at inf times PyTorch's baseline error"),
        (certificate(row(0.5, passed=False)), "failed, at 0.5 times PyTorch's baseline error"),
        (certificate(row(None)), "inf times PyTorch's baseline error"),
    ],
)
def test_each_regression_is_one_line(now: dict[str, Any], said: str) -> None:
    [line] = regressions(certificate(row()), now)
    assert line.startswith("decoder, onnx/CPUExecutionProvider, all, 1 thread, prior, 1, image")
    assert said in line


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"worst_levels": 15, "mean_levels": 0.5, "nats_high": 0.08}, None),  # within a quarter, or too small to see
        ({"worst_levels": 3, "mean_levels": 0.01, "nats_high": -1.0}, None),
        ({"worst_levels": 16}, "16 grey levels at the worst pixel; was 12"),
        ({"mean_levels": 0.56}, "0.56 grey levels a pixel on average; was 0.3"),
        ({"nats_high": 0.09}, "0.09 nats an image, at most; was 0.06"),
        ({"nats_high": None}, "inf nats an image, at most; was 0.06"),
    ],
)
def test_larger_degradation_is_a_regression(figures: dict[str, Any], said: str | None) -> None:
    found = regressions(
        certificate(row(), degradations=degradation()), certificate(row(), degradations=degradation(**figures))
    )
    assert found == ([] if said is None else [f"decoder, onnx+int8/CPUExecutionProvider: {said}"])


def test_degradation_no_longer_measured_is_a_regression() -> None:
    assert len(regressions(certificate(row(), degradations=degradation()), certificate(row()))) == 3
    unmeasured = degradation(nats_high=None)
    assert (
        regressions(certificate(row(), degradations=unmeasured), certificate(row(), degradations=degradation())) == []
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", "cannot be read: .*, got no JSON: "),
        ("[" * 100_000, "cannot be read"),
        ("[]", "of another version"),
        ('{"format": "vae-export-certificate/0"}', "of another version"),
        (json.dumps(certificate(row(), verdict="fail")), "did not pass"),
        (json.dumps(certificate()), "no comparisons"),
        (json.dumps(certificate(row(None))), "no comparisons"),
        (json.dumps(certificate({"part": "decoder"})), "no comparisons"),
        (
            json.dumps({"format": CERTIFICATE_FORMAT, "verdict": "pass"}),
            "no comparisons.*; pass the file that .*--rows",
        ),
        (json.dumps(certificate({**row(), "rounding": 0})), "no comparisons"),
        (json.dumps({"format": CERTIFICATE_FORMAT, "verdict": "pass", "rows": [row()]}), "no degradations"),
        (json.dumps(certificate(row(), degradations=degradation(mean_levels="few"))), "no degradations"),
    ],
)
def test_read_baseline_refuses_all_but_passed_certificates(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "certificate.json"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match=error):
        read_baseline(path)


def test_passed_certificate_is_a_baseline(tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(certificate(row())), "utf-8")
    assert read_baseline(path) == certificate(row())
    with pytest.raises(InputError, match="cannot be read"):
        read_baseline(tmp_path / "none.json")


def test_missing_comparisons_are_counted() -> None:
    before = certificate(row(), row(output="mean"), row(output="logvar"))
    [line] = regressions(before, certificate(row()))
    assert line.endswith("mean and 1 other: compared then, and not now")
    [line] = regressions(before, certificate())
    assert line.endswith("image and 2 others: compared then, and not now")


def thorough_certificate(**others: Any) -> dict[str, Any]:
    plain = {"environment": {"thorough": True}, "rows": [{"target": ONNX}], "tolerance": None, "budget": None}
    return plain | others


def weaker(subject: Subject, before: dict[str, Any], **given: Any) -> list[str]:
    usual = {"targets": None, "tolerance": None, "budget": None, "thorough": True}
    return weaker_points(before, subject.artifact.manifest, **(usual | given))


def test_equal_verification_is_not_weaker(mlp: Subject) -> None:
    assert weaker(mlp, thorough_certificate()) == []
    assert weaker(mlp, thorough_certificate(), targets=["onnx+fp32/CPUExecutionProvider"]) == [], (
        "another name of the same"
    )
    narrow = thorough_certificate(
        tolerance={"atol": 1e-3, "rtol": 0.0}, budget={"max_nats": 0.1, "max_grey_levels": None}
    )
    assert weaker(mlp, narrow, tolerance=Tolerance(1e-4), budget=Budget(max_nats=0.05, max_grey_levels=3)) == []


@pytest.mark.parametrize(
    ("before", "given", "said"),
    [
        ({}, {"thorough": False}, "fewer test cases"),
        ({"rows": [{"target": ONNX}, {"target": "onnx/CUDAExecutionProvider"}]}, {}, "not on onnx/CUDA"),
        ({}, {"tolerance": Tolerance(1e-9)}, "in place of the measured tolerance"),
        (
            {"tolerance": {"atol": 1e-3, "rtol": 0}},
            {"tolerance": Tolerance(1)},
            "wider tolerance than atol 0.001, rtol 0",
        ),
        ({"budget": {"max_nats": 0.1, "max_grey_levels": None}}, {}, "without --max-nats 0.1"),
        (
            {"budget": {"max_nats": None, "max_grey_levels": 2}},
            {"budget": Budget(max_grey_levels=3)},
            "without --max-grey-levels 2",
        ),
    ],
)
def test_weaker_point_is_named(mlp: Subject, before: dict[str, Any], given: dict[str, Any], said: str) -> None:
    (line,) = weaker(mlp, thorough_certificate(**before), **given)
    assert said in line


def test_results_of_removed_files_are_no_loss(mlp: Subject) -> None:
    gone = thorough_certificate(rows=[{"target": ONNX}, {"target": "onnx+int8/CPUExecutionProvider"}])
    assert weaker(mlp, gone) == []


@pytest.mark.parametrize(
    "before", [{}, {"environment": 1}, thorough_certificate(rows=[1]), thorough_certificate(budget=7)]
)
def test_unreadable_certificate_may_be_replaced(mlp: Subject, before: dict[str, Any]) -> None:
    assert weaker(mlp, before, thorough=False) == []


def test_target_without_a_file_is_refused(mlp: Subject) -> None:
    with pytest.raises(UsageError, match="no file for this target"):
        weaker(mlp, {}, targets=["onnyx/cpu"])
