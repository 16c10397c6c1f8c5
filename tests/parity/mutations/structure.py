"""Faults of structure: heads, batches, what training leaves, what a file may not hold, names and types."""

from __future__ import annotations

import onnx

from tests.parity import small_exports
from tests.parity.mutations.kinds import Faulty, Linted, Mutation, Recorded, Refused, differs
from tests.parity.mutations.nodes import (
    after,
    f32,
    i64,
    inputs_of,
    left_out,
    operator,
    outputs_exchanged,
    step,
    when_batch,
)
from tests.parity.mutations.weights import exchange, noise, weight
from tests.parity.mutations.whole import (
    double_inside,
    dropout,
    fixed_batch,
    foreign_operator,
    half_image,
    hidden_in_a_function,
    integer_image,
    ir_version,
    kernel_attribute,
    metadata,
    more_outputs,
    noise_left_out,
    note_on_a_node,
    of_output,
    opset,
    renamed,
    sampling_inside,
    sidecar,
    training_branch,
    unused,
)
from vae_export.errors import ModelError

STRUCTURE: tuple[Mutation, ...] = (
    # heads and noise
    Mutation(
        "mean and logvar are exchanged", outputs_exchanged("mean", "logvar"), differs("mean", "logvar"), "encoder"
    ),
    Mutation(
        "heads have each other's weights",
        exchange("encoder.mean.weight", "encoder.logvar.0.weight"),
        differs("mean", "logvar"),
        "encoder",
    ),
    Mutation("the variance in place of its logarithm", after("logvar", step("Exp")), differs("logvar"), "encoder"),
    Mutation(
        "the deviation in place of logvar",
        after("logvar", step("Mul", f32(0.5)), step("Exp")),
        differs("logvar", at="logvar"),
        "encoder",
    ),
    Mutation("logvar has the other sign", after("logvar", step("Neg")), differs("logvar", at="logvar"), "encoder"),
    Mutation(
        "the noise has the other sign",
        after("noise", step("Neg")),
        differs("reconstruction", "latent"),
        "autoencoder",
    ),
    Mutation(
        "exp(logvar) in place of exp(logvar / 2)",
        left_out("div"),
        differs("reconstruction", "latent", at="div"),
        "autoencoder",
    ),
    Mutation("the latent is the mean", noise_left_out, differs("reconstruction", "latent", at="latent"), "autoencoder"),
    Mutation(
        "the reconstruction is of the mean",
        inputs_of("linear_4", "mean", "decoder.body.0.weight", "decoder.body.0.bias"),
        differs("reconstruction", at="linear_4"),
        "autoencoder",
    ),
    Mutation(
        "latent and mean are exchanged",
        outputs_exchanged("mean", "latent"),
        differs("mean", "latent"),
        "autoencoder",
    ),
    Mutation("noise is drawn inside", sampling_inside, Linted("random-operator"), "autoencoder"),
    Mutation("noise is drawn in a function", hidden_in_a_function, Linted("foreign-domain")),
    # batches
    Mutation(
        "rows are reversed from batch 3 on",
        when_batch(3, "image", "Slice", i64(-1), i64(-1000), i64(0), i64(-1)),
        differs("image", at="image"),
    ),
    Mutation("black from batch 64 on", when_batch(64, "image", "Mul", f32(0)), differs("image", at="image")),
    Mutation(
        "black from batch 257 on", when_batch(257, "image", "Mul", f32(0)), differs("image", at="image"), thorough=True
    ),
    Mutation("always the same image", after("image", step("Mul", f32(0)), step("Add", f32(0.5))), differs("image")),
    Mutation(
        "the first image for every row",
        after("image", step("Slice", i64(0), i64(1), i64(0)), step("Sub", "SOURCE"), step("Add", "SOURCE")),
        differs("image", at="image"),
    ),
    Mutation(
        "one image for the whole batch",
        after("image", step("Slice", i64(0), i64(1), i64(0))),
        Faulty("wrong shape"),
    ),
    Mutation(
        "one image for the whole batch, as its shape says",
        after("image", step("ReduceMean", i64(0), keepdims=1)),
        Refused(ModelError, "outputs do not match the contract"),
    ),
    Mutation(
        "rows are averaged over the batch",
        after("relu", step("ReduceMean", i64(0), keepdims=1), step("Add", "SOURCE"), step("Mul", f32(0.5))),
        differs("image", at="relu"),
    ),
    Mutation("a Reshape to a batch of 2", fixed_batch, Refused(ModelError, "outputs do not match")),
    Mutation(
        "rows are taken in pairs",
        after(
            "relu", step("Reshape", i64(-1, 2 * small_exports.HIDDEN)), step("Reshape", i64(-1, small_exports.HIDDEN))
        ),
        Faulty("cannot run"),
    ),
    Mutation(
        "the batch is a number",
        of_output(
            lambda value: value.type.tensor_type.shape.dim[0].CopyFrom(onnx.TensorShapeProto.Dimension(dim_value=2))
        ),
        Refused(ModelError, "outputs do not match the contract"),
    ),
    # what is left from training
    Mutation("dropout in training mode", dropout(True), Linted("dropout")),
    Mutation("dropout that does nothing", dropout(False), Linted("dropout")),
    Mutation("a branch on a training flag", training_branch, Linted("training-branch")),
    # what a file may not hold
    Mutation("an older operator set", opset(19), Linted("opset")),
    Mutation("a newer operator set", opset(21), Linted("opset")),
    Mutation("an operator set of the future", opset(99), Refused(ModelError, "cannot be opened")),
    Mutation("an older IR version", ir_version(9), Linted("ir-version")),
    Mutation("an IR version of the future", ir_version(99), Refused(ModelError, "cannot be opened")),
    Mutation("an operator of another domain", foreign_operator, Linted("foreign-domain")),
    Mutation("double precision inside", double_inside, Linted("float64")),
    Mutation("weights in another file", sidecar, Refused(ModelError, "cannot be opened")),
    Mutation("a path in the metadata", metadata("made_in", "/home/somebody/vae/train.py"), Linted("machine-trace")),
    Mutation("a source line on a node", note_on_a_node, Linted("machine-trace")),
    Mutation("weights that nothing reads", unused, Recorded("unused-initialiser")),
    # names and types
    Mutation("an output has another name", renamed("image", "images"), Refused(ModelError, "outputs do not match")),
    Mutation("an output more", more_outputs, Refused(ModelError, "outputs do not match")),
    Mutation("images of integers", integer_image, Refused(ModelError, "inputs do not match"), "encoder"),
    Mutation("images of half precision", half_image, Refused(ModelError, "outputs do not match")),
    Mutation("an operator that does not exist", operator("relu", "Rellu"), Refused(ModelError, "cannot be opened")),
    Mutation("a value that nothing computes", inputs_of("relu", "nowhere"), Refused(ModelError, "cannot be opened")),
    # convolutions, and the heads of the post
    Mutation(
        "a kernel is turned round",
        weight("decoder.body.7.weight", lambda w: w[:, :, ::-1, ::-1]),
        differs("image"),
        family="conv",
    ),
    Mutation(
        "channels of a kernel are exchanged",
        weight("decoder.body.5.weight", lambda w: w[:, ::-1]),
        differs("image"),
        family="conv",
    ),
    Mutation(
        "pads are on one side",
        kernel_attribute("convolution", "pads", [0, 0, 2, 2]),
        differs("image", at="convolution"),
        family="conv",
    ),
    Mutation(
        "noise of 1e-5 on a kernel",
        weight("encoder.body.2.weight", noise(1e-5)),
        differs("mean", "logvar"),
        "encoder",
        "conv",
    ),
    Mutation("a head's ReLU is left out", left_out("mean"), differs("mean", at="mean"), "encoder", "blog"),
    Mutation("dropout of the post", dropout(True), Linted("dropout"), "encoder", "blog"),
)
