"""The mean error of a row: what the worst number of few bits hides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.parity.small_exports import Subject, onnx_data, verify_as
from vae_export.parity import CaseResult, Certificate
from vae_export.parity.compare import Comparison, loose_tolerances
from vae_export.parity.oracle import Sensitivity
from vae_export.parity.probes import TYPICAL_PROBES
from vae_export.parity.tolerance import ErrorLimits
from vae_export.precision import PrecisionName
from vae_export.session_options import SessionOptions


@pytest.mark.parametrize(("precision", "shift"), [("int8", 0.05), ("int4-weights", 0.3)])
def test_a_shift_of_every_pixel_within_the_band_of_the_worst_is_found(
    mlp: Subject, tmp_path: Path, precision: PrecisionName, shift: float
) -> None:
    """A bias that is off: no pixel is further away than few bits may be, but none is nearer either."""
    model = onnx.load_from_string(onnx_data(mlp, "decoder", precision))
    [bias] = [tensor for tensor in model.graph.initializer if tensor.name == "decoder.body.4.bias"]
    array = numpy_helper.to_array(bias)
    bias.CopyFrom(numpy_helper.from_array(array + np.float32(shift), bias.name))
    certificate = verify_as(mlp, tmp_path / "export", model.SerializeToString(), precision)
    assert isinstance(certificate, Certificate)
    rows = [row for row in certificate.failures if row.probe in TYPICAL_PROBES]
    assert rows
    for row in rows:
        assert row.comparison.error is not None
        assert row.comparison.mean_error is not None
        assert row.comparison.error <= row.tolerance
        assert row.comparison.mean_error > row.mean_tolerance
        assert f"mean error {row.comparison.mean_error:.3g}, {row.mean_tolerance:.3g} allowed" in row.reason


def test_a_band_wider_than_the_range_is_named_and_not_passed_over() -> None:
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
    assert list(loose_tolerances([row])) == []  # as wide as the range: an image that is all wrong still misses it
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


def test_a_mean_counts_the_farther_of_there_and_back() -> None:
    moves = Sensitivity()
    moves.add(np.array([[1.0, 0.0], [0.0, 0.0]]), 0, (1, 2))
    moves.add(np.array([[0.0, 3.0], [0.0, 0.0]]), 1, (1, 2))
    assert (moves.worst, moves.mean) == (3.0, 2.0)  # of the first row alone; of both it is 1
    moves.add(np.array([[0.0, 0.0], [np.nan, 0.0]]), 2, (1,))
    moves.add(np.array([[0.0, 0.0], [0.0, 0.0]]), 3, (1,))
    assert (moves.worst, moves.mean) == (np.inf, 2.0)
