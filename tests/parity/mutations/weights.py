"""Changes of an ONNX file's weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from tests.parity import small_exports
from tests.parity.mutations.kinds import Array, Change


def initialiser(model: ModelProto, name: str) -> TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def weight_names(model: ModelProto) -> list[str]:
    return [tensor.name for tensor in model.graph.initializer if tensor.name.endswith(("weight", "bias"))]


def weight(name: str, change: Callable[[Array], object]) -> Change:
    """`change` gets a copy of the weight, to be changed in place or returned anew."""

    def apply(model: ModelProto) -> None:
        tensor = initialiser(model, name)
        array = numpy_helper.to_array(tensor).copy()
        changed = change(array)
        array = array if changed is None else np.asarray(changed)
        assert list(array.shape) == list(tensor.dims)
        tensor.raw_data = array.astype(np.float32).tobytes()

    return apply


def every_weight(change: Callable[[Array], Array]) -> Change:
    def apply(model: ModelProto) -> None:
        for name in weight_names(model):
            weight(name, change)(model)

    return apply


def set_to(index: tuple[int, ...], value: float) -> Callable[[Array], None]:
    def change(array: Array) -> None:
        array[index] = value

    return change


def noise(scale: float) -> Callable[[Array], Array]:
    return lambda array: array * (1 + scale * np.random.default_rng(0).standard_normal(array.shape))


def flip(bit: int) -> Callable[[Array], None]:
    """Flip one bit of the weight that is largest: 31 is the sign, 30 to 23 the exponent, 22 the first of the rest."""

    def change(array: Array) -> None:
        flat = array.reshape(-1)
        flat.view(np.uint32)[int(np.abs(flat).argmax())] ^= np.uint32(1 << bit)

    return change


def bfloat16(array: Array) -> Array:
    bits = (array.view(np.uint32) + 0x8000) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


def int8(array: Array) -> Array:
    step = np.abs(array).max() / 127
    return np.round(array / step) * step


def other_weights(seed: int, share: float = 1.0) -> Change:
    """The weights of another training, or a step of this size towards them."""

    def apply(model: ModelProto) -> None:
        drawn = small_exports.weights(small_exports.checkpoint("mlp").config, seed)
        for name in weight_names(model):
            weight(name, lambda array, name=name: array + share * (drawn[name].numpy() - array))(model)  # type: ignore[misc]

    return apply


def exchange(one: str, other: str) -> Change:
    def apply(model: ModelProto) -> None:
        first, second = initialiser(model, one), initialiser(model, other)
        first.raw_data, second.raw_data = second.raw_data, first.raw_data

    return apply
