"""Inputs are found for the bounds inside a part, and the certificate states what they reach."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vae_export import Contract, Source
from vae_export.capture import Captured, Graph
from vae_export.contract import Array
from vae_export.parity.bounds import WatchedProgram, extreme_inputs
from vae_export.parity.cases import drawn_cases, rows_by_probe
from vae_export.parity.coverage import Share, measure_coverage
from vae_export.parity.plan import batches_plan, complete_plan, drawn_batches
from vae_export.parity.reference import References
from vae_export.runtime.model import MAX_PIECE_ROWS
from vae_export.tensors import BATCH, Symbol

CONTRACT = Contract((6,), (3,), (0.0, 1.0))


class Bounded(nn.Module):
    """data (N, 6) → mean, logvar, each (N, 3), with clamps that ordinary inputs do not reach."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.mean, self.logvar = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        with torch.no_grad():
            self.body.weight[0], self.body.bias[0] = -1.0, -1.0  # never active

    def forward(self, data: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(data).relu()
        mean = torch.where(hidden[:, :1] > 100, 0.0, self.mean(hidden))
        return mean, self.logvar(hidden).clamp(-0.45, 20)


class Decoder(nn.Module):
    """latent (N, 3) → data (N, 6) in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 6)

    def forward(self, latent: Tensor) -> Tensor:
        return self.body(latent).sigmoid()


@pytest.fixture(scope="module")
def references() -> References:
    return References(Captured(Source(CONTRACT, Bounded(), Decoder())))


def margins(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, tuple[float, float]]:
    program = WatchedProgram(graph)
    program.outputs([torch.from_numpy(inputs["data"])])
    found = {margin.name: margin.values.detach() for margin in program.margins}
    return {name: (float(values.min()), float(values.max())) for name, values in found.items()}


def test_search_crosses_a_bound_that_noise_does_not(references: References) -> None:
    graph = references.captured.graph("encoder")
    noise = {"data": np.random.default_rng(0).uniform(0.4, 0.6, (16, 6)).astype(np.float32)}
    assert margins(graph, noise)["clamp: -0.45"][0] > 0
    found = extreme_inputs(graph, noise)
    assert margins(graph, found)["clamp: -0.45"][0] < 0
    assert found["data"].min() == 0
    assert found["data"].max() == 1
    assert np.array_equal(found["data"], extreme_inputs(graph, noise)["data"])


def test_search_leaves_rows_that_would_overflow() -> None:
    class Overflows(nn.Module):
        def forward(self, latent: Tensor) -> Tensor:
            return (latent * 10).exp().tanh().repeat(1, 2)

    graph = Captured(Source(Contract((6,), (3,), None), decoder=Overflows())).graph("decoder")
    start = {"latent": np.full((8, 3), 0.1, np.float32)}
    found = extreme_inputs(graph, start)["latent"]
    assert set(found[found > 0]) == {np.float32(0.1)}
    assert (found == -6).any()


def test_coverage_counts_and_names_what_is_not_reached(references: References) -> None:
    rows = rows_by_probe(references.cases("encoder", plan=complete_plan(thorough=False)))
    coverage = measure_coverage(references.captured.graph("encoder"), rows, complete_plan(thorough=False))
    assert coverage.inputs == Share(6, 6)
    # The dead unit has six weights and a bias, and no effect on the six outputs.
    assert coverage.weights == Share(8 * 7 + 2 * 3 * 9 - 7 - 6, 8 * 7 + 2 * 3 * 9)
    assert coverage.bounds == Share(1, 3)
    assert coverage.not_reached == ("gt: 100, nothing above", "clamp: 20, nothing above")
    assert coverage.branches.total == 8
    assert 1 <= coverage.branches.reached < 8
    assert "1 of 3 bounds" in coverage.line()


def test_coverage_without_varied_inputs_is_lower(references: References) -> None:
    rows = [{"data": np.eye(6, dtype=np.float32)[:2]}]
    coverage = measure_coverage(references.captured.graph("encoder"), rows, complete_plan(thorough=False))
    assert coverage.inputs == Share(2, 6)
    assert coverage.weights.reached < 100


def test_plan_that_is_not_complete_has_no_run_back(references: References) -> None:
    plan = complete_plan(thorough=False)
    left_out = type(plan)(plan.sweeps, left_out=("rows",))
    coverage = measure_coverage(
        references.captured.graph("encoder"), [{"data": np.zeros((1, 6), np.float32)}], left_out
    )
    assert coverage.rows == 0
    assert "no run back" in coverage.line()


def test_drawn_batches_differ_between_files_and_reach_the_runtimes_largest() -> None:
    plan = complete_plan(thorough=True)
    one, other = drawn_batches(plan, {}, "a" * 64), drawn_batches(plan, {}, "b" * 64)
    assert one != other
    assert one == drawn_batches(plan, {}, "a" * 64)
    assert len(one) >= 14
    assert one[-1] == MAX_PIECE_ROWS
    assert one[0] <= 16
    assert not set(one) & set(plan.sweeps[0].batches)
    assert max(drawn_batches(complete_plan(thorough=False), {}, "a" * 64)) == MAX_PIECE_ROWS
    bounded = drawn_batches(plan, {BATCH: Symbol(2, 20)}, "a" * 64)
    assert set(bounded) <= set(range(2, 21))
    assert drawn_batches(batches_plan((1, 7)), {}, "a" * 64) == ()


def test_drawn_cases_repeat_rows_of_noise_with_their_reference(references: References) -> None:
    cases = references.cases("decoder", plan=complete_plan(thorough=False))
    [small, large] = drawn_cases(cases, (5, 130))
    assert (small.probe, small.batch, large.batch) == ("batches", 5, 130)
    assert np.array_equal(large.inputs["latent"][64:128], large.inputs["latent"][:64])
    assert np.array_equal(large.expected["data"], references.oracle("decoder").expected(large.inputs)["data"])
