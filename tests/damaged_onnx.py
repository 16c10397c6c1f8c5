"""ONNX files with something wrong: changes of one part of an export, each by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests import sample_models
from tests.conftest import Exported
from vae_export import Artifact, open_artifact
from vae_export.artifact.manifest import MANIFEST, FileContent, FileEntry
from vae_export.contract import Part
from vae_export.io.atomic import write_atomic


def rewritten(export: Exported, folder: Path, part: Part, change: Callable[[onnx.ModelProto], None]) -> Artifact:
    """An export of one ONNX file that was changed, with a manifest that names the changed bytes."""
    old = export.artifact.entry(part)
    model = onnx.load_from_string(export.artifact.read(old))
    before = model.SerializeToString(deterministic=True)
    change(model)
    data = model.SerializeToString(deterministic=True)
    assert data != before, "the change changed something"
    manifest = replace(
        export.artifact.manifest, files=(FileEntry.of(old.name, part, "onnx", FileContent(data)),), golden=()
    )
    write_atomic(folder / old.name, data)
    write_atomic(folder / MANIFEST, manifest.text)
    return open_artifact(folder)


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {name: array for name, array in found.items() if array.dtype == np.float32 and array.ndim > 0}


def put(model: onnx.ModelProto, name: str, array: np.ndarray) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))
            return
    pytest.fail(f"no weight {name}")


def square(model: onnx.ModelProto) -> tuple[str, np.ndarray]:
    shape = (sample_models.HIDDEN, sample_models.HIDDEN)
    return next((name, array) for name, array in weights(model).items() if array.shape == shape)


def nan_weight(model: onnx.ModelProto) -> None:
    name, array = square(model)
    array = array.copy()
    array[3, 5] = np.nan
    put(model, name, array)


def transposed(model: onnx.ModelProto) -> None:
    name, array = square(model)
    put(model, name, array.T)


def swapped_rows(model: onnx.ModelProto) -> None:
    name, array = square(model)
    put(model, name, array[[1, 0, *range(2, len(array))]])


def half_precision(model: onnx.ModelProto) -> None:
    for name, array in weights(model).items():
        put(model, name, array.astype(np.float16).astype(np.float32))


def noise_on_one_layer(model: onnx.ModelProto) -> None:
    name, array = square(model)
    noise = np.random.default_rng(0).standard_normal(array.shape)
    put(model, name, (array * (1 + 1e-4 * noise)).astype(np.float32))


def one_weight_off(model: onnx.ModelProto) -> None:
    """By a thousandth; of a unit that is not switched off by its bias."""
    name, array = square(model)
    row = weights(model)[name.replace("weight", "bias")].argmax()
    array = array.copy()
    array[row, np.abs(array[row]).argmax()] *= 1.001
    put(model, name, array)


def dropped_bias(model: onnx.ModelProto) -> None:
    name, array = next(item for item in weights(model).items() if item[1].shape == (sample_models.HIDDEN,))
    put(model, name, np.zeros_like(array))


def no_sigmoid(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Sigmoid":
            node.op_type = "Identity"


def no_relu(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    node.op_type = "Identity"


def dropout(model: onnx.ModelProto) -> None:
    """In training mode: what a module that was left in it leaves in the graph."""
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    ratio = numpy_helper.from_array(np.array(0.2, np.float32), "ratio")
    training = numpy_helper.from_array(np.array(True), "training")
    model.graph.initializer.extend([ratio, training])
    place = list(model.graph.node).index(node)
    model.graph.node.insert(
        place + 1, onnx.helper.make_node("Dropout", ["before_dropout", "ratio", "training"], [node.output[0]])
    )
    node.output[0] = "before_dropout"


def exchanged(model: onnx.ModelProto) -> None:
    """mean is called logvar and logvar mean, while names and shapes of the outputs stay what they were."""
    names = {"mean": "logvar", "logvar": "mean"}
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def fixed_reshape(model: onnx.ModelProto) -> None:
    """The batch of 2 that the graph was captured with, left inside."""
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.int64 and array.ndim == 1 and array[0] == -1:
            array = array.copy()
            array[0] = 2
            put(model, tensor.name, array)


def renamed_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = model.graph.node[-1].output[0] = "picture"


def renamed_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "z"
    for node in model.graph.node:
        node.input[:] = ["z" if name == "latent" else name for name in node.input]


def baked_batch(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2


def float64_output(model: onnx.ModelProto) -> None:
    output = model.graph.output[0]
    model.graph.node[-1].output[0] = "single"
    model.graph.node.append(onnx.helper.make_node("Cast", ["single"], [output.name], to=onnx.TensorProto.DOUBLE))
    output.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


def no_node(model: onnx.ModelProto) -> None:
    del model.graph.node[0]
