"""A hundred ways in which an exported ONNX file can be wrong, and the check that must notice each.

A mutation changes the graph of one part in place. The values of the graphs are named, in this order:

    encoder  image → view → linear → relu → linear_1 → relu_1 → mean, linear_3 → logvar
    decoder  latent → linear → relu → linear_1 → relu_1 → linear_2 → view → image
    autoencoder  both, with div, exp, mul_24, latent between them
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.parity import subject
from vae_export.contract import Part
from vae_export.errors import ModelError, VaeExportError
from vae_export.models.config import Family

Array = np.ndarray
Change = Callable[[ModelProto], None]


@dataclass(frozen=True)
class Differs:
    """Caught because these outputs are further from float64 than rounding explains, and no others.

    `at` is the value where the file leaves the path; by default the first one that a changed weight goes into.
    """

    outputs: frozenset[str]
    at: str | None = None


@dataclass(frozen=True)
class Faulty:
    """Caught because an output is no array that can be compared: rows with this fault."""

    fault: str


@dataclass(frozen=True)
class Linted:
    """Caught by reading the file: an error of this rule."""

    rule: str


@dataclass(frozen=True)
class Refused:
    """Caught before anything is compared: an error of the command line's."""

    error: type[VaeExportError]
    text: str


@dataclass(frozen=True)
class Recorded:
    """Harmless: passes, with a warning of this rule in the certificate."""

    rule: str


Catch = Differs | Faulty | Linted | Refused | Recorded


@dataclass(frozen=True)
class Mutation:
    name: str
    change: Change
    caught: Catch
    part: Part = "decoder"
    family: Family = "mlp"
    thorough: bool = False

    def apply(self, data: bytes) -> bytes:
        model = onnx.load_from_string(data)
        before = model.SerializeToString()
        self.change(model)
        after: bytes = model.SerializeToString()
        assert after != before, "the mutation changes nothing"
        return after


def differs(*outputs: str, at: str | None = None) -> Differs:
    return Differs(frozenset(outputs), at)


# --- weights --------------------------------------------------------------------------------------------------------


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
        drawn = subject.weights(subject.checkpoint("mlp").config, seed)
        for name in weight_names(model):
            weight(name, lambda array, name=name: array + share * (drawn[name].numpy() - array))(model)  # type: ignore[misc]

    return apply


def exchange(one: str, other: str) -> Change:
    def apply(model: ModelProto) -> None:
        first, second = initialiser(model, one), initialiser(model, other)
        first.raw_data, second.raw_data = second.raw_data, first.raw_data

    return apply


# --- nodes ----------------------------------------------------------------------------------------------------------


def node_of(model: ModelProto, output: str) -> NodeProto:
    return next(node for node in model.graph.node if output in node.output)


def operator(output: str, op_type: str, **attributes: object) -> Change:
    """Another operator in the place of the one that computes `output`."""

    def apply(model: ModelProto) -> None:
        node = node_of(model, output)
        node.op_type = op_type
        del node.input[1:]
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())

    return apply


def left_out(output: str) -> Change:
    """The operator that computes `output` hands on its input instead."""
    return operator(output, "Identity")


def without_bias(output: str) -> Change:
    def apply(model: ModelProto) -> None:
        node = node_of(model, output)
        [name] = node.input[2:]
        del node.input[2:]
        model.graph.initializer.remove(initialiser(model, name))

    return apply


def after(output: str, *steps: tuple[str, list[object], dict[str, object]]) -> Change:
    """Operators between the one that computes `output` and whatever reads it. Arrays among inputs become constants."""

    def apply(model: ModelProto) -> None:
        if output in {value.name for value in model.graph.input}:
            _insert(model, output, f"{output}_changed", steps, 0)
            return
        node = node_of(model, output)
        position = list(model.graph.node).index(node)
        raw = f"{output}_unchanged"
        node.output[list(node.output).index(output)] = raw
        _chain(model, raw, output, steps, position + 1)

    return apply


def _insert(model: ModelProto, value: str, renamed: str, steps: tuple, position: int) -> None:
    for node in model.graph.node:
        node.input[:] = [renamed if name == value else name for name in node.input]
    _chain(model, value, renamed, steps, position)


def _chain(model: ModelProto, source: str, result: str, steps: tuple, position: int) -> None:
    current = source
    for count, (op_type, others, attributes) in enumerate(steps):
        target = result if count == len(steps) - 1 else f"{result}_step{count}"
        names = [current]
        for index, other in enumerate(others):
            if isinstance(other, str):
                names.append(source if other == "SOURCE" else other)
            else:
                names.append(f"{target}_constant{index}")
                model.graph.initializer.append(numpy_helper.from_array(np.asarray(other), names[-1]))
        node = helper.make_node(op_type, names, [target], name=f"changed_{target}", **attributes)
        model.graph.node.insert(position + count, node)
        current = target


def f32(value: object) -> Array:
    return np.asarray(value, np.float32)


def i64(*values: int) -> Array:
    return np.asarray(values, np.int64)


def step(op_type: str, *others: object, **attributes: object) -> tuple[str, list[object], dict[str, object]]:
    return op_type, list(others), attributes


def when_batch(at_least: int, output: str, op_type: str, *others: object) -> Change:
    """For batches of this size and larger the value goes through an operator; smaller ones stay as they are."""

    def apply(model: ModelProto) -> None:
        after(output, step("Identity"))(model)
        raw = f"{output}_unchanged"
        graph, position = model.graph, list(model.graph.node).index(node_of(model, output))
        graph.node.remove(node_of(model, output))
        _chain(model, raw, f"{output}_large", (step(op_type, *others),), position)
        graph.initializer.append(numpy_helper.from_array(i64(at_least - 1), f"{output}_limit"))
        graph.node.insert(position + 1, helper.make_node("Shape", [raw], [f"{output}_size"], start=0, end=1))
        is_large = helper.make_node("Greater", [f"{output}_size", f"{output}_limit"], [f"{output}_is_large"])
        graph.node.insert(position + 2, is_large)
        chosen = helper.make_node("Where", [f"{output}_is_large", f"{output}_large", raw], [output])
        graph.node.insert(position + 3, chosen)

    return apply


def inputs_of(output: str, *names: str) -> Change:
    """The operator that computes `output` reads other values."""

    def apply(model: ModelProto) -> None:
        node_of(model, output).input[:] = names

    return apply


def outputs_exchanged(one: str, other: str) -> Change:
    """Two outputs of the graph carry each other's name."""

    def apply(model: ModelProto) -> None:
        swapped = {one: other, other: one}
        for node in model.graph.node:
            node.input[:] = [swapped.get(name, name) for name in node.input]
            node.output[:] = [swapped.get(name, name) for name in node.output]

    return apply


# --- the whole model ------------------------------------------------------------------------------------------------


def of_output(change: Callable[[onnx.ValueInfoProto], None]) -> Change:
    return lambda model: change(model.graph.output[0])


def renamed(old: str, new: str) -> Change:
    def apply(model: ModelProto) -> None:
        for node in model.graph.node:
            node.output[:] = [new if name == old else name for name in node.output]
        next(value for value in model.graph.output if value.name == old).name = new

    return apply


def more_outputs(model: ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("relu", TensorProto.FLOAT, ["N", subject.HIDDEN]))


def integer_image(model: ModelProto) -> None:
    after("image", step("Cast", to=TensorProto.FLOAT), step("Div", f32(255)))(model)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64


def half_image(model: ModelProto) -> None:
    after("image", step("Cast", to=TensorProto.FLOAT16))(model)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def double_inside(model: ModelProto) -> None:
    after("relu", step("Cast", to=TensorProto.DOUBLE), step("Abs"), step("Cast", to=TensorProto.FLOAT))(model)


def noise_left_out(model: ModelProto) -> None:
    inputs_of("latent", "mean", "mean")(model)
    node_of(model, "latent").op_type = "Max"


def sampling_inside(model: ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("RandomNormalLike", ["noise"], ["drawn"], name="draw"))
    for node in list(model.graph.node)[1:]:
        node.input[:] = ["drawn" if name == "noise" else name for name in node.input]


def dropout(training: bool) -> Change:
    return after("relu", step("Dropout", f32(0.2), np.asarray(training)))


def training_branch(model: ModelProto) -> None:
    """An If whose branches are alike, so that nothing but reading the file can notice."""
    float_relu = helper.make_tensor_value_info("branch", TensorProto.FLOAT, ["N", subject.HIDDEN])
    branch = helper.make_graph([helper.make_node("Relu", ["linear"], ["branch"])], "branch", [], [float_relu])
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(False), "training"))
    node = node_of(model, "relu")
    position = list(model.graph.node).index(node)
    model.graph.node.remove(node)
    made = helper.make_node("If", ["training"], ["relu"], name="mode", then_branch=branch, else_branch=branch)
    model.graph.node.insert(position, made)


def foreign_operator(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    node = node_of(model, "relu")
    node.domain, node.op_type = "com.microsoft", "QuickGelu"


def hidden_in_a_function(model: ModelProto) -> None:
    """Draws inside a function of the model's own, so that no node of the graph is called random."""
    node = helper.make_node("RandomNormalLike", ["x"], ["y"])
    body = helper.make_function("ours", "Draw", ["x"], ["y"], [node], [helper.make_opsetid("", 20)])
    model.functions.append(body)
    model.opset_import.append(helper.make_opsetid("ours", 1))
    node_of(model, "relu").domain, node_of(model, "relu").op_type = "ours", "Draw"


def sidecar(model: ModelProto) -> None:
    tensor = initialiser(model, "decoder.body.2.weight")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="decoder.onnx.data")


def metadata(key: str, value: str) -> Change:
    def apply(model: ModelProto) -> None:
        model.metadata_props.add(key=key, value=value)

    return apply


def note_on_a_node(model: ModelProto) -> None:
    node_of(model, "relu").doc_string = 'File "train.py", line 12, in forward'


def unused(model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(f32([1, 2, 3]), "left.over"))


def opset(version: int) -> Change:
    def apply(model: ModelProto) -> None:
        model.opset_import[0].version = version

    return apply


def ir_version(version: int) -> Change:
    def apply(model: ModelProto) -> None:
        model.ir_version = version

    return apply


def fixed_batch(model: ModelProto) -> None:
    """A Reshape to the example's batch of 2, as an exporter leaves it that has baked the batch in."""
    shape = numpy_helper.to_array(initialiser(model, "val_7")).copy()
    shape[0] = 2
    initialiser(model, "val_7").raw_data = shape.tobytes()


def kernel_attribute(output: str, name: str, values: list[int]) -> Change:
    def apply(model: ModelProto) -> None:
        node = node_of(model, output)
        attribute = next(attribute for attribute in node.attribute if attribute.name == name)
        attribute.CopyFrom(helper.make_attribute(name, values))

    return apply


#: Every pixel but one as it is.
_ONE_PIXEL = f32(np.eye(1, 256, 100).reshape(1, 1, 16, 16))
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


MUTATIONS: tuple[Mutation, ...] = (
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
    Mutation("one pixel is wrong", after("image", step("Add", 0.05 * _ONE_PIXEL)), differs("image", at="image")),
    Mutation(
        "one pixel is wrong by 1e-5", after("image", step("Add", 1e-5 * _ONE_PIXEL)), differs("image", at="image")
    ),
    Mutation("one pixel is off", after("image", step("Mul", 1 - _ONE_PIXEL)), differs("image", at="image")),
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
        Refused(ModelError, "outputs are not those of the contract"),
    ),
    Mutation(
        "rows are averaged over the batch",
        after("relu", step("ReduceMean", i64(0), keepdims=1), step("Add", "SOURCE"), step("Mul", f32(0.5))),
        differs("image", at="relu"),
    ),
    Mutation("a Reshape to a batch of 2", fixed_batch, Refused(ModelError, "outputs are not those")),
    Mutation(
        "rows are taken in pairs",
        after("relu", step("Reshape", i64(-1, 2 * subject.HIDDEN)), step("Reshape", i64(-1, subject.HIDDEN))),
        Faulty("cannot run"),
    ),
    Mutation(
        "the batch is a number",
        of_output(
            lambda value: value.type.tensor_type.shape.dim[0].CopyFrom(onnx.TensorShapeProto.Dimension(dim_value=2))
        ),
        Refused(ModelError, "outputs are not those of the contract"),
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
    Mutation("an output has another name", renamed("image", "images"), Refused(ModelError, "outputs are not those")),
    Mutation("an output more", more_outputs, Refused(ModelError, "outputs are not those")),
    Mutation("images of integers", integer_image, Refused(ModelError, "inputs are not those"), "encoder"),
    Mutation("images of half precision", half_image, Refused(ModelError, "outputs are not those")),
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
    Mutation("a head's ReLU is left out", left_out("mean"), differs("mean", at="mean"), "encoder", "post"),
    Mutation("dropout of the post", dropout(True), Linted("dropout"), "encoder", "post"),
)
