"""The contract: what goes through it is what it says, and all else is named and refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vae_export import Contract
from vae_export.contract import PARTS, TensorSpec
from vae_export.errors import ModelError

sizes = st.integers(1, 40)
contracts = st.builds(
    Contract,
    image_shape=st.tuples(sizes, sizes, sizes),
    latent_shape=st.lists(sizes, min_size=1, max_size=3).map(tuple),
    image_range=st.tuples(st.floats(-9, 0, exclude_max=True), st.floats(0, 9)),
)
items = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


@given(contracts)
def test_survives_json(contract: Contract) -> None:
    assert Contract.from_json(json.loads(json.dumps(contract.to_json(), allow_nan=False))) == contract


@given(contracts)
def test_parts_agree_with_each_other(contract: Contract) -> None:
    encoder, decoder, autoencoder = (contract.spec(part) for part in PARTS)
    assert autoencoder.inputs[0] == encoder.inputs[0]
    assert autoencoder.outputs[1:3] == encoder.outputs
    assert autoencoder.outputs[3] == decoder.inputs[0]
    assert (autoencoder.outputs[0].item, autoencoder.outputs[0].low, autoencoder.outputs[0].high) == (
        decoder.outputs[0].item,
        *contract.image_range,
    )


def test_names_and_order_are_those_of_the_documentation() -> None:
    names = {
        part: ([t.name for t in spec.inputs], [t.name for t in spec.outputs])
        for part in PARTS
        for spec in [Contract((1, 28, 28), (20,)).spec(part)]
    }
    assert names == {
        "encoder": (["image"], ["mean", "logvar"]),
        "decoder": (["latent"], ["image"]),
        "autoencoder": (["image", "noise"], ["reconstruction", "mean", "logvar", "latent"]),
    }


def test_unknown_part_is_refused() -> None:
    with pytest.raises(ModelError, match=r"unknown part; expected encoder \| decoder \| autoencoder \| .*, got head"):
        Contract((1, 2, 3), (4,)).spec("head")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (((1, 28), (4,)), "image_shape"),
        (((1, 28, 0), (4,)), "image_shape"),
        (((1, 28, -28), (4,)), "image_shape"),
        (((1, 28, 28.0), (4,)), "image_shape"),
        (((1, 28, True), (4,)), "image_shape"),
        (((1, 28, 28), ()), "latent_shape"),
        (((1, 28, 28), ("4",)), "latent_shape"),
        (((1, 28, 28), (4,), (1.0, 1.0)), "image_range"),
        (((1, 28, 28), (4,), (1.0, 0.0)), "image_range"),
        (((1, 28, 28), (4,), (0.0, math.nan)), "image_range"),
        (((1, 28, 28), (4,), (-math.inf, 1.0)), "image_range"),
    ],
)
def test_nonsense_is_refused_by_name(arguments: tuple[object, ...], named: str) -> None:
    with pytest.raises(ModelError, match=f"bad contract: {named}; expected"):
        Contract(*arguments)  # type: ignore[arg-type]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=4))
def test_foreign_json_is_refused_and_never_a_crash(value: object) -> None:
    good = Contract((1, 2, 3), (4,)).to_json()
    for key in good.keys() - {"prior"}:
        try:
            read = Contract.from_json(good | {key: value})
        except ModelError:
            continue
        assert read.to_json()[key] == value
    for data in ({}, {"image_shape": value}):
        with pytest.raises(ModelError, match="contract cannot be read"):
            Contract.from_json(data)


@given(items, st.integers(1, 5), st.data())
def test_check_takes_finite_float32_of_its_shape(item: tuple[int, ...], batch: int, data: st.DataObject) -> None:
    value = np.full((batch, *item), data.draw(st.floats(width=32, allow_nan=False, allow_infinity=False)), np.float32)
    spec = TensorSpec("x", item)
    spec.check(value)
    spec.check(value, batch=batch)
    with pytest.raises(ModelError, match="tensor 'x'; expected .*, got"):
        spec.check(value, batch=batch + 1)


@given(items, st.sampled_from([">f4", "f2", "f8", "i4", "u1", "?", "c8", "O"]))
def test_check_refuses_any_other_dtype(item: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(ModelError, match="wrong dtype: tensor 'x'; expected float32, got"):
        TensorSpec("x", item).check(np.zeros((2, *item), dtype))


def test_check_names_the_byte_order() -> None:
    with pytest.raises(ModelError, match="expected float32, got >f4"):
        TensorSpec("x", (2,)).check(np.zeros((1, 2), ">f4"))


@given(items, st.lists(st.integers(0, 4), max_size=4).map(tuple))
def test_check_refuses_any_other_shape(item: tuple[int, ...], shape: tuple[int, ...]) -> None:
    assume(shape[1:] != item or not shape)
    with pytest.raises(ModelError, match="wrong shape: tensor 'x'; expected .*, got"):
        TensorSpec("x", item).check(np.zeros(shape, np.float32))


@given(items)
def test_check_refuses_an_empty_batch(item: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="empty batch: tensor 'x'; expected N of 1 and up"):
        TensorSpec("x", item).check(np.zeros((0, *item), np.float32))


@given(items, st.integers(1, 3), st.sampled_from([np.nan, np.inf, -np.inf]), st.data())
def test_check_names_the_index_of_what_is_not_finite(
    item: tuple[int, ...], batch: int, bad: float, data: st.DataObject
) -> None:
    value = np.zeros((batch, *item), np.float32)
    index = tuple(data.draw(st.integers(0, size - 1)) for size in value.shape)
    value[index] = bad
    with pytest.raises(ModelError) as caught:
        TensorSpec("x", item).check(value)
    assert str(caught.value) == f"not finite: tensor 'x' at {index}; expected finite numbers, got {bad}"


@pytest.mark.parametrize("value", [None, 1.0, [[0.0]], "array", np.float32(1)])
def test_check_refuses_what_is_no_array(value: object) -> None:
    with pytest.raises(ModelError, match="not an array: tensor 'x'; expected a numpy array"):
        TensorSpec("x", (1,)).check(value)
