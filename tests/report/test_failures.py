"""The page shows prominently what failed, what was left out and what did not run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.report.sample_certificates import UNIT, certificate, read, result
from vae_export.formats.base import Finding
from vae_export.parity.compare import Comparison
from vae_export.parity.onnx_debug import NodeMismatch
from vae_export.parity.tolerance import ErrorLimits, Tolerance


def test_failures_come_first_with_the_first_wrong_node() -> None:
    divergence = NodeMismatch("node_linear (Gemm)", "linear", (0, 3), -0.0886168, -0.0786167, 0.01, 3.5e-6)
    failed = result(ratio=12345.0)
    page = read(certificate((result(ratio=0.5), failed), node_mismatches={"decoder.onnx": divergence}))
    assert page.text.startswith("Fail")
    assert "1 comparison of 2 failed" in page.text
    for said in ("node_linear (Gemm)", "-0.0886168", "-0.0786167", failed.reason):
        assert said in page.text
    assert page.text.index("What failed") < page.text.index(failed.reason) < page.text.index("What was compared")


def test_rows_without_figures_are_shown_as_failures() -> None:
    broken = result(comparison=Comparison(fault="not finite: tensor 'image' at (0, 1)"), ratio=1)
    page = read(certificate((broken, result("metric", "iwae_nll", comparison=Comparison(fault="not finite")))))
    assert page.text.startswith("Fail")
    assert "not finite: tensor 'image' at (0, 1)" in page.text


@pytest.mark.parametrize(
    "scale", [ErrorLimits(np.inf, UNIT, 1.0), ErrorLimits(np.nan, UNIT, np.inf), ErrorLimits(UNIT, UNIT, 0.0)]
)
def test_page_renders_with_infinite_nan_or_zero_limits(scale: ErrorLimits) -> None:
    with np.errstate(all="ignore"):
        assert "Fail" in read(certificate((result(ratio=1e9, limits=scale),))).text[:6]


def test_exact_row_passes_with_zero_tolerance() -> None:
    exact = result(ratio=0.0, limits=ErrorLimits(UNIT, UNIT, 1.0, Tolerance()))
    page = read(certificate((exact,)))
    assert page.text.startswith("Pass")
    assert "the user’s own tolerance" in page.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"results": (), "planned": 0, "error_maps": {}}, "Nothing was compared"),
        ({"planned": 9}, "4 comparisons of 9 planned were not made"),
        ({"planned": 1}, "4 comparisons more than planned"),
        ({"findings": (Finding("random-operator", "error", "decoder.onnx", "RandomNormal"),)}, "showed 1 error"),
    ],
    ids=["empty", "incomplete", "too many", "finding"],
)
def test_page_says_why_a_certificate_without_failed_rows_fails(changes: dict[str, Any], said: str) -> None:
    page = read(certificate(**changes))
    assert page.text.startswith("Fail")
    assert said in page.text


def test_targets_and_files_that_did_not_run_are_named() -> None:
    whole = certificate(unusable={"onnx/CUDAExecutionProvider": "provider not found"})
    page = read(replace(whole, files={"encoder.onnx": "f" * 64, "other.onnx": "0" * 64}))
    for said in (
        "provider not found",
        "not verified",
        "another file was run",
        "not run here",
        "not in the manifest",
    ):
        assert said in page.text


def test_gaps_are_listed_near_the_top_of_the_page() -> None:
    assert "Not everything was verified" not in read(certificate()).text
    gaps: dict[str, Any] = {
        "not_verified": ("decoder.pt2",),
        "nats_not_compared": "no target ran both",
        "unusable": {"onnx/toaster": "not there"},
    }
    page = read(certificate(**gaps))
    assert page.text.startswith("Pass")
    assert "Not everything was verified" in page.text[:400]
    for said in ("decoder.pt2: no target of this verification runs it", "nats: no target ran both", "not there"):
        assert said in page.text
