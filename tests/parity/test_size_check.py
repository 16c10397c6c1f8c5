"""A file that is right at the sizes of its example only is found before the sizes are stated."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from tests.sample_models import Lambda
from vae_export import Contract
from vae_export.artifact.manifest import FileContent
from vae_export.capture import Graph
from vae_export.capture.part_modules import DecoderModule
from vae_export.errors import ModelError
from vae_export.parity.size_check import check_file_at_sizes
from vae_export.tensors import Size, Symbol


def with_its_length(values: Tensor) -> Tensor:
    return values + values.shape[-1]


def graph(length: Size, low: int = 1) -> Graph:
    symbols = {length: Symbol(low)} if isinstance(length, str) else {}
    contract = Contract((2, length), (2, length), None, symbols=symbols)
    return Graph(contract.spec("decoder"), DecoderModule(Lambda(with_its_length)).eval())


def file_of_one_length(weights: list[list[float]], length: Size) -> FileContent:
    """A file with constants that an exporter took from an example of length 8."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2, length]) for name in ("latent", "data")]
    constants = [
        numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("w", weights), ("length", 8))
    ]
    nodes = [
        helper.make_node("MatMul", ["latent", "w"], ["zero"]),
        helper.make_node("Add", ["latent", "length"], ["sum"]),
        helper.make_node("Add", ["sum", "zero"], ["data"]),
    ]
    body = helper.make_graph(nodes, "decoder", tensors[:1], tensors[1:], constants)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return FileContent(model.SerializeToString())


@pytest.mark.parametrize(
    ("rows", "length", "low", "refusal"),
    [
        (8, "t", 1, "cannot run the file: decoder, batch 1, t=1"),
        (3, "t", 3, "computes something else than PyTorch: decoder, 'data', batch 1, t=3"),
    ],
)
def test_file_that_is_right_for_its_example_alone_is_refused(rows: int, length: str, low: int, refusal: str) -> None:
    with pytest.raises(ModelError, match=refusal):
        check_file_at_sizes(graph(length, low), file_of_one_length([[0.0]] * rows, length))


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ModelError, match="batch 1, t=3"):
        check_file_at_sizes(graph("t", 3), file_of_one_length([[np.nan]] * 3, "t"))


def test_file_of_fixed_sizes_is_taken() -> None:
    check_file_at_sizes(graph(8), file_of_one_length([[0.0]] * 8, 8))
