"""ONNX files of eight bits: the same levels as PyTorch's own, on every processor."""

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

from tests.parity.subject import Subject, written
from vae_export import Contract, Source, export
from vae_export.artifact.manifest import FileContent
from vae_export.capture import capture
from vae_export.formats import FORMATS, WriteOptions
from vae_export.parity.fake_quant import fake_quantize
from vae_export.precision import FULL, PrecisionName
from vae_export.session_options import OPTIMISATION_LEVELS, SessionOptions


def test_eight_bits_are_pytorchs_own_eight_bits(mlp: Subject) -> None:
    """Two programs that share no line round to the same levels: all but values on the border of two."""
    graph = capture(mlp.source, "decoder")
    latent = np.random.default_rng(0).standard_normal((64, *mlp.source.contract.latent_shape)).astype(np.float32)
    runner = FORMATS["onnx"].open(
        FileContent(written(mlp, "decoder", "int8")),
        graph.spec,
        SessionOptions(threads=1, optimisation="all"),
    )
    ours, theirs = fake_quantize(graph, "int8")({"latent": latent})["image"], runner({"latent": latent})["image"]
    assert np.median(np.abs(ours - theirs)) < 1e-6
    assert np.abs(ours - theirs).max() < np.abs(ours - fake_quantize(graph, FULL)({"latent": latent})["image"]).max()


@pytest.mark.parametrize("precision", ["int8", "int8-static"])
@pytest.mark.parametrize("family", ["mlp", "conv"])
def test_weights_of_eight_bits_are_unsigned_for_processors_where_signed_ones_saturate(
    subject: Callable[..., Subject], family: str, precision: PrecisionName
) -> None:
    model = onnx.load_from_string(written(subject(family), "autoencoder", precision))
    eights = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.UINT8]
    assert max(np.prod(tensor.dims) for tensor in eights) > 1000
    assert not [tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]


class LooksUp(nn.Module):
    """A decoder with integers of its own, in 8 signed bits."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(-2, 2, dtype=torch.int8))
        self.layer = nn.Linear(4, 16)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        steps = self.table[latent.argmax(1)].float().unsqueeze(1)
        return torch.sigmoid(self.layer(latent) + steps).view(-1, 1, 4, 4)


@pytest.mark.parametrize("precision", ["int8", "int8-static"])
def test_integers_of_the_network_itself_are_left_alone(tmp_path: Path, precision: PrecisionName) -> None:
    torch.manual_seed(0)
    source = Source(Contract((1, 4, 4), (4,)), decoder=LooksUp())
    _, certificate = export(source, tmp_path / "export", precisions=[precision])
    assert certificate.passed


@pytest.mark.parametrize("level", OPTIMISATION_LEVELS)
def test_eight_bits_are_right_where_every_level_is_the_highest(mlp: Subject, level: str) -> None:
    """Two products of 255 and 127 do not fit into the 16 bits in which some processors add them up."""
    graph = capture(mlp.source, "decoder")
    means = copy.deepcopy(graph.module)
    with torch.no_grad():
        for parameter in means.parameters():
            parameter.fill_(1 / parameter.shape[-1] if parameter.dim() > 1 else 0)
    graph = replace(graph, module=means)
    data = FORMATS["onnx"].write(graph, WriteOptions(precision="int8"))
    runner = FORMATS["onnx"].open(
        data, graph.spec, SessionOptions("CPUExecutionProvider", threads=1, optimisation=level)
    )
    image = runner({"latent": np.ones((1, *mlp.source.contract.latent_shape), dtype=np.float32)})["image"]
    np.testing.assert_allclose(image, 1 / (1 + np.exp(-1)), atol=1e-3)
