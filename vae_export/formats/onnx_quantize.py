"""An ONNX file's numbers in fewer bits, by ONNX Runtime's own converters.

fp16 takes its float16 converter; 8 bits its quantiser, after its own pre-processing; 4 bits its weight-only quantiser.
Inputs and outputs stay float32. The logistic and its like stay float32 as well: a probability near 1 has no bits left
in half precision, and nats are made of the logarithm of what is missing to it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vae_export.contract import Array
from vae_export.errors import ModelError, UsageError
from vae_export.precision import PrecisionName
from vae_export.system.streams import silenced

if TYPE_CHECKING:
    import onnx

#: Operators whose weights become integers, in 8 bits. Transposed convolutions have no integer kernel.
_PRODUCTS = ["MatMul", "Gemm", "Conv"]
#: What ends a decoder, and what a half-precision file computes in float32.
_ENDS = ["Sigmoid", "Tanh", "Softplus", "Exp", "Log"]
#: Weights that share a scale in 4 bits.
_BLOCK = 32
#: What is not ONNX's own in a file, by its precision: ONNX has no product with weights of 4 bits.
FOREIGN: dict[PrecisionName, frozenset[str]] = {
    "int4-weights": frozenset({"com.microsoft 1", "com.microsoft MatMulNBits"})
}
#: How MatMulNBits computes: activations stay float32.
_FLOAT32_ACTIVATIONS = 1
#: Operator sets that a converter may bring along. One that no node uses is taken out again.
_OWN_DOMAINS = ("", "ai.onnx")


def convert_precision(
    model: onnx.ModelProto, precision: PrecisionName, calibration: Mapping[str, Array] | None
) -> onnx.ModelProto:
    """The model with the numbers of `precision`.

    Args:
        calibration: inputs by name (M, *item), from which `int8-static` takes the ranges of its activations.

    Raises:
        ModelError: ONNX Runtime's converter cannot do it, or there is nothing in the model to convert.
    """
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    before, ir_version = {node.op_type for node in model.graph.node}, model.ir_version
    with silenced():
        try:
            result = _CONVERTERS[precision](model, calibration)
        except (ModelError, UsageError):
            raise
        except Exception as error:  # the converters raise whatever they led to
            raise ModelError(
                f"model cannot be converted to {precision}", got=f"{type(error).__name__}: {error}"
            ) from error
    if precision != "fp16" and {node.op_type for node in result.graph.node} <= before - set(_PRODUCTS) | {"Gemm"}:
        raise ModelError(f"nothing to convert to {precision}", expected=" | ".join(_PRODUCTS), got=sorted(before))
    _tidy(result, metadata, ir_version)
    return result


def _half(model: onnx.ModelProto, _calibration: Mapping[str, Array] | None) -> onnx.ModelProto:
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    blocked = [*DEFAULT_OP_BLOCK_LIST, *_ENDS]
    half = ONNXModel(convert_float_to_float16(model, keep_io_types=True, op_block_list=blocked))
    half.topological_sort()  # the casts of inputs are put behind their readers
    converted: onnx.ModelProto = half.model
    return converted


def _dynamic(model: onnx.ModelProto, _calibration: Mapping[str, Array] | None) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    return _through_files(
        model,
        lambda source, target: quantize_dynamic(
            source, target, op_types_to_quantize=_PRODUCTS, per_channel=True, weight_type=QuantType.QInt8
        ),
    )


def _static(model: onnx.ModelProto, calibration: Mapping[str, Array] | None) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    if not calibration:
        raise ModelError("no inputs to calibrate with", expected="arrays by the names of the graph's inputs")
    return _through_files(
        model,
        lambda source, target: quantize_static(
            source,
            target,
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_PRODUCTS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # Inputs of products only: what a decoder gives has not one step of eight bits too few.
            extra_options={"OpTypesToExcludeOutputQuantization": _PRODUCTS},
        ),
    )


def _four_bits(model: onnx.ModelProto, _calibration: Mapping[str, Array] | None) -> onnx.ModelProto:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    products = ONNXModel(_preprocessed(model))
    products.replace_gemm_with_matmul()
    quantizer = MatMulNBitsQuantizer(
        products.model, bits=4, block_size=_BLOCK, is_symmetric=True, accuracy_level=_FLOAT32_ACTIVATIONS
    )
    quantizer.process()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


_CONVERTERS: dict[PrecisionName, Callable[[onnx.ModelProto, Mapping[str, Array] | None], onnx.ModelProto]] = {
    "fp16": _half,
    "int8": _dynamic,
    "int8-static": _static,
    "int4-weights": _four_bits,
}


class _Reader:
    """ONNX Runtime's `CalibrationDataReader`: one batch, and no more."""

    def __init__(self, inputs: Mapping[str, Array]) -> None:
        self._batches: Iterator[dict[str, Array]] = iter([dict(inputs)])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._batches, None)


def _through_files(model: onnx.ModelProto, quantise: Callable[[str, str], Any]) -> onnx.ModelProto:
    """The quantiser reads a file and writes one: both lie in a folder of their own, which is gone afterwards."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source.onnx", Path(folder) / "target.onnx"
        prepared = _preprocessed(model)
        _set_outputs_apart(prepared)
        onnx.save(prepared, source)
        quantise(str(source), str(target))
        quantised = onnx.load(target)
    _make_unsigned(quantised, others={tensor.name for tensor in prepared.graph.initializer})
    return quantised


def _make_unsigned(model: onnx.ModelProto, others: Set[str]) -> None:
    """Shift signed weights and their zero points by 128, in place: the same numbers, right on every processor.

    ONNX Runtime multiplies by signed weights in 16 bits, which saturate on an x86 processor without VNNI, and by
    unsigned ones exactly. Its quantiser, asked for unsigned weights, gives them other scales than the 1/127 of the
    largest weight that files are held against.
    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html#data-type-selection

    Args:
        others: initializers of before the quantiser. Where these are INT8, they are the network's own.
    """
    from onnx import TensorProto, numpy_helper

    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.INT8 and tensor.name not in others:
            shifted = numpy_helper.to_array(tensor).view(np.uint8) ^ np.uint8(128)
            tensor.CopyFrom(numpy_helper.from_array(shifted, tensor.name))


def _set_outputs_apart(model: onnx.ModelProto) -> None:
    """Give what is both an output and a product's input two names: only the input is to lose bits."""
    from onnxruntime.quantization.onnx_model import ONNXModel

    read = {name for node in model.graph.node for name in node.input}
    for name in [output.name for output in model.graph.output if output.name in read]:
        for node in model.graph.node:
            node.input[:] = [f"{name}_within" if given == name else given for given in node.input]
        model.graph.node.add(op_type="Identity", name=f"{name}_copy", input=[name], output=[f"{name}_within"])
    ONNXModel(model).topological_sort()


def _preprocessed(model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime's pre-processing: shapes inferred, the graph optimised at its basic level."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source.onnx", Path(folder) / "target.onnx"
        onnx.save(model, source)
        # Its symbolic inference needs SymPy, and our shapes are known but for the batch.
        quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
        return onnx.load(target)


def _tidy(model: onnx.ModelProto, metadata: Mapping[str, str], ir_version: int) -> None:
    """What converters leave: their own notes, operator sets that no node uses, a newer IR version."""
    used = {node.domain for node in model.graph.node}
    versions = {entry.domain: entry.version for entry in model.opset_import}
    del model.opset_import[:]
    for domain, version in versions.items():
        if domain in _OWN_DOMAINS or domain in used:
            model.opset_import.add(domain=domain, version=version)
    model.ir_version = ir_version
    model.ClearField("producer_name")
    model.ClearField("producer_version")
    del model.metadata_props[:]
    for key, value in sorted(metadata.items()):
        model.metadata_props.add(key=key, value=value)
