"""OpenVINO computes in the precision that a file states, or refuses the file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests import sample_models
from tests.commands import tree
from vae_export import Source, export, exporter
from vae_export.capture import capture
from vae_export.errors import MachineError, TargetError
from vae_export.formats import FORMATS, WriteOptions, openvino
from vae_export.formats.base import StatedFile
from vae_export.precision import FULL, PrecisionName
from vae_export.session_options import SessionOptions

pytestmark = pytest.mark.slow

OPENVINO = FORMATS["openvino"]
HALVES: list[PrecisionName] = ["fp16", "bf16"]


def computes_in(precision: PrecisionName) -> bool:
    """Whether this processor has instructions for it; one with AVX2 alone has them for neither."""
    found = openvino.core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return {"fp16": "FP16", "bf16": "BF16"}[precision] in found


def source() -> Source:
    return Source.of(sample_models.checkpoint())


@pytest.mark.parametrize("precision", HALVES)
def test_half_precision_halves_the_file_and_rounds_outputs(precision: PrecisionName) -> None:
    graph = capture(source(), "decoder")
    latent = np.random.default_rng(0).standard_normal((16, sample_models.LATENT)).astype(np.float32)
    files = {p: OPENVINO.write(graph, WriteOptions(precision=p)) for p in (FULL, precision)}
    assert files[precision] == OPENVINO.write(graph, WriteOptions(precision=precision))
    full, half = (sum(map(len, content.sidecars.values())) for content in files.values())
    assert half < 0.6 * full
    if not computes_in(precision):
        refused = r"does not compute in .*got (f32|bf16)( and f32)?; name another --precision"
        with pytest.raises(TargetError, match=refused):
            OPENVINO.open(files[precision], graph.spec, SessionOptions("CPU", threads=1))
        return
    exact, rounded = (
        OPENVINO.open(data, graph.spec, SessionOptions("CPU", threads=1))({"latent": latent})["image"]
        for data in files.values()
    )
    assert 1e-5 < np.abs(exact - rounded).max() < 0.02


def test_supported_precisions_are_certified_and_others_left_out(tmp_path: Path) -> None:
    said: list[str] = []
    _, certificate = export(
        source(),
        tmp_path / "export",
        formats=["openvino"],
        precisions=[FULL, *HALVES],
        leave_out=True,
        report=said.append,
    )
    assert certificate.passed
    levels = {degradation.target: degradation.worst_levels for degradation in certificate.degradations}
    assert list(levels) == [f"openvino+{precision}/CPU" for precision in HALVES if computes_in(precision)]
    assert all(worst is not None for worst in levels.values())
    left_out = [line.partition(": device does not compute in")[0] for line in said if line.startswith("left out")]
    assert left_out == [f"left out: openvino in {precision}" for precision in HALVES if not computes_in(precision)]


def test_device_that_computes_in_another_precision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = capture(source(), "decoder")
    data = OPENVINO.write(graph, WriteOptions(precision="bf16"))
    monkeypatch.setattr(openvino, "compute_types", lambda _compiled: {"bf16", "f32"})
    with pytest.raises(TargetError, match=r"does not compute in bf16.*expected bf16, got bf16 and f32; name another"):
        OPENVINO.open(data, graph.spec, SessionOptions("CPU", threads=1))


@pytest.fixture
def no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor on which one layer of every network has no kernel for bfloat16."""
    types = openvino.compute_types
    monkeypatch.setattr(
        openvino, "compute_types", lambda compiled: types(compiled) | ({"f32"} if "bf16" in types(compiled) else set())
    )


@pytest.mark.usefixtures("no_bfloat16")
class TestUnsupportedPrecision:
    def test_is_an_error_if_it_was_requested(self, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match="file cannot be verified here: encoder.bf16.openvino.xml"):
            export(source(), tmp_path / "out", formats=["openvino"], precisions=["fp32", "bf16"])
        assert tree(tmp_path) == {}

    def test_is_left_out_of_all_and_reported(self, tmp_path: Path) -> None:
        said: list[str] = []
        formats = ["torchscript", "openvino"]
        artifact, certificate = export(
            source(), tmp_path / "out", formats=formats, precisions=["fp32", "bf16"], leave_out=True, report=said.append
        )
        (line,) = (line for line in said if line.startswith("left out"))
        assert re.fullmatch(
            "left out: openvino in bf16: device does not compute in bf16: openvino/CPU, encoder; "
            "expected bf16, got (bf16 and )?f32; name another --precision",
            line,
        )
        kinds = {(entry.format, entry.precision) for entry in artifact.manifest.files}
        assert kinds == {("torchscript", "fp32"), ("openvino", "fp32"), ("torchscript", "bf16")}
        assert not list(artifact.folder.glob("*bf16.openvino*"))
        assert certificate.passed

    def test_is_an_error_if_nothing_else_is_left(self, tmp_path: Path) -> None:
        with pytest.raises(MachineError, match="no requested format can run on this machine; got bf16"):
            export(source(), tmp_path / "out", formats=["openvino"], precisions=["bf16"], leave_out=True)
        assert tree(tmp_path) == {}


def test_precision_that_crashes_the_engine_is_left_out_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of its own tries it first: this one lives."""
    said: list[str] = []
    monkeypatch.setattr(exporter, "crash_check", lambda *_: {("encoder", "CPU"): "a process that died of SIGILL"})
    artifact, _ = export(
        source(),
        tmp_path / "out",
        formats=["openvino"],
        precisions=["fp32", "fp16"],
        leave_out=True,
        report=said.append,
    )
    assert "left out: openvino in fp16: openvino/CPU crashed; got a process that died of SIGILL" in said
    assert {entry.precision for entry in artifact.manifest.files} == {"fp32"}


def test_compute_types_show_what_the_processor_uses() -> None:
    """A processor without bfloat16 ignores the request, and says so."""
    graph = capture(source(), "decoder")
    content = OPENVINO.write(graph, WriteOptions())
    model = openvino.core().read_model(content.data, content.sidecars[".bin"])
    told = openvino.core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    assert ("bf16" in openvino.compute_types(told)) == computes_in("bf16")
    plain = openvino.core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert openvino.compute_types(plain) == {"f32"}


def test_precision_unlike_the_manifests_is_a_finding() -> None:
    data = OPENVINO.write(capture(source(), "decoder"), WriteOptions(precision="bf16"))
    rules = [finding.rule for finding in OPENVINO.lint(data, StatedFile("decoder.openvino.xml"))]
    assert rules == ["wrong-precision"]
    assert list(OPENVINO.lint(data, StatedFile("decoder.bf16.openvino.xml", precision="bf16"))) == []
