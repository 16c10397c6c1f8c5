"""Changes of an ONNX file as a whole: names, types, versions, what a file may not hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.parity import small_exports
from tests.parity.mutations.kinds import Change
from tests.parity.mutations.nodes import after, f32, inputs_of, node_of, step
from tests.parity.mutations.weights import initialiser


def of_output(change: Callable[[onnx.ValueInfoProto], None]) -> Change:
    return lambda model: change(model.graph.output[0])


def renamed(old: str, new: str) -> Change:
    def apply(model: ModelProto) -> None:
        for node in model.graph.node:
            node.output[:] = [new if name == old else name for name in node.output]
        next(value for value in model.graph.output if value.name == old).name = new

    return apply


def more_outputs(model: ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("relu", TensorProto.FLOAT, ["N", small_exports.HIDDEN]))


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
    float_relu = helper.make_tensor_value_info("branch", TensorProto.FLOAT, ["N", small_exports.HIDDEN])
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
