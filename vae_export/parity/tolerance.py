"""The numbers that a precision has: how far apart they are, and how many of them a file may be off.

docs/parity.md has the reason for each figure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vae_export.precision import FULL, PrecisionName

#: Largest relative error of one rounding to nearest: 2^-p for p bits of significand (IEEE 754; bfloat16 has 8).
ROUNDOFF: dict[PrecisionName, float] = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}
UNIT_ROUNDOFF = ROUNDOFF[FULL]
#: How many times further from the truth than PyTorch's own rounding a file may be. Two implementations that sum in
#: different orders differ by a small factor either way; a wrong weight, layer or dtype by far more. Of integers fewer:
#: eight steps are a thirtieth of the largest weight in 8 bits, and more than all of it in 4.
REACHES: dict[PrecisionName, float] = {
    "fp32": 8.0,
    "fp16": 8.0,
    "bf16": 8.0,
    "int8": 4.0,
    "int8-static": 4.0,
    "int4-weights": 2.0,
}
#: The same of the mean error of many numbers. It depends on luck far less than the worst one: integers that are rounded
#: are off by a quarter of a step on average, and integers that are cut off by a half. Of floats the order of summation
#: decides, for the mean as for the worst.
MEAN_REACHES: dict[PrecisionName, float] = {
    "fp32": 8.0,
    "fp16": 8.0,
    "bf16": 8.0,
    "int8": 2.0,
    "int8-static": 2.0,
    "int4-weights": 2.0,
}
#: Largest level of a weight. They are symmetric around zero, so that zero is exact.
_WEIGHT_LEVELS: dict[PrecisionName, int] = {"int8": 127, "int8-static": 127, "int4-weights": 7}
#: Levels of an activation: 8 bits from its lowest value to its highest, zero among them.
ACTIVATION_LEVELS = 255
#: Weights that share a scale in 4 bits.
BLOCK = 32
_PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
#: Layers whose products are taken in integers.
_LAYERS: dict[PrecisionName, tuple[type[nn.Module], ...]] = {
    "int8": _PRODUCTS,
    "int8-static": _PRODUCTS,
    "int4-weights": (nn.Linear,),
}


def layers(module: nn.Module, precision: PrecisionName) -> list[Any]:
    """The layers whose weights are integers in this precision: those that are modules of PyTorch's own."""
    return [layer for layer in module.modules() if isinstance(layer, _LAYERS.get(precision, ()))]


def half_steps(module: nn.Module, precision: PrecisionName) -> Iterator[tuple[Tensor, Tensor]]:
    """Each floating weight of a module, and how far each of its numbers may be from the nearest of the precision."""
    integer = {id(layer.weight) for layer in layers(module, precision)}
    for tensor in (*module.parameters(), *module.buffers()):
        if id(tensor) in integer:
            yield tensor, steps(tensor, precision) / 2
        elif tensor.is_floating_point():
            yield tensor, tensor.abs() * ROUNDOFF.get(precision, UNIT_ROUNDOFF)


def half_step(values: Tensor, precision: PrecisionName) -> Tensor:
    """The same of an activation, such as a graph's input."""
    if precision in ("int8", "int8-static"):
        low, high = span(values)
        return torch.full_like(values, float(high - low) / ACTIVATION_LEVELS / 2)
    return values.abs() * ROUNDOFF.get(precision, UNIT_ROUNDOFF)


def ulp(magnitude: float, precision: PrecisionName) -> float:
    """One unit in the last place of an output as large: a float32 where weights are integers."""
    return float(np.spacing(np.float32(magnitude))) * ROUNDOFF.get(precision, UNIT_ROUNDOFF) / UNIT_ROUNDOFF


def steps(weight: Tensor, precision: PrecisionName) -> Tensor:
    """The distance between two levels of each weight: that of its channel, or of its block within one."""
    if precision != "int4-weights":
        largest = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True).expand_as(weight)
    else:
        blocks = torch.split(weight.abs(), BLOCK, dim=1)
        largest = torch.cat([block.amax(dim=1, keepdim=True).expand_as(block) for block in blocks], dim=1)
    return largest / _WEIGHT_LEVELS[precision]


def span(values: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest, with zero between: what padding and ReLU give is exact."""
    return values.min().clamp(max=0), values.max().clamp(min=0)
