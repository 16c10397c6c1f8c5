"""Comparisons of single outputs: faults come before values, and verdicts fail closed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parity.conftest import examples
from vae_export import Certificate
from vae_export.parity import CaseResult
from vae_export.parity.compare import Comparison, compare_arrays, compare_output, loose_tolerances
from vae_export.parity.reproduction import Reproduction
from vae_export.parity.tolerance import ErrorLimits
from vae_export.session_options import SessionOptions
from vae_export.tensors import TensorSpec

LATENT = TensorSpec("mean", (4,))
IMAGE = TensorSpec("image", (1, 2, 2), 0.0, 1.0)
EAGER = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
EXACT = EAGER.astype(np.float64)
ONNX = "onnx/CPUExecutionProvider"


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
def test_fault_is_named_and_leaves_no_figures(value: object, fault: str) -> None:
    result = of_latent(value)
    assert (result.fault or "").startswith(fault)
    assert replace(result, fault=None) == Comparison()


def test_nan_is_a_fault_even_where_pytorch_gives_nan() -> None:
    nan = np.full((3, 4), np.nan, np.float32)
    assert (compare_output(nan, LATENT, nan, nan.astype(np.float64), 1.0, 1.0).fault or "").startswith("not finite")


@examples
@given(st.integers(0, 2), st.integers(0, 3), st.floats(0.01, 10))
def test_worst_index_is_where_the_error_is(row: int, unit: int, size: float) -> None:
    value = EAGER.copy()
    value[row, unit] += np.float32(size)
    result = of_latent(value)
    assert result.worst_index == (row, unit)
    assert result.max_abs == result.error == pytest.approx(size, rel=1e-4)
    assert result.mean_abs == result.mean_error == pytest.approx(size / 12, rel=1e-4)
    assert result.ulps == pytest.approx(size * 2**23, rel=1e-4)
    assert result.grey is None


def test_equal_outputs_have_no_error() -> None:
    assert of_latent(EAGER.copy()) == Comparison(0.0, 0.0, (0, 0), 0.0, 0.0, mean_error=0.0)


def test_image_output_has_grey_levels() -> None:
    exact = np.full((2, 1, 2, 2), 0.5)
    eager = exact.astype(np.float32)
    result = compare_output(eager + np.float32(0.1), IMAGE, eager, exact, 1e-6, 1.0)
    assert result.grey is not None
    assert result.grey.unexplained == 8


def test_comparison_does_not_broadcast() -> None:
    assert of_latent(np.ascontiguousarray(np.broadcast_to(EAGER[:1], EAGER.shape))).error == EXACT.max() - EXACT[0, 3]
    assert compare_arrays(EXACT, EAGER, EXACT, 1.0).error == 0


floats = st.floats(allow_nan=True, allow_infinity=True)
positive = st.floats(0, 1e30)


@given(
    st.one_of(st.none(), floats),
    st.one_of(st.none(), st.just("fault")),
    st.builds(ErrorLimits, eager_error=positive, sensitivity=positive, magnitude=positive),
)
def test_only_finite_error_within_tolerance_passes(error: float | None, fault: str | None, scale: ErrorLimits) -> None:
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
    assert Certificate({}, 1, (row,), reproductions=(Reproduction("decoder.onnx", "reproduced"),)).passed == good


def measured(value: object, spec: TensorSpec, eager: np.ndarray) -> Comparison:
    return compare_output(value, spec, eager, eager.astype(float), tolerance=1e30, magnitude=1.0)


@given(st.integers(0, 11), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_value_that_is_not_finite_never_passes(index: int, bad: float) -> None:
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


def test_tolerance_wider_than_the_range_is_a_warning() -> None:
    scale = ErrorLimits(
        0.5, 0.4, 1.0, precision="int4-weights", eager_mean_error=0.02, mean_sensitivity=0.01, value_range=1.0
    )
    measure = Comparison(error=0.9, mean_error=0.01)
    row = CaseResult(
        "decoder",
        "onnx+int4-weights/CPUExecutionProvider",
        SessionOptions(threads=1),
        "prior",
        1,
        "image",
        measure,
        scale,
    )
    assert list(loose_tolerances([row])) == []  # as wide as the range, so a completely wrong image still fails
    wide = replace(row, limits=replace(scale, eager_error=0.6))
    [found] = loose_tolerances([row, wide, replace(wide, probe="data"), replace(wide, probe="data", batch=2)])
    assert (found.rule, found.severity) == ("loose-band", "warning")
    assert found.where == "decoder on onnx+int4-weights/CPUExecutionProvider, 'image'"
    said = "errors up to 1.2 pass in a range of 1, so that only the mean error can fail, beyond 0.04"
    assert found.detail == f"probes prior, data: {said}"
    [found] = loose_tolerances([replace(wide, limits=replace(wide.limits, eager_mean_error=0.6))])
    assert found.line().endswith("so that no figure of it can fail")
    assert (
        list(loose_tolerances([replace(wide, limits=replace(wide.limits, value_range=np.inf))])) == []
    )  # a latent has no range
