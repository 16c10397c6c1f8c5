"""Figures, bands and verdicts of single rows, for any numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vae_export import Certificate
from vae_export.contract import TensorSpec
from vae_export.parity import CaseResult
from vae_export.parity.compare import Comparison, compare_output
from vae_export.parity.tolerance import FP32_TOLERANCE_FACTOR, ErrorLimits
from vae_export.session_options import SessionOptions

ONNX = "onnx/CPUExecutionProvider"


def measured(value: object, spec: TensorSpec, eager: np.ndarray) -> Comparison:
    return compare_output(value, spec, eager, eager.astype(float), tolerance=1e30, magnitude=1.0)


floats = st.floats(allow_nan=True, allow_infinity=True)
positive = st.floats(0, 1e30)


@given(
    st.one_of(st.none(), floats),
    st.one_of(st.none(), st.just("fault")),
    st.builds(ErrorLimits, eager_error=positive, sensitivity=positive, magnitude=positive),
)
def test_only_a_finite_error_within_the_band_passes(error: float | None, fault: str | None, scale: ErrorLimits) -> None:
    row = CaseResult(
        "decoder",
        ONNX,
        SessionOptions(threads=1),
        "prior",
        1,
        "image",
        Comparison(error=error, fault=fault, mean_error=error),
        scale,
    )
    good = fault is None and error is not None and math.isfinite(error) and error <= scale.tolerance()
    assert row.passed == good
    assert Certificate({}, 1, (row,)).passed == good


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_the_band_is_a_few_roundings_and_never_zero(eager: float, sensitivity: float, magnitude: float) -> None:
    band = ErrorLimits(eager, sensitivity, magnitude).tolerance()
    assert 0 < band <= FP32_TOLERANCE_FACTOR * max(eager, sensitivity, 2**-23)


@given(st.integers(0, 11), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_a_value_that_is_not_finite_never_passes(index: int, bad: float) -> None:
    spec, eager = TensorSpec("image", (1, 2, 2)), np.zeros((3, 1, 2, 2), np.float32)
    value = eager.copy()
    value.flat[index] = bad
    huge = ErrorLimits(1e30, 1e30, 1e30)
    bad_row, good_row = (
        CaseResult("decoder", ONNX, SessionOptions(threads=1), "zeros", 3, "image", measured(array, spec, eager), huge)
        for array in (value, eager)
    )
    assert not bad_row.passed
    assert good_row.passed


@given(st.integers(0, 11), st.floats(0.125, 1024, width=32))
def test_figures_are_those_of_the_worst_element(index: int, off: float) -> None:
    spec, eager = TensorSpec("image", (1, 2, 2)), np.zeros((3, 1, 2, 2), np.float32)
    value = eager.copy()
    value.flat[index] = -off
    found = measured(value, spec, eager)
    assert (found.max_abs, found.error) == (off, off)
    assert found.mean_abs == pytest.approx(off / 12)
    assert found.worst_index == np.unravel_index(index, eager.shape)


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((1, 1, 2, 2), np.float32),  # numpy would broadcast it
        np.zeros((3, 4), np.float32),
        np.zeros((3, 1, 2, 2), np.float64),
        np.zeros((3, 1, 2, 2), ">f4"),
        [0.0],
        None,
    ],
)
def test_shape_and_dtype_come_before_values(value: object) -> None:
    eager = np.zeros((3, 1, 2, 2), np.float32)
    found = measured(value, TensorSpec("image", (1, 2, 2)), eager)
    assert found.fault is not None
    assert found.error is None
