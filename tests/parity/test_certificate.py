"""A certificate fails closed: whatever is missing or is no number means "fail"."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vae_export import Contract, Source, export
from vae_export.errors import ModelError, ParityError
from vae_export.findings import Finding
from vae_export.formats import Setting
from vae_export.parity.certificate import Certificate, Row
from vae_export.parity.divergence import Divergence
from vae_export.parity.grey import GreyLevels
from vae_export.parity.measure import Measure, Scale, Tolerance

GOOD = Measure(1e-7, 1e-8, (0, 0), 1e-7, 1.0)
ROW = Row("decoder", "onnx/CPUExecutionProvider", Setting(), "prior", 2, "image", GOOD, Scale(1e-7, 1e-7, 1.0))
PASSED = Certificate({"decoder.onnx": "0" * 64}, 1, (ROW,))


def with_error(error: float | None) -> Row:
    return replace(ROW, measure=replace(GOOD, error=error))


def test_one_row_within_its_band_passes() -> None:
    assert PASSED.passed
    PASSED.require()


FAILING = {
    "no rows": replace(PASSED, rows=(), planned=0),
    "a row is missing": replace(PASSED, planned=2),
    "a row too many": replace(PASSED, planned=0),
    "an error": replace(PASSED, findings=(Finding("dropout", "error", "decoder.onnx", "left"),)),
    "beyond the band": replace(PASSED, rows=(with_error(ROW.band * 1.01),)),
    "NaN": replace(PASSED, rows=(with_error(math.nan),)),
    "infinite": replace(PASSED, rows=(with_error(math.inf),)),
    "no figure": replace(PASSED, rows=(with_error(None),)),
    "a fault": replace(PASSED, rows=(replace(ROW, measure=replace(GOOD, fault="wrong shape")),)),
    "a grey level": replace(PASSED, rows=(replace(ROW, measure=replace(GOOD, grey=GreyLevels(1, 1, 1))),)),
    "no measure": replace(PASSED, rows=(replace(ROW, measure=Measure()),)),
    "a band that is NaN": replace(PASSED, rows=(replace(ROW, scale=Scale(math.nan, 1e-7, 1.0)),)),
    "a band that is infinite": replace(PASSED, rows=(replace(ROW, scale=Scale(math.inf, 1e-7, 1.0)),)),
    "one of two": replace(PASSED, rows=(ROW, with_error(1.0)), planned=2),
    "a tolerance of zero": replace(PASSED, rows=(replace(ROW, scale=Scale(1e-7, 1e-7, 1.0, Tolerance())),)),
}


@pytest.mark.parametrize("name", FAILING)
def test_it_fails_and_says_why_and_can_be_written(name: str, tmp_path: Path) -> None:
    certificate = FAILING[name]
    assert not certificate.passed
    with pytest.raises(ParityError):
        certificate.require()
    certificate.write(tmp_path / "certificate.json")
    assert json.loads((tmp_path / "certificate.json").read_text("utf-8"))["verdict"] == "fail"


def test_a_warning_and_an_explained_pixel_do_no_harm() -> None:
    warned = replace(PASSED, findings=(Finding("unused-initialiser", "warning", "decoder.onnx", "x"),))
    assert warned.passed
    assert replace(PASSED, rows=(replace(ROW, measure=replace(GOOD, grey=GreyLevels(3, 0, 1))),)).passed


def test_the_message_names_the_worst_row() -> None:
    rows = (with_error(1.0), replace(with_error(2.0), probe="six-sigma"), ROW)
    divergence = Divergence("node_linear (Gemm)", "linear", (0, 1), 1.0, 2.0, 1.0, 1e-6)
    certificate = replace(PASSED, rows=rows, planned=3, divergences={"decoder.onnx": divergence})
    with pytest.raises(ParityError, match=r"2 of 3 comparisons failed: .* probe six-sigma, "):
        certificate.require()
    with pytest.raises(ParityError, match="dropout"):
        FAILING["an error"].require()
    with pytest.raises(ParityError, match=r"not everything was verified; expected 2 rows, got 1"):
        FAILING["a row is missing"].require()


def test_a_divergence_that_is_nan_can_be_written(tmp_path: Path) -> None:
    divergence = Divergence("n (Gemm)", "linear", (0,), math.nan, 1.0, math.nan, 1e-6)
    certificate = replace(FAILING["a fault"], divergences={"decoder.onnx": divergence})
    certificate.write(tmp_path / "c.json")
    said = json.loads((tmp_path / "c.json").read_text("utf-8"))["divergences"]["decoder.onnx"]
    assert (said["exported"], said["expected"]) == ("nan", 1.0)


class Overflows(nn.Module):
    """Finite in float64, infinite in float32."""

    def forward(self, latent: Tensor) -> Tensor:
        grown = (latent.abs() + 1) * 1e30 * 1e30
        return torch.cat([grown, grown], 1).unflatten(1, (1, 2, 2))


def test_where_pytorch_itself_overflows_nothing_passes(tmp_path: Path) -> None:
    """Its own error is infinite there, and must not become an infinite band."""
    with pytest.raises(ModelError, match="numbers that are not finite: decoder, 'image'"):
        export(Source(Contract((1, 2, 2), (2,)), decoder=Overflows()), tmp_path / "export")
    assert list(tmp_path.iterdir()) == []
