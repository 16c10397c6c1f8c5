"""Tolerances are a multiple of what rounding explains, or what the user sets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parity.conftest import examples
from vae_export.errors import UsageError
from vae_export.parity.tolerance import FP32_TOLERANCE_FACTOR, ErrorLimits, Tolerance
from vae_export.precision import FULL, PRECISIONS, PrecisionName

positive = st.floats(1e-12, 1e6)


@examples
@given(positive, positive, positive)
def test_tolerance_is_a_multiple_of_error_sensitivity_or_ulp(
    error: float, sensitivity: float, magnitude: float
) -> None:
    limits = ErrorLimits(error, sensitivity, magnitude)
    ulp = float(np.spacing(np.float32(magnitude)))
    assert (
        limits.tolerance()
        == FP32_TOLERANCE_FACTOR * max(error, sensitivity, ulp)
        == FP32_TOLERANCE_FACTOR * limits.baseline_error
    )
    assert limits.tolerance(tf32=True) >= limits.tolerance()
    assert limits.tolerance(tf32=True) == FP32_TOLERANCE_FACTOR * max(limits.baseline_error, sensitivity * 2**13)


@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != FULL])
def test_tf32_does_not_widen_tolerances_of_lower_precisions(precision: PrecisionName) -> None:
    limits = ErrorLimits(1e-3, 2e-3, 1.0, precision=precision)
    assert limits.tolerance(tf32=True) == limits.tolerance()


@examples
@given(positive, positive, st.floats(0, 1), st.floats(0, 1))
def test_user_tolerance_replaces_the_measured_one(error: float, magnitude: float, atol: float, rtol: float) -> None:
    limits = ErrorLimits(error, error, magnitude, Tolerance(atol, rtol))
    assert limits.tolerance() == limits.tolerance(tf32=True) == atol + rtol * magnitude


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["atol", "rtol"])
def test_negative_or_infinite_tolerance_is_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"bad {name}"):
        Tolerance(**{name: value})


def test_numbers_that_an_engine_flushes_to_zero_do_not_fail_nearly_silent_data() -> None:
    smallest = float(np.finfo(np.float32).smallest_normal)
    assert ErrorLimits(0.0, 0.0, smallest).tolerance() > 512 * smallest
    assert ErrorLimits(0.0, 0.0, 1e-20).tolerance() < 1e-25
