"""What a thorough certificate says that the verification about to replace it would not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.parity.small_exports import Subject
from vae_export.errors import UsageError
from vae_export.parity import Budget, Tolerance
from vae_export.parity.certificate_diff import weaker_points

ONNX = "onnx/CPUExecutionProvider"


def certificate(**others: Any) -> dict[str, Any]:
    plain = {"environment": {"thorough": True}, "rows": [{"target": ONNX}], "tolerance": None, "budget": None}
    return plain | others


def lost(subject: Subject, before: dict[str, Any], **given: Any) -> list[str]:
    usual = {"targets": None, "tolerance": None, "budget": None, "thorough": True}
    return weaker_points(before, subject.artifact.manifest, **(usual | given))


def test_nothing_is_lost_where_as_much_is_said(mlp: Subject) -> None:
    assert lost(mlp, certificate()) == []
    assert lost(mlp, certificate(), targets=["onnx+fp32/CPUExecutionProvider"]) == [], "another name of the same"
    narrow = certificate(tolerance={"atol": 1e-3, "rtol": 0.0}, budget={"max_nats": 0.1, "max_grey_levels": None})
    assert lost(mlp, narrow, tolerance=Tolerance(1e-4), budget=Budget(max_nats=0.05, max_grey_levels=3)) == []


@pytest.mark.parametrize(
    ("before", "given", "said"),
    [
        ({}, {"thorough": False}, "--quick"),
        ({"rows": [{"target": ONNX}, {"target": "onnx/CUDAExecutionProvider"}]}, {}, "not on onnx/CUDA"),
        ({}, {"tolerance": Tolerance(1e-9)}, "in place of the measured band"),
        ({"tolerance": {"atol": 1e-3, "rtol": 0}}, {"tolerance": Tolerance(1)}, "wider band than atol 0.001, rtol 0"),
        ({"budget": {"max_nats": 0.1, "max_grey_levels": None}}, {}, "without --max-nats 0.1"),
        (
            {"budget": {"max_nats": None, "max_grey_levels": 2}},
            {"budget": Budget(max_grey_levels=3)},
            "without --max-grey-levels 2",
        ),
    ],
)
def test_what_is_lost_is_named(mlp: Subject, before: dict[str, Any], given: dict[str, Any], said: str) -> None:
    (line,) = lost(mlp, certificate(**before), **given)
    assert said in line


def test_what_was_said_of_files_that_are_gone_is_no_loss(mlp: Subject) -> None:
    gone = certificate(rows=[{"target": ONNX}, {"target": "onnx+int8/CPUExecutionProvider"}])
    assert lost(mlp, gone) == []


@pytest.mark.parametrize("before", [{}, {"environment": 1}, certificate(rows=[1]), certificate(budget=7)])
def test_what_nobody_could_rely_on_may_be_replaced(mlp: Subject, before: dict[str, Any]) -> None:
    assert lost(mlp, before, thorough=False) == []


def test_a_target_that_no_file_has_is_refused_whatever_is_there(mlp: Subject) -> None:
    with pytest.raises(UsageError, match="no file for this target"):
        lost(mlp, {}, targets=["onnyx/cpu"])
