"""Inputs and batch sizes of contracts of every kind."""

from __future__ import annotations

import numpy as np
import pytest

from vae_export.bench.benchmark import allowed_plan
from vae_export.bench.results import BenchPlan
from vae_export.bench.subjects import make_inputs
from vae_export.contract import Condition, Contract
from vae_export.errors import UsageError
from vae_export.tensors import Symbol


def test_inputs_have_the_dtypes_ranges_and_sizes_of_the_contract() -> None:
    contract = Contract(
        (3, "4*h", "4*w"), (8, "h", "w"), (-1, 1), symbols={"h": Symbol(2, 64, usual=5)},
        conditions=(Condition("label", dtype="int32", low=3, high=5), Condition("size", (2,))),
    )  # fmt: skip
    inputs = make_inputs(contract.spec("autoencoder"), 400, contract.sizes({"w": 6}))
    assert {name: array.shape for name, array in inputs.items()} == {
        "image": (400, 3, 20, 24), "noise": (400, 8, 5, 6), "label": (400,), "size": (400, 2)
    }  # fmt: skip
    assert {name: array.dtype for name, array in inputs.items()} == {
        "image": np.float32, "noise": np.float32, "label": np.int32, "size": np.float32
    }  # fmt: skip
    assert -1 <= inputs["image"].min() < -0.99
    assert 0.99 < inputs["image"].max() <= 1
    assert set(inputs["label"]) == {3, 4, 5}


def test_codes_are_drawn_from_the_codebook() -> None:
    contract = Contract((1, 8, 8), (4, 4), encoding="codes", codebook_size=32)
    codes = make_inputs(contract.spec("decoder"), 64, {})["codes"]
    assert codes.dtype == np.int64
    assert set(codes.ravel()) == set(range(32))


def test_batches_that_the_files_do_not_take_are_left_out() -> None:
    bounded, said = Contract((4,), (2,), None, symbols={"N": Symbol(1, 63)}), list[str]()
    assert allowed_plan(BenchPlan(batches=(1, 8, 64)), bounded, said.append).batches == (1, 8)
    assert said == ["the files take 1 to 63 rows; other batch sizes are left out"]
    with pytest.raises(UsageError, match="files take no such batch; expected 1 to 63 rows, got 64; pass --batch"):
        allowed_plan(BenchPlan(batches=(64,)), bounded, said.append)
    plan = BenchPlan(batches=(1, 64))
    assert allowed_plan(plan, Contract((4,), (2,), None), said.append) is plan
