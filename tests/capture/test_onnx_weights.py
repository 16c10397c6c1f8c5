"""ONNX models apart from their large weights are the files that protobuf writes of the whole model."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests import sample_models
from vae_export import Source
from vae_export.capture import capture
from vae_export.capture.onnx_weights import Translation
from vae_export.contract import Part
from vae_export.models.config import Family


def _translated(family: Family, part: Part) -> Translation:
    graph = capture(Source.of(sample_models.checkpoint(family)), part)
    return graph.onnx(20, 1 << 30).stating({"key": "text", "another": "é"})


@pytest.mark.parametrize(("family", "part"), [("mlp", "decoder"), ("conv", "autoencoder")])
def test_one_file_is_the_serialised_complete_model(family: Family, part: Part) -> None:
    translation = _translated(family, part)
    assert translation.weights
    assert translation.one_file() == translation.complete().SerializeToString(deterministic=True)


def test_one_file_keeps_fields_after_the_weights() -> None:
    translation = _translated("mlp", "decoder")
    model = translation.model
    model.doc_string = "before the graph"
    model.functions.append(helper.make_function("own", "f", ["x"], ["y"], [], [helper.make_opsetid("", 20)]))
    model.graph.doc_string = "after the initialisers"
    for tensor in model.graph.initializer:
        tensor.doc_string = "after the bytes"
    model.graph.initializer.append(helper.make_tensor("small", TensorProto.FLOAT, (2,), [1.0, 2.0]))
    assert translation.one_file() == translation.complete().SerializeToString(deterministic=True)


def test_two_files_hold_the_weights_of_one() -> None:
    translation = _translated("mlp", "decoder")
    data, weights = translation.two_files("decoder.data")
    assert len(weights) == translation.size
    whole, apart = onnx.load_model_from_string(translation.one_file()), onnx.load_model_from_string(data)
    for one, other in zip(whole.graph.initializer, apart.graph.initializer, strict=True):
        place = {entry.key: entry.value for entry in other.external_data}
        if place:
            start, length = int(place["offset"]), int(place["length"])
            assert (place["location"], start % 4096) == ("decoder.data", 0)
            assert weights[start : start + length] == numpy_helper.to_array(one).tobytes()
        else:
            assert one == other
