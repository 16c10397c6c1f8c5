"""The tolerance model: how far an exported file may be from PyTorch's float64 result, and why.

A tolerance is a factor times the baseline error, which is PyTorch's own error in the precision of the file.
docs/parity.md has the reason for each figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vae_export.contract import MAX_LEVEL, Array
from vae_export.errors import UsageError
from vae_export.formats.onnx_quantize import BLOCK_SIZE
from vae_export.precision import FULL, PrecisionName

#: Largest relative error of one rounding to nearest: 2^-p for p bits of significand (IEEE 754; bfloat16 has 8).
UNIT_ROUNDOFFS: dict[PrecisionName, float] = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}
FP32_UNIT_ROUNDOFF = UNIT_ROUNDOFFS[FULL]
#: NVIDIA's TF32 keeps 10 bits of each factor.
TF32_UNIT_ROUNDOFF = 2.0**-11
#: The number of baseline errors by which a file may be off. Two implementations that sum in different orders differ by
#: a small factor; a wrong weight, layer or dtype changes the error by far more. Integers get smaller factors, because
#: eight steps are a thirtieth of the weight range in 8 bits, and more than the whole range in 4.
TOLERANCE_FACTORS: dict[PrecisionName, float] = {
    "fp32": 8.0,
    "fp16": 8.0,
    "bf16": 8.0,
    "int8": 4.0,
    "int8-static": 4.0,
    "int4-weights": 2.0,
}
FP32_TOLERANCE_FACTOR = TOLERANCE_FACTORS[FULL]
#: The factors for the mean error of many numbers, which varies far less than the worst error. Rounded integers are off
#: by a quarter of a step on average, and truncated integers by half a step. For floats the order of summation
#: determines both errors.
MEAN_TOLERANCE_FACTORS: dict[PrecisionName, float] = {
    "fp32": 8.0,
    "fp16": 8.0,
    "bf16": 8.0,
    "int8": 2.0,
    "int8-static": 2.0,
    "int4-weights": 2.0,
}
#: The factors for the mean difference of one output element from PyTorch in the same precision, in units of the mean
#: baseline error of that element. Rounded weights are the same in both, and the rounding of activations cancels in the
#: mean over rows, so little is left: with integers nearly nothing. `int4-weights` rounds no activation at all.
ELEMENT_TOLERANCE_FACTORS: dict[PrecisionName, float] = {
    "fp16": 4.0,
    "bf16": 4.0,
    "int8": 0.4,
    "int8-static": 0.4,
    "int4-weights": 0.02,
}
#: An element may also differ by this number of times the median of all elements: an engine that rounds in another way
#: than the fake quantisation differs in every element, and a wrong channel in one.
ELEMENT_MEDIAN_FACTOR = 6.0
#: The least mean baseline error of an element, as a share of that of the whole output.
_LEAST_ELEMENT_ERROR = 0.5
#: The least baseline error. Engines may flush numbers below 2^-126 to zero, PyTorch keeps them, and a layer adds up
#: thousands of them: a spectrogram of nearly silent sound consists of nothing else.
_LEAST_ERROR = 2.0**-114


@dataclass(frozen=True)
class Tolerance:
    """A tolerance chosen by the user in place of the measured one: atol + rtol · the output's largest value.

    Attributes:
        atol: absolute part, in the output's unit.
        rtol: part relative to the output's largest absolute value.
    """

    atol: float = 0.0
    rtol: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("atol", self.atol), ("rtol", self.rtol)):
            if not 0 <= value < float("inf"):
                raise UsageError(f"bad {name}", expected="a number from 0 up", got=value)


@dataclass(frozen=True)
class ErrorLimits:
    """The largest errors allowed for one output of one probe, with the measurements that they follow from.

    Attributes:
        eager_error: PyTorch's own largest error against float64 in the precision, over all batch sizes of the probe.
        sensitivity: largest change of the output per rounding error of every weight and input (see `Oracle`).
        magnitude: largest absolute value of the output.
        user_tolerance: tolerance that replaces the measured one; None if the user gave none.
        precision: precision of the file.
        eager_mean_error, mean_sensitivity: the first two figures for the mean error of a batch; None takes the first
            two figures, because a mean is never above the largest value.
        value_range: width of the contract's range of the output; infinite if it has none.
    """

    eager_error: float
    sensitivity: float
    magnitude: float
    user_tolerance: Tolerance | None = None
    precision: PrecisionName = FULL
    eager_mean_error: float | None = None
    mean_sensitivity: float | None = None
    value_range: float = math.inf

    def in_levels(self, levels: float) -> ErrorLimits:
        """Return the limits for the bytes of an image, where one unit of the image is `levels` grey levels."""
        own = self.user_tolerance
        return replace(
            self,
            eager_error=self.eager_error * levels,
            sensitivity=self.sensitivity * levels,
            magnitude=float(MAX_LEVEL),  # the value before rounding is computed at up to that size
            user_tolerance=own and replace(own, atol=own.atol * levels),
            eager_mean_error=None if self.eager_mean_error is None else self.eager_mean_error * levels,
            mean_sensitivity=None if self.mean_sensitivity is None else self.mean_sensitivity * levels,
            value_range=float(MAX_LEVEL),
        )

    @cached_property
    def baseline_error(self) -> float:
        """The larger of PyTorch's measured error and the error that rounding or flushing to zero can cause."""
        return self._baseline(self.eager_error, self.sensitivity)

    @cached_property
    def mean_baseline_error(self) -> float:
        """The baseline error for the mean over a batch."""
        eager = self.eager_error if self.eager_mean_error is None else self.eager_mean_error
        return self._baseline(eager, self._mean_sensitivity)

    def tolerance(self, *, tf32: bool = False) -> float:
        """Return the largest error that any single number of a file's output may have."""
        return self._tolerance(TOLERANCE_FACTORS[self.precision], self.baseline_error, self.sensitivity, tf32)

    def mean_tolerance(self, *, tf32: bool = False) -> float:
        """Return the largest mean error that the numbers of a batch may have."""
        factor = MEAN_TOLERANCE_FACTORS[self.precision]
        return self._tolerance(factor, self.mean_baseline_error, self._mean_sensitivity, tf32)

    @property
    def _mean_sensitivity(self) -> float:
        return self.sensitivity if self.mean_sensitivity is None else self.mean_sensitivity

    def _baseline(self, eager: float, sensitivity: float) -> float:
        return max(eager, sensitivity, ulp(self.magnitude, self.precision), _LEAST_ERROR)

    def _tolerance(self, factor: float, baseline: float, sensitivity: float, tf32: bool) -> float:
        if self.user_tolerance is not None:
            return self.user_tolerance.atol + self.user_tolerance.rtol * self.magnitude
        # Integer precisions are already coarser than TF32.
        own_roundoff = UNIT_ROUNDOFFS.get(self.precision, TF32_UNIT_ROUNDOFF)
        with_tf32 = sensitivity * TF32_UNIT_ROUNDOFF / own_roundoff if tf32 else 0.0
        return factor * max(baseline, with_tf32)


@dataclass(frozen=True)
class ElementLimits:
    """The mean of each element of an output over the rows of a batch, in PyTorch with the numbers of a precision.

    Attributes:
        mean: means (*item), float64.
        unit: mean baseline error of each element (*item), above 0.
        factor: number of units by which a file's mean may differ.
    """

    mean: Array
    unit: Array
    factor: float

    @classmethod
    def of(cls, baseline: Array, expected: Array, limits: ErrorLimits) -> ElementLimits | None:
        """Return the limits of a batch, or None in a precision whose elements are not judged.

        Args:
            baseline: PyTorch's output in the precision, (N, *item).
            expected: PyTorch's float64 output, (N, *item).
            limits: the error limits of the output in the precision.
        """
        factor = ELEMENT_TOLERANCE_FACTORS.get(limits.precision)
        if factor is None or limits.user_tolerance is not None:
            return None
        error = np.abs(baseline - expected).mean(0)
        least = _LEAST_ELEMENT_ERROR * limits.mean_baseline_error
        return cls(baseline.mean(0, dtype=np.float64), np.maximum(error, least), factor)

    def used(self, output: Array) -> tuple[float, tuple[int, ...]]:
        """Return the largest share of its tolerance that an element uses, and the element.

        Args:
            output: a file's output, (N, *item).
        """
        ratios = np.abs(output.mean(0, dtype=np.float64) - self.mean) / self.unit
        shares = ratios / max(self.factor, ELEMENT_MEDIAN_FACTOR * float(np.median(ratios)))
        worst = np.unravel_index(int(shares.argmax()), shares.shape)
        return float(shares[worst]), tuple(int(index) for index in worst)


def ulp(magnitude: float, precision: PrecisionName) -> float:
    """Return one unit in the last place at `magnitude`; precisions with integer weights count as float32."""
    relative = UNIT_ROUNDOFFS.get(precision, FP32_UNIT_ROUNDOFF) / FP32_UNIT_ROUNDOFF
    return float(np.spacing(np.float32(magnitude))) * relative


#: Level of the weight that is farthest from zero. Zero is a level too, so that it is represented exactly.
_WEIGHT_LEVELS: dict[PrecisionName, int] = {"int8": 127, "int8-static": 127, "int4-weights": -8}
#: The lowest and the highest level of a weight of 4 bits.
INT4_LEVELS = (-8, 7)
#: Largest level of an activation: 8 bits from its lowest value to its highest, with zero as one of the levels.
ACTIVATION_LEVELS = 255
#: Numbers of a weight for which rounding errors are computed at a time.
_PIECE = 1 << 20
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
#: Axes of the weight of a linear layer; a convolution's has more.
_MATRIX_AXES = 2
#: Layers whose products are computed with integers.
_QUANTIZED_LAYERS: dict[PrecisionName, tuple[type[nn.Module], ...]] = {
    "int8": _PRODUCTS,
    "int8-static": _PRODUCTS,
    "int4-weights": (nn.Linear,),
}


def quantized_layers(module: nn.Module, precision: PrecisionName) -> list[Any]:
    """Return the layers of a module whose weights are integers in this precision."""
    return [layer for layer in module.modules() if isinstance(layer, _QUANTIZED_LAYERS.get(precision, ()))]


def quantization_steps(weight: Tensor, precision: PrecisionName) -> Tensor:
    """Return the value of level 1 for each weight of a layer, in the shape of the weight.

    It is the same within a channel, within a block of a channel in `int4-weights`, and within the whole weight of a
    convolution in `int8`, where ONNX Runtime's quantiser gives it a single scale. In `int4-weights` it is below zero
    where the weight that is farthest from zero is above: that one has the level -8, and the highest level is 7.
    """
    if precision == "int8" and weight.ndim > _MATRIX_AXES:
        largest = weight.abs().amax().expand_as(weight)
    elif precision != "int4-weights":
        largest = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True).expand_as(weight)
    else:
        blocks = torch.split(weight, BLOCK_SIZE, dim=1)
        largest = torch.cat([_farthest(block).expand_as(block) for block in blocks], dim=1)
    return largest / _WEIGHT_LEVELS[precision]


def _farthest(block: Tensor) -> Tensor:
    """Return the number of each row that is farthest from zero, in one column."""
    low, high = block.amin(dim=1, keepdim=True), block.amax(dim=1, keepdim=True)
    return torch.where(high.abs() > low.abs(), high, low)


def range_with_zero(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lowest and the highest value of a range with zero in it, as padding and ReLU give exact zeros."""
    return values.min().clamp(max=0), values.max().clamp(min=0)


def weight_roundoffs(
    module: nn.Module, precision: PrecisionName, layers: nn.Module | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each floating-point weight and buffer with the largest rounding errors of its numbers, in its shape.

    Large ones come in pieces, one after the other, because figures for all of a weight take as much memory as it does.

    Args:
        module: the module whose weights are yielded.
        precision: the precision.
        layers: the module whose layers have these weights by name; None for the same module. A captured program has
            weights and no layers.
    """
    kinds = _QUANTIZED_LAYERS.get(precision, ())
    integer = {
        f"{name}.weight".lstrip(".") for name, layer in (layers or module).named_modules() if isinstance(layer, kinds)
    }
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if name in integer:
            roundoff = quantization_steps(tensor, precision).abs() / 2
            yield from zip(pieces(tensor), pieces(roundoff), strict=True)
        elif tensor.is_floating_point():
            unit = UNIT_ROUNDOFFS.get(precision, FP32_UNIT_ROUNDOFF)
            # Infinite numbers are exact, such as those of a mask that is added to scores of attention.
            yield from ((piece, (piece.abs() * unit).nan_to_num(posinf=0.0)) for piece in pieces(tensor))


def pieces(tensor: Tensor) -> Sequence[Tensor]:
    """Return a tensor as views of at most `_PIECE` numbers, or of one row if that has more, in the order of memory."""
    if tensor.numel() <= _PIECE:
        return [tensor]
    split: Sequence[Tensor] = tensor.split(max(1, _PIECE * len(tensor) // tensor.numel()))
    return split


def input_roundoff(values: Tensor, precision: PrecisionName) -> Tensor:
    """Return the largest rounding error of each number of an activation (such as a graph's input), in its shape."""
    if precision in ("int8", "int8-static"):
        low, high = range_with_zero(values)
        return torch.full_like(values, float(high - low) / ACTIVATION_LEVELS / 2)
    return values.abs() * UNIT_ROUNDOFFS.get(precision, FP32_UNIT_ROUNDOFF)
