"""Placement, divergence, threads and probes, each on its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from tests.parity import mutations
from tests.parity.mutations import Mutation, differs
from tests.parity.subject import Subject
from vae_export import Contract, Source
from vae_export.capture import capture
from vae_export.contract import PARTS, Part
from vae_export.formats import FORMATS, WriteOptions
from vae_export.models import FAMILIES
from vae_export.models.config import Family
from vae_export.parity import calibration_inputs, golden_vectors
from vae_export.parity.onnx_debug import first_mismatch, node_providers, nodes_on_the_cpu
from vae_export.session_options import CPU
from vae_export.system.threads import fastest_threads


def inputs(subject: Subject, part: Part, batch: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch)
    spec = subject.source.contract.spec(part)
    return {tensor.name: rng.uniform(0, 1, (batch, *tensor.item)).astype(np.float32) for tensor in spec.inputs}


@pytest.mark.parametrize("part", PARTS)
def test_every_node_is_placed_on_the_cpu(mlp: Subject, part: Part) -> None:
    """ONNX Runtime makes one node of a product and its ReLU, and names it after the product."""
    placed = node_providers(mlp.data(part), CPU, inputs(mlp, part))
    nodes = onnx.load_from_string(mlp.data(part)).graph.node
    assert set(placed.values()) == {CPU}
    named = {name.removeprefix("fused ") for name in placed}
    assert named == {node.name for node in nodes if node.op_type != "Relu"}
    assert list(nodes_on_the_cpu(mlp.data(part), f"{part}.onnx", CPU, inputs(mlp, part))) == []


def test_a_node_on_the_cpu_is_a_warning_where_another_provider_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    placed = {"node_linear": "CUDAExecutionProvider", "node_sigmoid": CPU}
    monkeypatch.setattr("vae_export.parity.onnx_debug.node_providers", lambda *_: placed)
    [found] = nodes_on_the_cpu(b"", "decoder.onnx", "CUDAExecutionProvider", {})
    assert (found.rule, found.severity) == ("node-on-cpu", "warning")
    assert found.where == "decoder.onnx, node 'node_sigmoid'"


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_right_file_does_not_diverge(subject: Callable[..., Subject], family: Family, part: Part) -> None:
    chosen = subject(family)
    assert first_mismatch(chosen.data(part), capture(chosen.source, part), inputs(chosen, part)) is None


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
def test_the_first_node_that_is_wrong_is_named_with_values(mlp: Subject, name: str, node: str, value: str) -> None:
    change = mutations.weight(name, lambda weight: weight * 1.01)
    data = Mutation(name, change, differs()).apply(mlp.data("autoencoder"))
    found = first_mismatch(data, capture(mlp.source, "autoencoder"), inputs(mlp, "autoencoder"))
    assert found is not None
    assert (found.node, found.output) == (node, value)
    assert found.error > found.band
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


def test_a_node_may_be_off_by_what_one_rounding_of_its_weights_makes() -> None:
    """PyTorch is lucky with these inputs: it gives zero exactly. No other float32 implementation has to be."""
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


def test_two_faults_are_reported_as_the_first(mlp: Subject) -> None:
    data = mlp.data("decoder")
    for name in ("decoder.body.4.weight", "decoder.body.2.weight"):
        data = Mutation(name, mutations.weight(name, np.negative), differs()).apply(data)
    found = first_mismatch(data, capture(mlp.source, "decoder"), inputs(mlp, "decoder"))
    assert found is not None
    assert found.output == "linear_1"


def test_golden_vectors_and_calibration_take_one_thread_whatever_is_set() -> None:
    """Another number would be another order of summation: bytes that depend on how many cores a machine has."""
    seen: set[int] = set()

    class Watched(nn.Linear):
        def forward(self, latent: Tensor) -> Tensor:
            seen.add(torch.get_num_threads())
            return super().forward(latent).sigmoid().reshape(-1, 1, 2, 2)

    source = Source(Contract((1, 2, 2), (3,)), decoder=Watched(3, 4))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        graphs = {part: capture(source, part) for part in source.parts}
        seen.clear()
        golden_vectors(source, source.parts)
        calibration_inputs(source, graphs)
        assert seen == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_threads_are_set_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with fastest_threads(lambda: None) as chosen:
            assert chosen == torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2

        def interrupted() -> None:
            with fastest_threads(lambda: None):
                raise InterruptedError

        with pytest.raises(InterruptedError):
            interrupted()
        assert torch.get_num_threads() == 2

        def broken() -> None:
            raise InterruptedError

        with pytest.raises(InterruptedError), fastest_threads(broken):
            pass
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
