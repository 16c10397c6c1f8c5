"""What ranges are found with: once, before anything is written, and as the quantiser sees it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.parity.subject import Subject
from vae_export import Contract, Source, export
from vae_export.capture import capture
from vae_export.errors import ModelError
from vae_export.formats import FORMATS, WriteOptions
from vae_export.parity import calibration_inputs, probes
from vae_export.parity.fake_quant import fake_quantize
from vae_export.parity.oracle import Oracle
from vae_export.parity.probes import CALIBRATION_ROWS, make_probes
from vae_export.parity.reference import reference_cases
from vae_export.session_options import SessionOptions

pytestmark = pytest.mark.slow


def test_static_eight_bits_are_pytorchs_own_eight_bits(mlp: Subject) -> None:
    """Their ranges are those of the float32 network: with weights rounded first, each level would be another."""
    graphs = {part: capture(mlp.source, part) for part in mlp.source.parts}
    graph, inputs = graphs["encoder"], calibration_inputs(mlp.source, graphs)["encoder"]
    data = FORMATS["onnx"].write(graph, WriteOptions(precision="int8-static", calibration=inputs))
    runner = FORMATS["onnx"].open(
        data, graph.spec, SessionOptions("CPUExecutionProvider", threads=1, optimisation="all")
    )
    ours, theirs, exact = (
        fake_quantize(graph, "int8-static", inputs)(inputs),
        runner(inputs),
        Oracle(graph).expected(inputs),
    )
    for name in exact:
        assert np.abs(ours[name] - theirs[name]).mean() < np.abs(ours[name] - exact[name]).mean() / 20


def test_an_export_calibrates_once_and_before_it_writes_and_says_what_lies_beyond(
    mlp: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def counted(source: Source, graphs: object, count: int) -> object:
        if count == CALIBRATION_ROWS:
            told.append("calibrating")
        return make_probes(source, graphs, count)  # type: ignore[arg-type]

    monkeypatch.setattr(probes, "make_probes", counted)
    _, certificate = export(mlp.source, tmp_path / "export", precisions=["int8-static"], report=told.append)
    assert told[0] == "calibrating"
    assert told.count("calibrating") == 1
    assert certificate.gaps == ("int8-static: inputs of six-sigma, largest, beyond its range",)
    assert mlp.source.images is not None
    few, told = replace(mlp.source, images=mlp.source.images[:15]), []
    with pytest.raises(ModelError, match="too few images to calibrate with; expected 16 at least, got 15"):
        export(few, tmp_path / "few", precisions=["int8-static"], report=told.append)
    assert told == []


class Edge(nn.Module):
    """latent (N, 2) → image (N, 1, 2, 2): a number with these weights, and none with ones a rounding below."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        edge = torch.sigmoid(latent + torch.sqrt(self.weight - 0.5))
        return torch.cat([edge, edge], 1).reshape(-1, 1, 2, 2)


def test_a_network_on_the_edge_of_no_number_has_no_band(tmp_path: Path) -> None:
    source = Source(Contract((1, 2, 2), (2,)), decoder=Edge())
    graph = capture(source, "decoder")
    [case] = reference_cases(graph, Oracle(graph), make_probes(source, {"decoder": graph}, 1)[:1], None, (1,))
    assert case.limits["image"].tolerance() == np.inf
    with pytest.raises(ModelError, match="golden vectors have no band: decoder, 'image', fp32"):
        export(source, tmp_path / "export")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("images", [None, 15])
def test_calibration_needs_images(mlp: Subject, tmp_path: Path, images: int | None) -> None:
    assert mlp.source.images is not None
    few = replace(mlp.source, images=None if images is None else mlp.source.images[:images])
    with pytest.raises(ModelError, match="too few images to calibrate with"):
        export(few, tmp_path / "export", precisions=["int8-static"])
    assert not list(tmp_path.iterdir())
