"""One output of one run, held against PyTorch and against the truth.

Names, dtypes, shapes and finiteness come before values: a NaN compares false with everything, and numpy would
broadcast (1, 784) against (64, 784) without a word. docs/parity.md has the reasons for every figure in here.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from vae_export.contract import LEVELS, Array, TensorSpec
from vae_export.errors import ModelError, UsageError, VaeExportError
from vae_export.grey import GreyLevels, compare
from vae_export.parity.grid import MEAN_REACHES, REACHES, ROUNDOFF, ulp
from vae_export.pixels import missed
from vae_export.precision import FULL, PrecisionName

#: How many units in its last place a number at the bound of its range may be beyond it.
FACTOR = REACHES[FULL]
#: NVIDIA's TF32 keeps 10 bits of each factor: one rounding of it is 2^-11.
TF32_ROUNDOFF = 2.0**-11
#: Characters of a runtime's own message that a row keeps.
_FAULT_LENGTH = 400


@dataclass(frozen=True)
class Tolerance:
    """A band of the user's own: atol + rtol · the output's largest value, in place of the one that is measured."""

    atol: float = 0.0
    rtol: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("atol", self.atol), ("rtol", self.rtol)):
            if not 0 <= value < float("inf"):
                raise UsageError(f"bad {name}", expected="a number from 0 up", got=value)


@dataclass(frozen=True)
class Scale:
    """How much rounding one output of one probe has to live with.

    Attributes:
        eager_error: PyTorch's own largest error against float64 in the precision, over all batches of the probe.
        sensitivity: of the output to one rounding of each weight and input (see `oracle`).
        magnitude: the largest absolute value of the output.
        tolerance: the user's band, if there is one.
        precision: of the file.
        eager_mean, mean_sensitivity: as the first two, of the mean error of the numbers of one batch; where nothing is
            said of them they are as large, for no mean is above the largest.
        span: how far apart two values of the output can be: the contract's range.
    """

    eager_error: float
    sensitivity: float
    magnitude: float
    tolerance: Tolerance | None = None
    precision: PrecisionName = FULL
    eager_mean: float | None = None
    mean_sensitivity: float | None = None
    span: float = math.inf

    def in_levels(self, levels: float) -> Scale:
        """The same of the bytes of an image, where one of its units is so many grey levels."""
        return replace(
            self,
            eager_error=self.eager_error * levels,
            sensitivity=self.sensitivity * levels,
            magnitude=float(LEVELS),  # what is rounded is computed at up to that
            tolerance=self.tolerance and replace(self.tolerance, atol=self.tolerance.atol * levels),
            eager_mean=None if self.eager_mean is None else self.eager_mean * levels,
            mean_sensitivity=None if self.mean_sensitivity is None else self.mean_sensitivity * levels,
            span=float(LEVELS),
        )

    @cached_property
    def rounding(self) -> float:
        """What PyTorch itself is off by, or would be with less luck; at least one ULP."""
        return self._rounding(self.eager_error, self.sensitivity)

    @cached_property
    def mean_rounding(self) -> float:
        """The same of the mean error of a batch."""
        return self._rounding(
            self.eager_error if self.eager_mean is None else self.eager_mean,
            self.sensitivity if self.mean_sensitivity is None else self.mean_sensitivity,
        )

    def band(self, *, tf32: bool = False) -> float:
        """The largest error that a file may have."""
        return self._band(REACHES[self.precision], self.rounding, self.sensitivity, tf32)

    def mean_band(self, *, tf32: bool = False) -> float:
        """The largest mean error that the numbers of a batch may have."""
        sensitivity = self.sensitivity if self.mean_sensitivity is None else self.mean_sensitivity
        return self._band(MEAN_REACHES[self.precision], self.mean_rounding, sensitivity, tf32)

    def _rounding(self, eager: float, sensitivity: float) -> float:
        return max(eager, sensitivity, ulp(self.magnitude, self.precision))

    def _band(self, reach: float, rounding: float, sensitivity: float, tf32: bool) -> float:
        if self.tolerance is not None:
            return self.tolerance.atol + self.tolerance.rtol * self.magnitude
        # Integers are coarser than TF32 already.
        coarser = sensitivity * TF32_ROUNDOFF / ROUNDOFF.get(self.precision, TF32_ROUNDOFF) if tf32 else 0.0
        return reach * max(rounding, coarser)


@dataclass(frozen=True)
class Measure:
    """Attributes:
    max_abs, mean_abs: difference to PyTorch's float32 output.
    worst_index: where it is largest, batch first.
    error: largest distance to the float64 output; of bytes, to what rounds to them.
    ulps: that distance in units in the last place of a float32 as large as the output's largest value.
    grey: what an application sees after rounding an image to 8 bits; None for what is no image.
    outside: how many numbers leave the contract's range by more than rounding; None for what has no range.
    fault: what is wrong with the array itself, in which case the figures are absent.
    mean_error: mean distance to the float64 output.
    """

    max_abs: float | None = None
    mean_abs: float | None = None
    worst_index: tuple[int, ...] | None = None
    error: float | None = None
    ulps: float | None = None
    grey: GreyLevels | None = None
    outside: int | None = None
    fault: str | None = None
    mean_error: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(value: object, spec: TensorSpec, eager: Array, exact: Array, band: float, magnitude: float) -> Measure:
    """Compare `value` (N, *item) with PyTorch's float32 and float64 outputs of the same shape."""
    try:
        spec.check(value, batch=len(eager))
    except ModelError as error:
        return Measure(fault=error.line())
    output = np.asarray(value, np.float64)
    measured = figures(output, eager, exact, magnitude, in_bytes=spec.dtype == "uint8")
    if not spec.is_bounded:
        return measured
    grey = compare(output, exact, low=spec.low, high=spec.high, band=band)
    return replace(measured, grey=grey, outside=int((excess(output, spec) > 0).sum()))


def distance(one: Array, other: Array) -> float:
    """The largest difference; infinite where there is a NaN among them, for no file can be held against that."""
    largest = float(np.abs(one - other).max())
    return math.inf if math.isnan(largest) else largest


def mean_distance(one: Array, other: Array) -> float:
    """The mean difference; infinite where there is a NaN among them."""
    mean = float(np.abs(one - other).mean())
    return math.inf if math.isnan(mean) else mean


def excess(output: Array, spec: TensorSpec) -> Array:
    """How far each number is beyond the contract's range, less what rounding may add to a number at its bound.

    That is `FACTOR` ULPs of the bound, the least band of an output that is as large: 0 or less is within.
    """
    ulp = float(np.spacing(np.float32(max(abs(spec.low), abs(spec.high)))))
    beyond: Array = np.maximum(spec.low - np.asarray(output, np.float64), output - spec.high) - FACTOR * ulp
    return beyond


def failure(error: Exception) -> str:
    """Why a runner gave nothing, as a row's fault. Every runtime raises its own, some with pages of text."""
    if isinstance(error, VaeExportError):
        return error.line()
    return " ".join(f"cannot run: {type(error).__name__}: {error}".split())[:_FAULT_LENGTH]


def figures(output: Array, eager: Array, exact: Array, magnitude: float, *, in_bytes: bool = False) -> Measure:
    """The figures of finite arrays of one shape; `magnitude` is the output's largest absolute value over its probe.

    Of bytes the error is how far the truth is from rounding to them (see `missed`).
    """
    difference = np.abs(output - eager)
    worst = np.unravel_index(int(difference.argmax()), difference.shape)
    distances = missed(output, exact) if in_bytes else np.abs(output - exact)
    error = float(distances.max())
    return Measure(
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        worst_index=tuple(int(i) for i in worst),
        error=error,
        ulps=error / float(np.spacing(np.float32(magnitude))),
        mean_error=float(distances.mean()),
    )
