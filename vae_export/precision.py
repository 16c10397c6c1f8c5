"""Precisions of the numbers inside a file. Inputs and outputs are float32 in every precision.

This module does not import torch, because the manifest, the runtime and the command line use it too.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

PrecisionName: TypeAlias = Literal["fp32", "fp16", "bf16", "int8", "int8-static", "int4-weights"]
PRECISIONS: tuple[PrecisionName, ...] = get_args(PrecisionName)
#: The default precision. Files of the first versions state no precision and have this one.
FULL: PrecisionName = "fp32"

#: One line for each precision, for help and docs.
SUMMARIES: dict[PrecisionName, str] = {
    "fp32": "IEEE 754 single precision, as PyTorch computes",
    "fp16": "IEEE 754 half precision: 11 bits of significand, numbers up to 65,504",
    "bf16": "the upper half of a float32: 8 bits of significand, its whole range",
    "int8": "weights in 8 bits, a scale for each channel; activations in 8 bits, their range found as they come",
    "int8-static": "the same, with ranges of activations that were found beforehand, on calibration inputs",
    "int4-weights": "weights of matrix products in 4 bits, a scale for each 32; activations in float32",
}

#: Precisions that round to integers, so that the step size is equal for small and large numbers.
INTEGER: frozenset[PrecisionName] = frozenset({"int8", "int8-static", "int4-weights"})
#: Precisions that need calibration inputs.
CALIBRATED: frozenset[PrecisionName] = frozenset({"int8-static"})


def infix(precision: PrecisionName) -> str:
    """Return the part of a file name before the suffix: ".int8" in `decoder.int8.onnx`, "" for float32."""
    return "" if precision == FULL else f".{precision}"
