"""The contract: what goes through it is what it says, and all else is named and refused."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vae_export import Contract
from vae_export.contract import PARTS, Condition, Part
from vae_export.errors import ModelError, UsageError
from vae_export.likelihood import Likelihood
from vae_export.pixels import to_pixels
from vae_export.tensors import Expression, Symbol, TensorSpec, all_finite

sizes = st.integers(1, 40)
contracts = st.builds(
    Contract,
    data_shape=st.tuples(sizes, sizes, sizes),
    latent_shape=st.lists(sizes, min_size=1, max_size=3).map(tuple),
    data_range=st.tuples(st.floats(-9, 0, exclude_max=True), st.floats(0, 9)),
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


def test_short_forms_and_numpy_integers_make_the_same_contract() -> None:
    assert Contract([1, 28, 28], [8]) == Contract((1, 28, 28), (8,))  # type: ignore[arg-type]
    assert Contract(np.array([1, 28, 28]), (np.int64(8),)) == Contract((1, 28, 28), (8,))  # type: ignore[arg-type]
    assert Contract((1, 28, 28), {"latent": (8,)}) == Contract((1, 28, 28), (8,))


#: A contract of each kind that the first version of the format cannot express.
EXTENDED = {
    "any size": Contract((3, "8*h", "8*w"), (4, "h", "w"), (-1, 1), symbols={"N": Symbol(1, 63), "h": Symbol(2, 9, 4)}),
    "codes": Contract((3, 16, 16), (4, 4), encoding="codes", codebook_size=32, code_dtype="int32"),
    "table": Contract((13,), (4,), None),
    "two latents": Contract((1, 28, 28), {"z1": (4,), "z2": (2, 2, 2)}),
    "label": Contract((1, 28, 28), (8,), conditions=(Condition("label", (), "int64", 0, 9),)),
    "decoder's condition": Contract((1, 8, 8), (2,), conditions=(Condition("style", (5,), parts=("decoder",)),)),
    "deterministic": Contract((3, 8, 8), (4, 2, 2), encoding="deterministic", prior="given by the user"),
    "video": Contract((3, "4*t+1", 64, 64), (16, "t+1", 8, 8), (-1, 1)),
    "logits": Contract((3, 8, 8), (2,), output_shape=(6, 8, 8)),
    "unclipped": Contract((3, "8*h", 16), (4, "h", 2), (-1, 1), output_shape=(3, "8*h", 16)),
    "sigmoid after data of any size": Contract((13,), (4,), None, output_range=(0, 1)),
    "fixed batch": Contract((1, 8, 8), (2,), symbols={"N": Symbol(1, 1)}),
    "tokens": Contract((6,), (4,), (0, 19), data_dtype="int64", output_shape=(6, 20)),
    "one number for each token": Contract((6,), (4,), (1, 20), data_dtype="int32", output_shape=(6,)),
    "scaled": Contract((3, 8, 8), (4, 1, 1), (-1, 1), scaling_factor=0.18215, shift_factor=0.1),
}


@pytest.mark.parametrize("name", EXTENDED)
def test_extended_contract_survives_json(name: str) -> None:
    contract = EXTENDED[name]
    assert not contract.is_plain
    assert Contract.from_json(json.loads(json.dumps(contract.to_json(), allow_nan=False))) == contract


def test_integers_as_data_are_no_image_and_their_output_has_its_own_name() -> None:
    volume = Contract((1, 4, 4), (2,), (0, 255), data_dtype="int64", output_shape=(1, 4, 4), output_range=(0, 255))
    assert (volume.data.name, volume.output.name, volume.is_image, volume.gives_data) == (
        "data",
        "output",
        False,
        False,
    )
    assert str(volume.data) == "data (N, 1, 4, 4) int64 in [0, 255]"
    assert volume.output.dtype == "float32"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data_dtype": "uint8"}, "data_dtype; expected float32 | int32 | int64, got uint8"),
        ({"data_range": None}, "data_range; expected the lowest and the highest integer"),
        ({"data_range": (0, 19.5)}, "data_range; expected the lowest and the highest integer"),
        ({"data_range": (0, 1 << 32)}, "data_range; expected the lowest and the highest integer"),
        ({"output_shape": None}, "output_shape; expected the shape of what the decoder gives"),
        ({"likelihood": Likelihood("gaussian-fixed", 1.0)}, "likelihood; expected none, since the data is integers"),
    ],
)
def test_integers_as_data_that_cannot_be_drawn_or_scored_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=f"bad contract: {re.escape(reason)}"):
        replace(EXTENDED["tokens"], **changes)


def test_output_without_a_range_is_still_an_image() -> None:
    contract = EXTENDED["unclipped"]
    assert str(contract.spec("decoder").outputs[0]) == "image (N, 3, 8*h, 16)"
    assert contract.is_image
    assert contract.at().image_range == (-1, 1)
    assert Contract((3, 8, 8), (2,), output_shape=(3, 8, 8), output_range=(0, 1)) == Contract((3, 8, 8), (2,))


def test_pixels_have_the_range_of_the_output() -> None:
    contract = Contract((1, 2, 2), (2,), output_range=(-1, 1))
    assert (contract.data_range, contract.image_range) == ((0, 1), (-1, 1))
    image = np.array([-1, 0, 0.5, 1], np.float32).reshape(1, 1, 2, 2)
    assert to_pixels(image, contract, "decoder").ravel().tolist() == [0, 128, 191, 255]
    with pytest.raises(ModelError, match="data has no range"):
        _ = Contract((1, 2, 2), (2,), None).image_range


def test_parts_of_each_encoding_have_their_tensors() -> None:
    def names(contract: Contract, part: Part) -> str:
        spec = contract.spec(part)
        return " → ".join(" ".join(tensor.name for tensor in tensors) for tensors in (spec.inputs, spec.outputs))

    codes, plain, label = EXTENDED["codes"], EXTENDED["deterministic"], EXTENDED["label"]
    assert names(codes, "encoder") == "image → codes"
    assert names(codes, "autoencoder") == "image → reconstruction codes"
    assert names(plain, "autoencoder") == "image → reconstruction latent"
    assert names(label, "encoder") == "image label → mean logvar"
    assert names(label, "autoencoder") == "image noise label → reconstruction mean logvar latent"
    assert names(EXTENDED["decoder's condition"], "encoder") == "image → mean logvar"
    assert names(EXTENDED["decoder's condition"], "decoder") == "latent style → image"
    assert names(EXTENDED["two latents"], "encoder") == "image → z1_mean z1_logvar z2_mean z2_logvar"
    assert names(EXTENDED["two latents"], "autoencoder").startswith("image z1_noise z2_noise → reconstruction z1_mean")
    assert names(EXTENDED["logits"], "decoder") == "latent → output"


@pytest.mark.parametrize(
    ("symbol", "usual"),
    [(Symbol(), 8), (Symbol(16), 16), (Symbol(16, 64), 16), (Symbol(1, 4), 4), (Symbol(2, 9), 8), (Symbol(2, 9, 3), 3)],
)
def test_usual_value_lies_within_the_bounds(symbol: Symbol, usual: int) -> None:
    assert symbol.usual_value == usual
    assert symbol.allows(usual)


def test_open_sizes_take_numbers_at_a_size() -> None:
    contract = EXTENDED["any size"]
    assert contract.at().data_shape == (3, 32, 64)  # h has a usual value, w has none
    assert contract.at({"h": 2, "w": 3}).latent_shape == (4, 2, 3)
    assert contract.fixed({"w": 5}).data_shape == (3, "8*h", 40)
    assert contract.fixed({"N": 2}).data.shape == (2, 3, "8*h", "8*w")


def test_sizes_are_the_chosen_ones_or_the_usual_ones() -> None:
    contract = Contract((3, "8*h", "8*w"), (4, "h", "w"), symbols={"h": Symbol(2, 64, usual=5), "w": Symbol(4)})
    assert contract.sizes({}) == {"h": 5, "w": 8}
    assert contract.sizes({"w": 32}) == {"h": 5, "w": 32}
    with pytest.raises(UsageError, match=r"unknown size; expected h \| w, got d"):
        contract.sizes({"d": 3})
    with pytest.raises(UsageError, match="size out of bounds: h; expected 2 to 64, got 65"):
        contract.sizes({"h": 65})


def test_inputs_of_open_sizes_are_checked_together() -> None:
    spec = EXTENDED["any size"].spec("autoencoder")

    def arrays(image: tuple[int, int], noise: tuple[int, int]) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
        shapes = {"image": (2, 3, *image), "noise": (2, 4, *noise)}
        return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}

    assert spec.check_inputs(arrays((16, 24), (2, 3))) == 2
    assert spec.sizes(arrays((16, 24), (2, 3))) == {"h": 2, "w": 3}
    with pytest.raises(ModelError, match="wrong shape: tensor 'image'"):
        spec.check_inputs(arrays((17, 24), (2, 3)))
    with pytest.raises(ModelError, match="wrong shape: tensor 'noise'"):
        spec.check_inputs(arrays((16, 24), (2, 4)))
    with pytest.raises(ModelError, match="size out of bounds: autoencoder, h; expected 2 to 9, got 1"):
        spec.check_inputs(arrays((8, 24), (1, 3)))


@pytest.mark.parametrize("text", ["8h", "h*w", "", "*h", "8*", "h+", "N+x", "-h", "0*h"])
def test_bad_size_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="bad size"):
        Expression.parse(text)


@given(st.integers(1, 64), st.integers(-8, 8), st.integers(1, 99))
def test_expression_solves_what_it_computes(factor: int, offset: int, value: int) -> None:
    expression = Expression("h", factor, offset)
    assert Expression.parse(str(expression)) == expression
    assert expression.solve(expression.at(value)) == value
    assert factor == 1 or expression.solve(expression.at(value) + 1) is None


def test_unknown_part_is_refused() -> None:
    with pytest.raises(ModelError, match=r"unknown part; expected encoder \| decoder \| autoencoder \| .*, got head"):
        Contract((1, 2, 3), (4,)).spec("head")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (((), (4,)), "data_shape"),
        (((1, 28, 0), (4,)), "data_shape"),
        (((1, 28, -28), (4,)), "data_shape"),
        (((1, 28, 28.0), (4,)), "data_shape"),
        (((1, 28, True), (4,)), "data_shape"),
        (((1, 28, 28), ()), "latent_shape"),
        (((1, 28, 28), (None,)), "latent_shape"),
        (((1, 28, 28), (4,), (1.0, 1.0)), "data_range"),
        (((1, 28, 28), ("N",)), "shapes"),
        (((1, 28, 28), {"image": (2,), "other": (3,)}), "decoder, names"),
        (((1, 28, 28), (4,), (1.0, 0.0)), "data_range"),
        (((1, 28, 28), (4,), (0.0, math.nan)), "data_range"),
        (((1, 28, 28), (4,), (-math.inf, 1.0)), "data_range"),
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


@pytest.mark.parametrize("size", [1, 4096, 5000])
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4), st.booleans(), st.data())
def test_finite_numbers_are_told_by_their_bits_as_numpy_tells_them(
    size: int, patterns: list[int], is_negative: bool, data: st.DataObject
) -> None:
    value = np.full(size, -0.5 if is_negative else 0.5, np.float32)
    edges = st.sampled_from([0x7F7F_FFFF, 0x7F80_0000, 0x7F80_0001, 0x8000_0000, 0xFF7F_FFFF, 0xFF80_0000, 0xFFFF_FFFF])
    for pattern in (*patterns, *data.draw(st.lists(edges, max_size=2))):
        value.view(np.uint32)[data.draw(st.integers(0, size - 1))] = pattern
    assert all_finite(value) == np.isfinite(value).all()


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


@pytest.mark.parametrize("codes", [True, False])
def test_prior_that_cannot_be_drawn_is_refused(codes: bool) -> None:
    contract = EXTENDED["codes"] if codes else Contract((13,), (4,), None)
    with pytest.raises(ModelError, match='bad contract: prior; expected "uniform" over codes'):
        replace(contract, prior="standard normal" if codes else "uniform")
    assert replace(contract, prior="given by the user").prior == "given by the user"


OPEN = Contract((3, "8*h", "8*w"), (4, "h", "w"), symbols={"h": Symbol(1, 64)})


@pytest.mark.parametrize(
    "contract",
    [
        OPEN,
        OPEN.narrowed({"N": Symbol(1, 63)}),
        OPEN.narrowed({"h": Symbol(2, 20, 8)}),
        OPEN.fixed({"h": 8}),
        OPEN.fixed({"h": 8, "w": 3, "N": 1}),
    ],
)
def test_narrowings_of_a_contract_are_known(contract: Contract) -> None:
    assert contract.is_narrowing_of(OPEN)
    assert Contract.from_json(contract.to_json()).is_narrowing_of(OPEN)
    assert contract == OPEN or not OPEN.is_narrowing_of(contract)


@pytest.mark.parametrize(
    "contract",
    [
        OPEN.narrowed({"h": Symbol(1, 65)}),
        OPEN.narrowed({"h": Symbol()}),
        OPEN.fixed({"h": 65}),
        Contract((3, "8*h", "8*w"), (5, "h", "w"), symbols={"h": Symbol(1, 64)}),
        Contract((3, "4*h", "8*w"), (4, "h", "w"), symbols={"h": Symbol(1, 64)}),
        Contract((3, 12, "8*w"), (4, 1, "w")),
        Contract((3, 16, 16), (4, 2, 2), (-1.0, 1.0)),
        Contract((192,), (16,)),
    ],
)
def test_other_contracts_are_no_narrowings(contract: Contract) -> None:
    assert not contract.is_narrowing_of(OPEN)
