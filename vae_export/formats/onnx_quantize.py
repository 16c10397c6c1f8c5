"""Convert an ONNX model to lower precision with ONNX Runtime's own converters.

fp16 uses the float16 converter. int8 and int8-static use the quantiser after its pre-processing. int4-weights uses the
weight-only quantiser. Inputs and outputs stay float32. Final functions of a decoder, such as Sigmoid, stay float32 too,
because the likelihood needs log(1 - p), and half precision cannot represent probabilities p close to 1.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_export.contract import Array
from vae_export.errors import ModelError, UsageError
from vae_export.formats.onnx_lint import DOMAINS
from vae_export.precision import PrecisionName
from vae_export.system.streams import silenced

if TYPE_CHECKING:
    import onnx

#: Operators whose weights are quantised. Transposed convolutions have no integer kernel.
_QUANTISED_OPS = ["MatMul", "Gemm", "Conv"]
#: Operators that an fp16 file computes in float32.
_FLOAT32_OPS = ["Sigmoid", "Tanh", "Softplus", "Exp", "Log"]
#: How many weights of 4 bits share a scale.
BLOCK_SIZE = 32
#: Operator sets and operators outside ONNX that a precision needs: ONNX has no product with weights of 4 bits.
FOREIGN: dict[PrecisionName, frozenset[str]] = {
    "int4-weights": frozenset({"com.microsoft 1", "com.microsoft MatMulNBits"})
}
#: How MatMulNBits computes: activations stay float32.
_FLOAT32_ACTIVATIONS = 1


def convert_precision(
    model: onnx.ModelProto, precision: PrecisionName, calibration: Mapping[str, Array] | None
) -> onnx.ModelProto:
    """Convert an ONNX model to a lower precision.

    Args:
        model: a float32 model; converters may change it.
        precision: fp16, int8, int8-static or int4-weights.
        calibration: inputs by name, each (M, *item), from which `int8-static` takes the ranges of its activations.

    Returns:
        The converted model, with the metadata of the original.

    Raises:
        ModelError: ONNX Runtime's converter fails, or the model has nothing to convert.
    """
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    before, ir_version = {node.op_type for node in model.graph.node}, model.ir_version
    with silenced():
        try:
            result = _CONVERTERS[precision](model, calibration)
        except (ModelError, UsageError):
            raise
        except Exception as error:  # the converters may raise anything
            raise ModelError(
                f"model cannot be converted to {precision}", got=f"{type(error).__name__}: {error}"
            ) from error
    if precision != "fp16" and {node.op_type for node in result.graph.node} <= before - set(_QUANTISED_OPS) | {"Gemm"}:
        raise ModelError(f"nothing to convert to {precision}", expected=" | ".join(_QUANTISED_OPS), got=sorted(before))
    _tidy(result, metadata, ir_version)
    return result


def _to_fp16(model: onnx.ModelProto, _calibration: Mapping[str, Array] | None) -> onnx.ModelProto:
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    blocked = [*DEFAULT_OP_BLOCK_LIST, *_FLOAT32_OPS]
    half = ONNXModel(convert_float_to_float16(model, keep_io_types=True, op_block_list=blocked))
    half.topological_sort()  # the converter puts the casts of inputs behind their readers
    converted: onnx.ModelProto = half.model
    return converted


def _to_int8(model: onnx.ModelProto, _calibration: Mapping[str, Array] | None) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    return _through_files(
        model,
        lambda source, target: quantize_dynamic(
            source, target, op_types_to_quantize=_QUANTISED_OPS, per_channel=True, weight_type=QuantType.QInt8
        ),
    )


def _to_int8_static(model: onnx.ModelProto, calibration: Mapping[str, Array] | None) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    if not calibration:
        raise ModelError("no inputs to calibrate with", expected="arrays by the names of the graph's inputs")
    return _through_files(
        model,
        lambda source, target: quantize_static(
            source,
            target,
            _OneBatchReader(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_QUANTISED_OPS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # Only the inputs of products are quantised: an output needs more than 256 steps.
            extra_options={"OpTypesToExcludeOutputQuantization": _QUANTISED_OPS},
        ),
    )


def _to_int4_weights(model: onnx.ModelProto, _calibration: Mapping[str, Array] | None) -> onnx.ModelProto:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    products = ONNXModel(_preprocessed(model))
    products.replace_gemm_with_matmul()
    quantizer = MatMulNBitsQuantizer(
        products.model, bits=4, block_size=BLOCK_SIZE, is_symmetric=True, accuracy_level=_FLOAT32_ACTIVATIONS
    )
    quantizer.process()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


_CONVERTERS: dict[PrecisionName, Callable[[onnx.ModelProto, Mapping[str, Array] | None], onnx.ModelProto]] = {
    "fp16": _to_fp16,
    "int8": _to_int8,
    "int8-static": _to_int8_static,
    "int4-weights": _to_int4_weights,
}


class _OneBatchReader:
    """An ONNX Runtime `CalibrationDataReader` of one batch."""

    def __init__(self, inputs: Mapping[str, Array]) -> None:
        self._batches: Iterator[dict[str, Array]] = iter([dict(inputs)])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._batches, None)


def _through_files(model: onnx.ModelProto, quantise: Callable[[str, str], Any]) -> onnx.ModelProto:
    """Run a quantiser that reads and writes files, in a temporary folder."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source.onnx", Path(folder) / "target.onnx"
        prepared = _preprocessed(model)
        _set_weights_apart(prepared)
        _set_outputs_apart(prepared)
        onnx.save(prepared, source)
        quantise(str(source), str(target))
        return onnx.load(target)


def _set_weights_apart(model: onnx.ModelProto) -> None:
    """Give each product a weight of its own, as the two halves of an autoencoder may share some.

    For exact products (`EXACT_INT8`), ONNX Runtime names unsigned weights after the signed ones, and cannot open a
    model in which two operators read the same. Operators that are not quantised keep float32 weights.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    for number, node in enumerate(graph.node):
        if node.op_type in _QUANTISED_OPS and readers[name := node.input[1]] > 1 and name in weights:
            copy = graph.initializer.add()
            copy.CopyFrom(weights[name])
            copy.name = node.input[1] = f"{name}_{number}"
            readers[name] -= 1


def _set_outputs_apart(model: onnx.ModelProto) -> None:
    """Split a value that is both an output and a product's input into two, so that only the input is quantised."""
    from onnxruntime.quantization.onnx_model import ONNXModel

    read = {name for node in model.graph.node for name in node.input}
    for name in [output.name for output in model.graph.output if output.name in read]:
        for node in model.graph.node:
            node.input[:] = [f"{name}_within" if given == name else given for given in node.input]
        model.graph.node.add(op_type="Identity", name=f"{name}_copy", input=[name], output=[f"{name}_within"])
    ONNXModel(model).topological_sort()


def _preprocessed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model after ONNX Runtime's pre-processing: shapes inferred, the graph optimised at level `basic`."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source.onnx", Path(folder) / "target.onnx"
        onnx.save(model, source)
        # Symbolic inference needs SymPy, and the batch is the only unknown size.
        quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
        prepared = onnx.load(target)
    # Shapes of weights are in the weights. Before 1.32, ONNX Runtime's quantiser transposes some of these and not the
    # shapes that are stated of them, which its own shape inference then refuses.
    weights = {tensor.name for tensor in prepared.graph.initializer}
    stated = [value for value in prepared.graph.value_info if value.name not in weights]
    del prepared.graph.value_info[:]
    prepared.graph.value_info.extend(stated)
    return prepared


def _tidy(model: onnx.ModelProto, metadata: Mapping[str, str], ir_version: int) -> None:
    """Remove notes and unused operator sets of the converters, and restore the metadata and the IR version."""
    used = {node.domain for node in model.graph.node}
    versions = {entry.domain: entry.version for entry in model.opset_import}
    del model.opset_import[:]
    for domain, version in versions.items():
        if domain in DOMAINS or domain in used:
            model.opset_import.add(domain=domain, version=version)
    model.ir_version = ir_version
    model.ClearField("producer_name")
    model.ClearField("producer_version")
    del model.metadata_props[:]
    for key, value in sorted(metadata.items()):
        model.metadata_props.add(key=key, value=value)
