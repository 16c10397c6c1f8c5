"""Precisions of the numbers inside a file. Inputs and outputs are float32 in every precision.

This module does not import torch, because the manifest, the runtime and the command line use it too.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

PrecisionName: TypeAlias = Literal["fp32", "fp16", "bf16", "int8", "int8-static", "int4-weights"]
PRECISIONS: tuple[PrecisionName, ...] = get_args(PrecisionName)
#: The default precision. Files of the first versions state no precision and have this one.
FULL: PrecisionName = "fp32"

#: Precisions that round to integers, so that the step size is equal for small and large numbers.
INTEGER: frozenset[PrecisionName] = frozenset({"int8", "int8-static", "int4-weights"})
#: Precisions that need calibration inputs.
CALIBRATED: frozenset[PrecisionName] = frozenset({"int8-static"})


def infix(precision: PrecisionName) -> str:
    """Return the part of a file name before the suffix: ".int8" in `decoder.int8.onnx`, "" for float32."""
    return "" if precision == FULL else f".{precision}"
