"""Faults come before values, and a band is what rounding explains or what the user says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parity.conftest import examples
from vae_export.contract import TensorSpec
from vae_export.errors import UsageError
from vae_export.parity.compare import Comparison, compare_arrays, compare_output
from vae_export.parity.tolerance import FP32_TOLERANCE_FACTOR, ErrorLimits, Tolerance
from vae_export.precision import FULL, PRECISIONS, PrecisionName

LATENT = TensorSpec("mean", (4,))
IMAGE = TensorSpec("image", (1, 2, 2), 0.0, 1.0)
EAGER = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
EXACT = EAGER.astype(np.float64)


def of_latent(value: object) -> Comparison:
    return compare_output(value, LATENT, EAGER, EXACT, 1e-6, 1.0)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (EAGER.tolist(), "not an array"),
        (None, "not an array"),
        (EXACT, "wrong dtype"),
        (EAGER.astype(np.float16), "wrong dtype"),
        (EAGER.astype(">f4"), "wrong dtype"),
        (EAGER.astype(np.int64), "wrong dtype"),
        (EAGER[:1], "wrong shape"),
        (EAGER[0], "wrong shape"),
        (EAGER[..., None], "wrong shape"),
        (EAGER.T, "wrong shape"),
        (EAGER[:0], "wrong shape"),
        (np.where(EAGER > 0.9, np.float32(np.nan), EAGER), "not finite: tensor 'mean' at (2, 3)"),
        (np.where(EAGER < -0.9, np.float32(np.inf), EAGER), "not finite: tensor 'mean' at (0, 0)"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_fault_is_named_and_leaves_no_figures(value: object, fault: str) -> None:
    result = of_latent(value)
    assert (result.fault or "").startswith(fault)
    assert replace(result, fault=None) == Comparison()


def test_nan_is_a_fault_even_where_pytorch_gives_nan() -> None:
    nan = np.full((3, 4), np.nan, np.float32)
    assert (compare_output(nan, LATENT, nan, nan.astype(np.float64), 1.0, 1.0).fault or "").startswith("not finite")


@examples
@given(st.integers(0, 2), st.integers(0, 3), st.floats(0.01, 10))
def test_the_worst_index_is_where_the_error_is(row: int, unit: int, size: float) -> None:
    value = EAGER.copy()
    value[row, unit] += np.float32(size)
    result = of_latent(value)
    assert result.worst_index == (row, unit)
    assert result.max_abs == result.error == pytest.approx(size, rel=1e-4)
    assert result.mean_abs == result.mean_error == pytest.approx(size / 12, rel=1e-4)
    assert result.ulps == pytest.approx(size * 2**23, rel=1e-4)
    assert result.grey is None


def test_what_is_equal_has_no_error() -> None:
    assert of_latent(EAGER.copy()) == Comparison(0.0, 0.0, (0, 0), 0.0, 0.0, mean_error=0.0)


def test_an_image_has_grey_levels() -> None:
    exact = np.full((2, 1, 2, 2), 0.5)
    eager = exact.astype(np.float32)
    result = compare_output(eager + np.float32(0.1), IMAGE, eager, exact, 1e-6, 1.0)
    assert result.grey is not None
    assert result.grey.unexplained == 8


def test_figures_do_not_broadcast_by_accident() -> None:
    assert of_latent(np.ascontiguousarray(np.broadcast_to(EAGER[:1], EAGER.shape))).error == EXACT.max() - EXACT[0, 3]
    assert compare_arrays(EXACT, EAGER, EXACT, 1.0).error == 0


positive = st.floats(1e-12, 1e6)


@examples
@given(positive, positive, positive)
def test_a_band_is_a_few_times_the_largest_of_error_sensitivity_and_ulp(
    error: float, sensitivity: float, magnitude: float
) -> None:
    scale = ErrorLimits(error, sensitivity, magnitude)
    ulp = float(np.spacing(np.float32(magnitude)))
    assert (
        scale.tolerance()
        == FP32_TOLERANCE_FACTOR * max(error, sensitivity, ulp)
        == FP32_TOLERANCE_FACTOR * scale.baseline_error
    )
    assert scale.tolerance(tf32=True) >= scale.tolerance()
    assert scale.tolerance(tf32=True) == FP32_TOLERANCE_FACTOR * max(scale.baseline_error, sensitivity * 2**13)


@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != FULL])
def test_tf32_does_not_widen_the_band_of_numbers_that_are_no_finer(precision: PrecisionName) -> None:
    scale = ErrorLimits(1e-3, 2e-3, 1.0, precision=precision)
    assert scale.tolerance(tf32=True) == scale.tolerance()


@examples
@given(positive, positive, st.floats(0, 1), st.floats(0, 1))
def test_a_tolerance_takes_the_place_of_the_band(error: float, magnitude: float, atol: float, rtol: float) -> None:
    scale = ErrorLimits(error, error, magnitude, Tolerance(atol, rtol))
    assert scale.tolerance() == scale.tolerance(tf32=True) == atol + rtol * magnitude


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["atol", "rtol"])
def test_a_tolerance_that_makes_no_sense_is_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"bad {name}"):
        Tolerance(**{name: value})
