"""OpenVINO computes in the precision that a file says, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests import samples
from vae_export import Source, export
from vae_export.errors import TargetError
from vae_export.formats import FORMATS, Setting, WriteOptions, openvino
from vae_export.precision import FULL, PrecisionName

OPENVINO = FORMATS["openvino"]
HALVES: list[PrecisionName] = ["fp16", "bf16"]


def source() -> Source:
    return Source.of(samples.checkpoint())


@pytest.mark.parametrize("precision", HALVES)
def test_half_the_bits_are_half_the_file_and_other_numbers(precision: PrecisionName) -> None:
    graph = source().graph("decoder")
    latent = np.random.default_rng(0).standard_normal((16, samples.LATENT)).astype(np.float32)
    files = {p: OPENVINO.write(graph, WriteOptions(precision=p)) for p in (FULL, precision)}
    assert files[precision] == OPENVINO.write(graph, WriteOptions(precision=precision))
    exact, rounded = (
        OPENVINO.open(data, graph.spec, "CPU", Setting())({"latent": latent})["image"] for data in files.values()
    )
    assert 1e-5 < np.abs(exact - rounded).max() < 0.02
    full, half = (sum(map(len, data.beside.values())) for data in files.values())  # type: ignore[attr-defined]
    assert half < 0.6 * full


def test_both_are_certified_with_the_band_of_their_precision(tmp_path: Path) -> None:
    _, certificate = export(source(), tmp_path / "export", formats=["openvino"], precisions=[FULL, *HALVES])
    assert certificate.passed
    levels = {drift.target: drift.worst_levels for drift in certificate.drifts}
    assert list(levels) == ["openvino+fp16/CPU", "openvino+bf16/CPU"]
    assert all(worst is not None for worst in levels.values())


def test_a_device_that_computes_in_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = source().graph("decoder")
    data = OPENVINO.write(graph, WriteOptions(precision="bf16"))
    monkeypatch.setattr(openvino, "_used", lambda _compiled: {"bf16", "f32"})
    with pytest.raises(TargetError, match=r"does not compute in bf16.*expected bf16, got bf16 and f32; name another"):
        OPENVINO.open(data, graph.spec, "CPU", Setting())


def test_a_layer_in_float32_is_seen() -> None:
    """A model that is told bf16 and has layers: what is read back is what its layers say, not the hint alone."""
    graph = source().graph("decoder")
    data = OPENVINO.write(graph, WriteOptions())
    model = openvino._read(data, "decoder")
    told = openvino._core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    assert "bf16" in openvino._used(told)
    plain = openvino._core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert openvino._used(plain) == {"f32"}


def test_a_file_of_one_precision_under_the_name_of_another_is_a_finding() -> None:
    data = OPENVINO.write(source().graph("decoder"), WriteOptions(precision="bf16"))
    rules = [finding.rule for finding in OPENVINO.lint(data, "decoder.openvino.xml", 0, FULL)]
    assert rules == ["wrong-precision"]
    assert list(OPENVINO.lint(data, "decoder.bf16.openvino.xml", 0, "bf16")) == []
