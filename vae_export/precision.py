"""How many bits the numbers inside a file have. Inputs and outputs are float32 whatever the precision.

No torch in here: the manifest, the runtime and the command line read it too.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

PrecisionName: TypeAlias = Literal["fp32", "fp16", "bf16", "int8", "int8-static", "int4-weights"]
PRECISIONS: tuple[PrecisionName, ...] = get_args(PrecisionName)
#: What is taken where nothing is said, and what a file has that says nothing.
FULL: PrecisionName = "fp32"

#: One line each, for help and docs.
SUMMARIES: dict[PrecisionName, str] = {
    "fp32": "IEEE 754 single precision, as PyTorch computes",
    "fp16": "IEEE 754 half precision: 11 bits of significand, numbers up to 65,504",
    "bf16": "the upper half of a float32: 8 bits of significand, its whole range",
    "int8": "weights in 8 bits, a scale for each channel; activations in 8 bits, their range found as they come",
    "int8-static": "the same, with ranges of activations that were found beforehand, on calibration inputs",
    "int4-weights": "weights of matrix products in 4 bits, a scale for each 32; activations in float32",
}

#: Those whose rounding is that of integers: a step is the same for small numbers and large ones.
INTEGER: frozenset[PrecisionName] = frozenset({"int8", "int8-static", "int4-weights"})
#: Those that a file is calibrated for, with inputs of its part.
CALIBRATED: frozenset[PrecisionName] = frozenset({"int8-static"})


def infix(precision: PrecisionName) -> str:
    """What a file's name has between part and suffix: `decoder.int8.onnx`, and `decoder.onnx` for float32."""
    return "" if precision == FULL else f".{precision}"
