"""Debugging ONNX files: the provider of each node, and the first node that is wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from tests.parity import mutations
from tests.parity.mutations import Mutation, differs
from tests.parity.small_exports import Subject
from vae_export import Contract, Source
from vae_export.capture import capture
from vae_export.contract import PARTS, Part
from vae_export.formats import FORMATS, WriteOptions
from vae_export.models import FAMILIES
from vae_export.models.config import Family
from vae_export.parity.onnx_debug import cpu_node_warnings, first_mismatch, node_providers
from vae_export.session_options import CPU

pytestmark = pytest.mark.slow


def inputs(subject: Subject, part: Part, batch: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch)
    spec = subject.source.contract.spec(part)
    return {tensor.name: rng.uniform(0, 1, (batch, *tensor.fixed_item)).astype(np.float32) for tensor in spec.inputs}


@pytest.mark.parametrize("part", PARTS)
def test_every_node_is_placed_on_the_cpu(mlp: Subject, part: Part) -> None:
    """ONNX Runtime fuses a product and its ReLU into one node, named after the product."""
    placed = node_providers(mlp.data(part), CPU, inputs(mlp, part))
    nodes = onnx.load_from_string(mlp.data(part)).graph.node
    assert set(placed.values()) == {CPU}
    named = {name.removeprefix("fused ") for name in placed}
    assert named == {node.name for node in nodes if node.op_type != "Relu"}


def test_cpu_node_warns_if_another_provider_was_requested() -> None:
    providers = {"node_linear": "CUDAExecutionProvider", "node_sigmoid": CPU}
    [found] = cpu_node_warnings(providers, "decoder.onnx", "CUDAExecutionProvider")
    assert (found.rule, found.severity) == ("node-on-cpu", "warning")
    assert found.where == "decoder.onnx, node 'node_sigmoid'"
    assert list(cpu_node_warnings(providers, "decoder.onnx", CPU)) == []


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_unchanged_file_has_no_node_mismatch(subject: Callable[..., Subject], family: Family, part: Part) -> None:
    chosen = subject(family)
    assert first_mismatch(chosen.data(part), chosen.graph(part), inputs(chosen, part)) is None


@pytest.mark.parametrize(
    ("name", "node", "value"),
    [
        ("encoder.body.1.weight", "node_linear (Gemm)", "linear"),
        ("encoder.body.3.bias", "node_linear_1 (Gemm)", "linear_1"),
        ("encoder.logvar.0.weight", "node_linear_3 (Gemm)", "linear_3"),
        ("decoder.body.0.bias", "node_linear_4 (Gemm)", "linear_4"),
        ("decoder.body.4.weight", "node_linear_6 (Gemm)", "linear_6"),
    ],
)
def test_first_mismatch_names_the_node_and_its_values(mlp: Subject, name: str, node: str, value: str) -> None:
    change = mutations.weight(name, lambda weight: weight * 1.01)
    data = Mutation(name, change, differs()).apply(mlp.data("autoencoder"))
    found = first_mismatch(data, mlp.graph("autoencoder"), inputs(mlp, "autoencoder"))
    assert found is not None
    assert (found.node, found.output) == (node, value)
    assert found.error > found.tolerance
    assert abs(found.exported - found.expected) == pytest.approx(found.error)
    assert f"first differs at node {node}, value '{value}'[" in found.line()


class Cancels(nn.Module):
    """latent (N, 2) → image (N, 1, 2, 2), where two large products cancel for a latent of two equal numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 4)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[1000.1, -1000.1]] * 4))
            self.linear.bias.zero_()

    def forward(self, latent: Tensor) -> Tensor:
        return torch.sigmoid(self.linear(latent)).unflatten(1, (1, 2, 2))


def test_node_tolerance_allows_one_rounding_of_a_weight() -> None:
    """PyTorch happens to give exactly zero for these inputs; other float32 implementations need not."""
    graph = capture(Source(Contract((1, 2, 2), (2,)), decoder=Cancels()), "decoder")
    right = FORMATS["onnx"].write(graph, WriteOptions()).data
    latent = {"latent": np.ones((1, 2), np.float32)}

    def moved(ulps: int) -> bytes:
        def change(weight: np.ndarray) -> None:
            weight[0, 0] += ulps * np.spacing(weight[0, 0])

        return Mutation("moved", mutations.weight("decoder.linear.weight", change), differs()).apply(right)

    assert first_mismatch(moved(1), graph, latent) is None
    found = first_mismatch(moved(100), graph, latent)
    assert found is not None
    assert found.expected == 0.0
    assert found.line().endswith("in the file, 0 in PyTorch's float64")


def test_first_of_two_wrong_nodes_is_reported(mlp: Subject) -> None:
    data = mlp.data("decoder")
    for name in ("decoder.body.4.weight", "decoder.body.2.weight"):
        data = Mutation(name, mutations.weight(name, np.negative), differs()).apply(data)
    found = first_mismatch(data, mlp.graph("decoder"), inputs(mlp, "decoder"))
    assert found is not None
    assert found.output == "linear_1"


class Recounted(nn.Module):
    """latent (N, 4) → image (N, 1, 2, 2), by products and differences whose numbers in the file are not PyTorch's."""

    def forward(self, latent: Tensor) -> Tensor:
        found = latent
        for number in range(12):
            found = (1 - found * latent) * (0.1 * number) - latent
        return torch.sigmoid(found).unflatten(1, (1, 2, 2))


def test_values_are_matched_by_operator_where_the_exporter_counts_anew() -> None:
    graph = capture(Source(Contract((1, 2, 2), (4,)), decoder=Recounted()), "decoder")
    right = FORMATS["onnx"].write(graph, WriteOptions()).data
    latent = {"latent": np.random.default_rng(0).random((3, 4), np.float32)}
    assert first_mismatch(right, graph, latent) is None
