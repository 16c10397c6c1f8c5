"""Faults of numbers: wrong weights, activations, ranges and orders."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from tests.parity.mutations.kinds import Faulty, Mutation, differs
from tests.parity.mutations.nodes import after, f32, i64, left_out, operator, step, without_bias
from tests.parity.mutations.weights import (
    bfloat16,
    every_weight,
    exchange,
    flip,
    int8,
    noise,
    other_weights,
    set_to,
    weight,
)
from vae_export.contract import Part

#: Every pixel but one as it is.
ONE_PIXEL = f32(np.eye(1, 256, 100).reshape(1, 1, 16, 16))
_MIXED = i64(1, 0, 2, 3, 4, 5)


def _noises() -> Iterator[Mutation]:
    parts: dict[Part, tuple[str, ...]] = {
        "encoder": ("encoder.body.1", "encoder.body.3", "encoder.mean", "encoder.logvar.0"),
        "decoder": ("decoder.body.0", "decoder.body.2", "decoder.body.4"),
    }
    for part, layers in parts.items():
        for layer in layers:
            outputs = {"encoder.mean": ("mean",), "encoder.logvar.0": ("logvar",)}.get(layer, ("mean", "logvar"))
            outputs = outputs if part == "encoder" else ("image",)
            for scale in (1e-3, 1e-4, 1e-5):
                change = weight(f"{layer}.weight", noise(scale))
                yield Mutation(f"noise of {scale:g} on {layer}", change, differs(*outputs), part)


def _bits() -> Iterator[Mutation]:
    for name in ("decoder.body.0.weight", "decoder.body.2.bias", "decoder.body.4.weight"):
        for bit in (31, 29, 26, 23, 22, 15):
            yield Mutation(f"bit {bit} of {name}", weight(name, flip(bit)), differs("image"))


NUMBERS: tuple[Mutation, ...] = (
    # weights
    Mutation("a weight is NaN", weight("decoder.body.2.weight", set_to((3, 5), np.nan)), Faulty("not finite")),
    Mutation("a weight is infinite", weight("decoder.body.2.weight", set_to((3, 5), np.inf)), Faulty("not finite")),
    Mutation("a bias is NaN", weight("encoder.mean.bias", set_to((0,), np.nan)), Faulty("not finite"), "encoder"),
    Mutation("a weight is zero", weight("decoder.body.4.weight", set_to((100, 7), 0)), differs("image")),
    Mutation("a weight is transposed", weight("decoder.body.2.weight", lambda w: w.T), differs("image")),
    Mutation("rows of a weight are reversed", weight("decoder.body.2.weight", lambda w: w[::-1]), differs("image")),
    Mutation("a weight has the other sign", weight("decoder.body.0.weight", np.negative), differs("image")),
    Mutation("a weight is scaled", weight("decoder.body.4.weight", lambda w: w * 1.001), differs("image")),
    Mutation("a bias is zeros", weight("decoder.body.2.bias", np.zeros_like), differs("image")),
    Mutation("a bias is left out", without_bias("linear_1"), differs("image", at="linear_1")),
    Mutation("the last bias is left out", without_bias("linear_2"), differs("image", at="linear_2")),
    Mutation(
        "two layers are exchanged",
        exchange("encoder.body.3.weight", "decoder.body.2.weight"),
        differs("reconstruction", "mean", "logvar", "latent"),
        "autoencoder",
    ),
    Mutation("weights are float16", every_weight(lambda w: w.astype(np.float16)), differs("image")),
    Mutation("weights are bfloat16", every_weight(bfloat16), differs("image")),
    Mutation("weights are 8-bit integers", every_weight(int8), differs("image")),
    Mutation("one layer is float16", weight("decoder.body.2.weight", lambda w: w.astype(np.float16)), differs("image")),
    Mutation("weights of an earlier training", other_weights(1), differs("image")),
    Mutation("weights of the epoch before", other_weights(1, 1e-3), differs("image")),
    Mutation("weights of the step before", other_weights(1, 1e-5), differs("image")),
    Mutation("the encoder of an earlier training", other_weights(1), differs("mean", "logvar"), "encoder"),
    *_noises(),
    *_bits(),
    # activations
    Mutation("logits instead of probabilities", left_out("image"), differs("image", at="image")),
    Mutation("tanh in place of the sigmoid", operator("image", "Tanh"), differs("image", at="image")),
    Mutation("a hard sigmoid in its place", operator("image", "HardSigmoid"), differs("image", at="image")),
    Mutation("two sigmoids", after("image", step("Sigmoid")), differs("image", at="image")),
    Mutation("a ReLU is left out", left_out("relu_1"), differs("image", at="relu_1")),
    Mutation("a leaky ReLU", operator("relu", "LeakyRelu", alpha=0.01), differs("image", at="relu")),
    Mutation("an ELU in place of a ReLU", operator("relu", "Elu"), differs("image", at="relu")),
    Mutation("a GELU in place of a ReLU", operator("relu", "Gelu"), differs("image", at="relu")),
    Mutation(
        "an activation goes through float16",
        after("relu", step("Cast", to=TensorProto.FLOAT16), step("Cast", to=TensorProto.FLOAT)),
        differs("image", at="relu"),
    ),
    # ranges
    Mutation(
        "images of 0 to 255 are expected", after("image", step("Div", f32(255))), differs("mean", "logvar"), "encoder"
    ),
    Mutation(
        "images of -1 to 1 are expected",
        after("image", step("Mul", f32(0.5)), step("Add", f32(0.5))),
        differs("mean", "logvar"),
        "encoder",
    ),
    Mutation(
        "images are normalised inside",
        after("image", step("Sub", f32(0.1307)), step("Div", f32(0.3081))),
        differs("mean", "logvar"),
        "encoder",
    ),
    Mutation("images of 0 to 255 are given", after("image", step("Mul", f32(255))), differs("image", at="image")),
    Mutation(
        "images of -1 to 1 are given",
        after("image", step("Mul", f32(2)), step("Sub", f32(1))),
        differs("image", at="image"),
    ),
    Mutation("images are negatives", after("image", step("Neg"), step("Add", f32(1))), differs("image", at="image")),
    Mutation("images are clipped", after("image", step("Clip", f32(0.01), f32(0.99))), differs("image", at="image")),
    Mutation(
        "images are rounded to grey levels",
        after("image", step("Mul", f32(255)), step("Round"), step("Div", f32(255))),
        differs("image", at="image"),
    ),
    # order
    Mutation(
        "pixels are transposed", after("image", step("Transpose", perm=[0, 1, 3, 2])), differs("image", at="image")
    ),
    Mutation(
        "images are mirrored",
        after("image", step("Slice", i64(-1), i64(-1000), i64(3), i64(-1))),
        differs("image", at="image"),
    ),
    Mutation(
        "pixels are read by columns",
        after("image", step("Transpose", perm=[0, 1, 3, 2])),
        differs("mean", "logvar"),
        "encoder",
    ),
    Mutation(
        "two units of the latent are exchanged", after("latent", step("Gather", _MIXED, axis=1)), differs("image")
    ),
    Mutation(
        "two units of the mean are exchanged",
        after("mean", step("Gather", _MIXED, axis=1)),
        differs("mean", at="mean"),
        "encoder",
    ),
    Mutation("one pixel is wrong", after("image", step("Add", 0.05 * ONE_PIXEL)), differs("image", at="image")),
    Mutation("one pixel is wrong by 1e-5", after("image", step("Add", 1e-5 * ONE_PIXEL)), differs("image", at="image")),
    Mutation("one pixel is off", after("image", step("Mul", 1 - ONE_PIXEL)), differs("image", at="image")),
)
