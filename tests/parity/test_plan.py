"""The plan of a verification: everything for small networks, and a ladder of shorter plans within time and memory."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tests.parity import mutations
from tests.parity.small_exports import Subject, tampered, verified
from vae_export import Contract, Source, export
from vae_export.capture import Graph
from vae_export.contract import Part
from vae_export.errors import ModelError, UsageError
from vae_export.parity import References, probes
from vae_export.parity.oracle import Oracle
from vae_export.parity.pilot import Pilot, row_cost
from vae_export.parity.plan import (
    BATCHES,
    PERTURBATIONS,
    PROBES_BY_VALUE,
    QUICK_BATCHES,
    Limits,
    NatsPlan,
    PartPlan,
    RowCost,
    Sizes,
    complete_plan,
    fitting_batches,
    plan_nats,
    plan_part,
    sizes_to_run,
)
from vae_export.tensors import Symbol

ANY = Symbol()
MINUTE = Limits.of(1.0, 16 << 30)
SMALL = RowCost(1e-4, 1e-4, 5e-5, 10_000, 20_000, 5_000)
#: A convolutional network of 64 x 64 pixels, and a decoder of 84 million parameters at 64 x 64.
MEDIUM = RowCost(0.01, 0.02, 0.007, 1_100_000, 10_600_000, 50_000)
LARGE = RowCost(1.5, 2.4, 0.6, 30_000_000, 400_000_000, 50_000)


def planned(cost: RowCost, limits: Limits = MINUTE, *, thorough: bool = False, bounds: Symbol = ANY) -> PartPlan:
    return plan_part([cost], limits, thorough=thorough, settings=8, bounds=bounds)


def test_priority_names_every_probe_once() -> None:
    assert sorted(PROBES_BY_VALUE) == sorted(probes.PROBES)


@pytest.mark.parametrize(("thorough", "batches"), [(False, QUICK_BATCHES), (True, BATCHES)])
def test_small_network_gets_every_test_case(thorough: bool, batches: tuple[int, ...]) -> None:
    plan = planned(SMALL, thorough=thorough)
    [sweep] = plan.sweeps
    assert plan.is_complete
    assert plan.every_setting == thorough
    assert (sweep.batches, sweep.large_batches, sweep.rows) == (batches, (), max(batches))
    assert (sweep.probes, sweep.perturbations) == (len(PROBES_BY_VALUE), PERTURBATIONS)


@pytest.mark.parametrize("thorough", [False, True])
@pytest.mark.parametrize("cost", [MEDIUM, LARGE], ids=["medium", "large"])
def test_plan_of_a_costly_network_keeps_the_time_and_says_what_is_left_out(cost: RowCost, thorough: bool) -> None:
    plan = planned(cost, thorough=thorough)
    assert not plan.is_complete
    assert plan.seconds <= 60
    assert plan.left_out
    assert "all would take about" in plan.reason
    assert all(phrase in plan.line() for phrase in plan.left_out)


def test_cheaper_network_gets_at_least_the_test_cases_of_a_costlier_one() -> None:
    runs = [planned(MEDIUM.scaled(factor)).sweeps[0].runs for factor in (0.01, 0.1, 1, 10, 100, 1000)]
    assert runs == sorted(runs, reverse=True)
    assert runs[0] > runs[-1] > 0


def test_every_probe_and_large_batches_stay_for_a_medium_network() -> None:
    [sweep] = planned(MEDIUM).sweeps
    assert PROBES_BY_VALUE[sweep.probes :] == ("extreme",)
    assert (sweep.batches, sweep.large_batches) == ((1, 2, 3, 7), (64,))


def test_no_limit_leaves_nothing_out() -> None:
    assert planned(LARGE, Limits.of(None, 1 << 30), thorough=True).is_complete


def test_batch_that_needs_too_much_memory_is_left_out() -> None:
    heavy = replace(SMALL, bytes_float32=int(MINUTE.batch_bytes) // 10)
    [sweep] = (plan := planned(heavy)).sweeps
    assert (*sweep.batches, *sweep.large_batches) == (1, 2, 3, 7)
    assert "batch 64 would take" in plan.reason


def test_float64_is_evaluated_in_pieces_of_bounded_memory() -> None:
    piece = planned(MEDIUM).piece
    assert piece is not None
    assert piece * MEDIUM.bytes_float64 <= 64 << 20 < (piece + 1) * MEDIUM.bytes_float64
    assert planned(LARGE).piece == 1


@pytest.mark.parametrize(
    ("bounds", "batches"),
    [
        (Symbol(), (1, 2, 3, 7, 64)),
        (Symbol(1, 63), (1, 2, 3, 7, 63)),
        (Symbol(1, 2), (1, 2)),
        (Symbol(1, 1), (1,)),
        (Symbol(4, 4), (4,)),
        (Symbol(5, 1000), (7, 64)),
        (Symbol(100, 1000), (100,)),
    ],
)
def test_batches_stay_within_the_bounds_and_include_the_highest(bounds: Symbol, batches: tuple[int, ...]) -> None:
    assert fitting_batches(QUICK_BATCHES, bounds) == batches
    [sweep] = planned(SMALL, bounds=bounds).sweeps
    assert sweep.batches == batches
    assert sweep.rows == max(batches)


def test_nats_shrink_with_the_cost_until_they_are_left_out() -> None:
    plans = [plan_nats(cost, cost, MINUTE) for cost in (SMALL, MEDIUM, LARGE)]
    assert plans[0] == NatsPlan()
    assert [plan.images for plan in plans] == sorted((plan.images for plan in plans), reverse=True)
    assert plans[-1].images == 0


@pytest.mark.parametrize("minutes", [0, -1, math.inf, math.nan])
def test_time_must_be_a_number_above_zero(minutes: float) -> None:
    with pytest.raises(UsageError, match="bad verify-minutes"):
        Limits.of(minutes, 1 << 30)


def test_complete_plan_of_other_sizes_has_few_rows_there() -> None:
    usual, smallest = complete_plan(thorough=False, sizes=((("h", 8),), (("h", 1),))).sweeps
    assert usual.rows == 64
    assert smallest.rows == 7
    assert dict(smallest.sizes) == {"h": 1}


def test_pilot_counts_the_bytes_of_the_largest_layer(mlp: Subject) -> None:
    cost = row_cost(mlp.references.oracle("decoder"), {"latent": np.zeros((1, 6), np.float32)})
    assert min(cost.float32, cost.float64) > 0
    converted = 8 * 6  # the latent, which float32 does not convert
    assert cost.bytes_float64 == 2 * cost.bytes_float32 + converted
    assert 4 * 256 <= cost.bytes_float32 <= 4 * 256 * 4  # the image has 256 numbers, the weights have thousands
    assert cost.stored_bytes == 4 * (6 + 256)


@pytest.mark.slow
def test_reduced_verification_passes_and_its_certificate_states_the_plan(mlp: Subject) -> None:
    certificate = verified(mlp.artifact, mlp.references, minutes=1e-4)
    assert certificate.passed
    document = certificate.to_json()
    plan = document["plan"]
    assert plan["minutes"] == pytest.approx(1e-4)
    assert set(plan["parts"]) == {"encoder", "decoder", "autoencoder"}
    assert all(part["left_out"] and part["reason"] for part in plan["parts"].values())
    assert document["environment"]["thorough"] is False
    assert "plan" not in verified(mlp.artifact, mlp.references).to_json()


@pytest.mark.parametrize(
    ("symbols", "sizes"),
    [
        ({}, [()]),
        ({"h": Symbol(), "w": Symbol()}, [(("h", 8), ("w", 8)), (("h", 1), ("w", 1)), (("h", 3), ("w", 5))]),
        ({"t": Symbol(4, 4)}, [(("t", 4),)]),
        ({"t": Symbol(2, 4, usual=4)}, [(("t", 4),), (("t", 2),)]),
    ],
)
def test_sizes_are_the_usual_the_smallest_and_odd_ones(symbols: dict[str, Symbol], sizes: list[Sizes]) -> None:
    assert list(sizes_to_run(symbols)) == sizes


class Upscaler(nn.Module):
    """Latents (N, 2, h, w) → images (N, 1, 2h, 2w)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return nn.functional.pixel_shuffle(self.conv(latent), 2).sigmoid()


@pytest.fixture(scope="module")
def open_sizes() -> References:
    symbols = {"h": Symbol(), "w": Symbol()}
    contract = Contract((1, "2*h", "2*w"), (2, "h", "w"), symbols=symbols)
    return References(Source(contract, decoder=Upscaler()))


def test_cases_at_every_size_have_inputs_and_references_of_that_size(open_sizes: References) -> None:
    sizes = sizes_to_run(open_sizes.source.contract.free_symbols)
    cases = open_sizes.cases("decoder", plan=complete_plan(thorough=False, sizes=sizes))
    assert {case.sizes for case in cases} == set(sizes)
    for case in cases:
        height, width = dict(case.sizes).values()
        assert case.inputs["latent"].shape == (case.batch, 2, height, width)
        assert case.expected["image"].shape == case.eager["image"].shape == (case.batch, 1, 2 * height, 2 * width)


@pytest.mark.slow
def test_usual_size_that_is_too_costly_is_halved(open_sizes: References) -> None:
    symbols = {"h": Symbol(usual=1 << 20), "w": Symbol(usual=1 << 20)}
    graph = open_sizes.captured.graph("decoder")
    huge = Oracle(graph)
    huge.graph = replace(graph, spec=replace(graph.spec, symbols=symbols))
    plan = Pilot(huge, MINUTE).plan(thorough=False, settings=8)
    assert "the usual size h=1048576, w=1048576" in plan.left_out
    assert max(dict(plan.sweeps[0].sizes).values()) < 1 << 20


def test_size_that_the_module_refuses_is_named() -> None:
    class Picky(Upscaler):
        def forward(self, latent: torch.Tensor) -> torch.Tensor:
            if latent.shape[2] < 2:
                raise RuntimeError("too small")
            return super().forward(latent)

    spec = Contract((1, "2*h", 8), (2, "h", 4)).spec("decoder")
    with pytest.raises(ModelError, match="module cannot be run: decoder, h=1; got RuntimeError: too small"):
        Pilot(Oracle(Graph(spec, Picky().eval())), MINUTE)


@pytest.mark.slow
def test_file_that_is_wrong_at_another_size_only_fails(tmp_path: Path) -> None:
    symbols = {"h": Symbol(usual=2), "w": Symbol(usual=2)}
    contract = Contract((1, "2*h", "2*w"), (2, "h", "w"), symbols=symbols)
    references = References(Source(contract, decoder=Upscaler()))
    artifact, certificate = export(references.source, tmp_path / "export")
    assert {result.sizes for result in certificate.results} == set(sizes_to_run(contract.free_symbols))
    assert all("sizes" in row for row in certificate.to_json()["rows"])
    model = onnx.load_from_string(artifact.read(artifact.entry("decoder", "onnx")))
    mutations.when_batch(5, "image", "Mul", mutations.f32(0), axis=2)(model)  # images are 4 high, 2, and 6
    subject = Subject(tmp_path, references, artifact)
    files: dict[tuple[Part, str], bytes] = {("decoder", "onnx"): model.SerializeToString()}
    wrong = verified(tampered(subject, tmp_path / "wrong", files), references)
    assert {dict(result.sizes)["h"] for result in wrong.failures} == {3}
