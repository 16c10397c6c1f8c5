"""Int8 files have the levels of PyTorch's fake quantisation, and calibration finds their ranges once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tests.parity.small_exports import Subject, onnx_data
from vae_export import Contract, Source, export
from vae_export.artifact.certificate import TYPICAL_PROBES
from vae_export.artifact.manifest import FileContent
from vae_export.contract import Part
from vae_export.errors import ModelError
from vae_export.formats import FORMATS, WriteOptions
from vae_export.parity.fake_quant import in_precision
from vae_export.parity.probes import CALIBRATION_ROWS, make_probes
from vae_export.precision import FULL, PrecisionName
from vae_export.session_options import CPU, SessionOptions

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("family", "part"), [("mlp", "decoder"), ("conv", "encoder")])
def test_int8_file_computes_what_fake_quantisation_does(
    subject: Callable[..., Subject], family: str, part: Part
) -> None:
    """Two independent implementations round to the same levels, except for values between two levels."""
    of = subject(family)
    graph = of.graph(part)
    [tensor] = graph.spec.inputs
    drawn = np.random.default_rng(0).standard_normal((64, *tensor.fixed_item)).astype(np.float32)
    inputs = {tensor.name: np.clip(drawn, tensor.low, tensor.high)}
    runner = FORMATS["onnx"].open(
        FileContent(onnx_data(of, part, "int8")),
        graph.spec,
        SessionOptions("CPUExecutionProvider", threads=1, optimisation="all"),
    )
    ours, theirs, full = in_precision(graph, "int8")(inputs), runner(inputs), in_precision(graph, FULL)(inputs)
    for output in graph.spec.outputs:
        distances = np.abs(ours[output.name] - theirs[output.name])
        assert np.median(distances) < 1e-6
        assert distances.max() < np.abs(ours[output.name] - full[output.name]).max()


@pytest.mark.parametrize("precision", ["int8", "int8-static"])
@pytest.mark.parametrize("family", ["mlp", "conv"])
def test_int8_weights_are_signed(subject: Callable[..., Subject], family: str, precision: PrecisionName) -> None:
    """Signed weights are twice as quick on processors with VNNI; `without_vnni` of the manifest is for the others."""
    model = onnx.load_from_string(onnx_data(subject(family), "autoencoder", precision))
    eights = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert max(np.prod(tensor.dims) for tensor in eights) > 1000


class LooksUp(nn.Module):
    """A decoder with a signed 8-bit table of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(-2, 2, dtype=torch.int8))
        self.layer = nn.Linear(4, 16)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        steps = self.table[latent.argmax(1)].float().unsqueeze(1)
        return torch.sigmoid(self.layer(latent) + steps).view(-1, 1, 4, 4)


@pytest.mark.parametrize("precision", ["int8", "int8-static"])
def test_integer_table_of_the_network_is_left_alone(tmp_path: Path, precision: PrecisionName) -> None:
    torch.manual_seed(0)
    source = Source(Contract((1, 4, 4), (4,)), decoder=LooksUp())
    _, certificate = export(source, tmp_path / "export", precisions=[precision])
    assert certificate.passed


@pytest.mark.parametrize("options", FORMATS["onnx"].options_to_test(CPU, "int8"), ids=lambda it: it.certificate_name)
def test_int8_products_of_highest_levels_do_not_saturate(mlp: Subject, options: SessionOptions) -> None:
    """The sum of two products of 255 and 127 does not fit into the 16 bits that some processors add in."""
    graph = mlp.graph("decoder")
    means = copy.deepcopy(graph.module)
    with torch.no_grad():
        for parameter in means.parameters():
            parameter.fill_(1 / parameter.shape[-1] if parameter.dim() > 1 else 0)
    graph = replace(graph, module=means)
    data = FORMATS["onnx"].write(graph, WriteOptions(precision="int8"))
    runner = FORMATS["onnx"].open(data, graph.spec, options)
    image = runner({"latent": np.ones((1, *mlp.source.contract.latent_shape), dtype=np.float32)})["image"]
    np.testing.assert_allclose(image, 1 / (1 + np.exp(-1)), atol=1e-3)


def test_static_int8_file_computes_what_fake_quantisation_does(mlp: Subject) -> None:
    """Ranges come from the float32 network: rounding the weights first would shift every level."""
    graph, inputs = mlp.graph("encoder"), mlp.references.calibration["encoder"]
    data = FORMATS["onnx"].write(graph, WriteOptions(precision="int8-static", calibration=inputs))
    runner = FORMATS["onnx"].open(
        data, graph.spec, SessionOptions("CPUExecutionProvider", threads=1, optimisation="all")
    )
    ours, theirs, expected = (
        in_precision(graph, "int8-static", inputs)(inputs),
        runner(inputs),
        mlp.references.oracle("encoder").expected(inputs),
    )
    for name in expected:
        assert np.abs(ours[name] - theirs[name]).mean() < np.abs(ours[name] - expected[name]).mean() / 20


def test_export_calibrates_once_and_before_it_writes(
    mlp: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def counted(source: Source, graphs: object, count: int, **options: object) -> object:
        if count == CALIBRATION_ROWS and options.get("names") == TYPICAL_PROBES:  # examples alone cost nothing
            told.append("calibrating")
        return make_probes(source, graphs, count, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("vae_export.parity.reference.make_probes", counted)
    _, certificate = export(mlp.source, tmp_path / "export", precisions=["int8-static"], report=told.append)
    assert told.index("calibrating") < told.index("writing encoder.int8-static.onnx")
    assert told.count("calibrating") == 1
    assert certificate.gaps == ("int8-static: inputs of six-sigma, largest, noise, extreme, beyond its range",)
    assert mlp.source.images is not None
    few, told = replace(mlp.source, images=mlp.source.images[:15]), []
    with pytest.raises(ModelError, match="too few images to calibrate with; expected 16 at least, got 15"):
        export(few, tmp_path / "few", precisions=["int8-static"], report=told.append)
    assert not any(line.startswith("writing") for line in told)


@pytest.mark.parametrize("images", [None, 15])
def test_calibration_needs_sixteen_images(mlp: Subject, tmp_path: Path, images: int | None) -> None:
    assert mlp.source.images is not None
    few = replace(mlp.source, images=None if images is None else mlp.source.images[:images])
    with pytest.raises(ModelError, match="too few images to calibrate with"):
        export(few, tmp_path / "export", precisions=["int8-static"])
    assert not list(tmp_path.iterdir())
