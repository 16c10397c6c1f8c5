"""Modules that fix float32 inside are evaluated in float64 all the same, so that they have an exact reference."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.capture.test_modules import (
    Case,
    ConstantInside,
    FloatInside,
    LargeBatches,
    Net,
    NoAutocast,
    PlainTensors,
    any_size,
)
from vae_export.capture import Captured
from vae_export.capture.program import example_inputs
from vae_export.capture.promotion import promoted_program
from vae_export.parity.oracle import Oracle
from vae_export.precision import PrecisionName


class HalfInside(Net):
    def middle(self, hidden: Tensor) -> Tensor:
        return hidden.half().float() * torch.linspace(0, 1, 6)


class DefaultDtypes(Net):
    """New tensors without a dtype follow the default, so that the module itself can compute in float64."""

    def middle(self, hidden: Tensor) -> Tensor:
        return hidden * torch.linspace(0, 1, 6) + torch.arange(6) / 7


FLOAT32_INSIDE = [FloatInside, ConstantInside, NoAutocast, PlainTensors, HalfInside]


@pytest.mark.parametrize("kind", FLOAT32_INSIDE)
def test_promoted_module_is_as_exact_as_float64(kind: type[Net]) -> None:
    """With weights in float64, each of these modules can be computed by hand in float64."""
    graph = Captured(Case(kind).source()).graph("decoder")
    (latent,) = example_inputs(graph.spec, 5)
    promoted = graph.in_float64()
    with torch.no_grad():
        got, single = promoted(latent.double()), graph.module(latent)
    assert isinstance(promoted, torch.fx.GraphModule)
    assert got.dtype == torch.float64
    assert not torch.equal(got, single.double())  # float32 rounds somewhere
    torch.testing.assert_close(got, single.double(), rtol=0, atol=2e-6 if kind is not HalfInside else 1e-3)
    # Promoting twice changes nothing more, and nothing inside is of lower precision.
    assert {tensor.dtype for tensor in (*promoted.parameters(), *promoted.buffers())} == {torch.float64}
    assert not [node for node in promoted.graph.nodes if torch.float32 in (*node.args, *node.kwargs.values())]


@pytest.mark.parametrize("kind", [Net, DefaultDtypes])
def test_module_without_float32_inside_is_only_copied(kind: type[Net]) -> None:
    graph = Captured(Case(kind).source()).graph("decoder")
    module = graph.in_float64()
    assert not isinstance(module, torch.fx.GraphModule)
    (latent,) = example_inputs(graph.spec, 3)
    np.testing.assert_allclose(
        Oracle(graph).expected({"latent": latent.numpy()})["image"],
        promoted_with_default_dtype(graph.program, latent.double()),
        rtol=1e-15,
    )


def promoted_with_default_dtype(program: torch.export.ExportedProgram, latent: Tensor) -> Tensor:
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            output: Tensor = promoted_program(program)(latent)
            return output
    finally:
        torch.set_default_dtype(torch.float32)


def test_promotion_leaves_the_program_as_it_was() -> None:
    graph = Captured(Case(NoAutocast).source()).graph("decoder")
    before = copy.deepcopy(graph.program.state_dict)
    (latent,) = example_inputs(graph.spec, 3)
    with torch.no_grad():
        expected = graph.program.module()(latent)
        promoted_program(graph.program)
        assert torch.equal(graph.program.module()(latent), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in graph.program.state_dict.items())


@pytest.mark.parametrize("kind", FLOAT32_INSIDE)
def test_oracle_moves_weights_of_promoted_modules(kind: type[Net]) -> None:
    oracle = Oracle(Captured(Case(kind).source()).graph("decoder"))
    inputs = {"latent": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)}
    expected = oracle.expected(inputs)["image"]
    moved = [oracle.perturbed(inputs, index)["image"] for index in range(2)]
    for output in moved:
        assert 0 < np.abs(output - expected).max() < 1e-5
    least: dict[PrecisionName, float] = {"int8": 1e-4, "int4-weights": 1e-3}
    for precision, difference in least.items():
        assert np.abs(oracle.perturbed(inputs, 0, precision)["image"] - expected).max() > difference


@pytest.mark.slow
def test_promoted_program_runs_at_other_sizes_and_batches() -> None:
    middle = nn.Sequential(LargeBatches(), nn.AvgPool2d(2))
    graph = Captured(Case(lambda: any_size(middle), data=(1, "2*h", "2*w"), latent=(4, "h", "w")).source()).graph(
        "decoder"
    )
    promoted = promoted_program(graph.program)
    double = copy.deepcopy(graph.module).double()
    with torch.no_grad():
        for shape in ((1, 4, 3, 5), (9, 4, 8, 2)):
            latent = torch.randn(shape, dtype=torch.float64)
            torch.testing.assert_close(promoted(latent), double(latent), rtol=1e-12, atol=1e-12)
