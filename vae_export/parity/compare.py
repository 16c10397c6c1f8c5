"""One output of one run, held against PyTorch and against the truth.

Names, dtypes, shapes and finiteness come before values: a NaN compares false with everything, and numpy would
broadcast (1, 784) against (64, 784) without a word. docs/parity.md has the reasons for every figure in here.

One comparison: what was run, how far off it was, what was allowed, and so the verdict.

It fails closed: a figure that is no number has not passed.

Bands that let everything through: a row within such a one has shown less than its "passed" sounds like.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from vae_export.contract import MAX_LEVEL, Array, TensorSpec
from vae_export.errors import ModelError, UsageError, VaeExportError
from vae_export.formats.base import Finding, Setting
from vae_export.parity.tolerance import MEAN_REACHES, REACHES, ROUNDOFF, ulp
from vae_export.pixels import GreyLevels, compare_levels, rounding_miss
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
            magnitude=float(MAX_LEVEL),  # what is rounded is computed at up to that
            tolerance=self.tolerance and replace(self.tolerance, atol=self.tolerance.atol * levels),
            eager_mean=None if self.eager_mean is None else self.eager_mean * levels,
            mean_sensitivity=None if self.mean_sensitivity is None else self.mean_sensitivity * levels,
            span=float(MAX_LEVEL),
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
    grey = compare_levels(output, exact, low=spec.low, high=spec.high, band=band)
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

    Of bytes the error is how far the truth is from rounding to them (see `rounding_miss`).
    """
    difference = np.abs(output - eager)
    worst = np.unravel_index(int(difference.argmax()), difference.shape)
    distances = rounding_miss(output, exact) if in_bytes else np.abs(output - exact)
    error = float(distances.max())
    return Measure(
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        worst_index=tuple(int(i) for i in worst),
        error=error,
        ulps=error / float(np.spacing(np.float32(magnitude))),
        mean_error=float(distances.mean()),
    )


@dataclass(frozen=True)
class Row:
    """One output of one part, run on one target with one setting and one probe at one batch size.

    Verdicts are kept: the page asks each of thousands of rows a dozen times.
    """

    part: str
    target: str
    setting: Setting
    probe: str
    batch: int
    output: str
    measure: Measure
    scale: Scale

    @cached_property
    def band(self) -> float:
        return self.scale.band(tf32=self.setting.tf32)

    @cached_property
    def mean_band(self) -> float:
        return self.scale.mean_band(tf32=self.setting.tf32)

    @property
    def ratio(self) -> float | None:
        """The error in units of PyTorch's own rounding."""
        return None if self.measure.error is None else self.measure.error / self.scale.rounding

    @property
    def mean_ratio(self) -> float | None:
        """The mean error in units of PyTorch's own."""
        return None if self.measure.mean_error is None else self.measure.mean_error / self.scale.mean_rounding

    @cached_property
    def share(self) -> float:
        """The worst or the mean error in units of its band: 1 is the limit; infinite where there is none."""
        pairs = ((self.measure.error, self.band), (self.measure.mean_error, self.mean_band))
        return math.inf if self.measure.fault is not None else max(_share(*pair) for pair in pairs)

    @cached_property
    def passed(self) -> bool:
        """Fails closed: whatever is not a finite number within its band has not passed."""
        measure, grey = self.measure, self.measure.grey
        # A band is infinite where PyTorch itself overflows: nothing is within that.
        pairs = ((measure.error, self.band), (measure.mean_error, self.mean_band))
        within = all(error is not None and error <= band < math.inf for error, band in pairs)
        return measure.fault is None and within and not self.measure.outside and (grey is None or grey.unexplained == 0)

    @property
    def reason(self) -> str:
        """Why it failed, or what it achieved."""
        if self.measure.fault is not None or self.measure.error is None:
            return self.measure.fault or "not evaluated"
        text = f"error {self.measure.error:.3g} against float64, {self.band:.3g} allowed"
        if self.measure.error <= self.band and self.measure.mean_error is not None:
            text += f"; mean error {self.measure.mean_error:.3g}, {self.mean_band:.3g} allowed"
        if self.measure.outside:
            text += f"; {self.measure.outside} pixels outside the contract's range"
        grey = self.measure.grey
        return f"{text}; {grey.unexplained} pixels of another grey level" if grey and grey.unexplained else text

    def to_json(self) -> dict[str, Any]:
        figures = {
            **self.measure.to_json(),
            "eager_error": self.scale.eager_error,
            "rounding": self.scale.rounding,
            "ratio": self.ratio,
            "band": self.band,
            "mean_rounding": self.scale.mean_rounding,
            "mean_ratio": self.mean_ratio,
            "mean_band": self.mean_band,
        }
        return {
            "part": self.part,
            "target": self.target,
            "setting": str(self.setting),
            "probe": self.probe,
            "batch": self.batch,
            "output": self.output,
            **rounded(figures),
            "passed": self.passed,
        }


def rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON has them: six digits say all, and keep thousands of rows readable; what is not finite is null.

    Verdicts are of the unrounded figures.
    """
    return {name: _rounded(value) if isinstance(value, float) else value for name, value in values.items()}


def _rounded(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _share(error: float | None, band: float) -> float:
    """The error in units of the band; infinite unless both are numbers."""
    if error is None or not math.isfinite(error) or not math.isfinite(band):
        return math.inf
    if band > 0:
        return error / band
    return 0.0 if error == 0 else math.inf


def loose_tolerances(rows: Iterable[Row]) -> Iterator[Finding]:
    """A warning for each output of a target with a band that is wider than the contract's range: no image misses it."""
    loose: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row.band > row.scale.span:
            loose.setdefault((row.part, row.target, row.output), []).append(row)
    for (part, target, output), members in loose.items():
        widest, span = max(members, key=lambda row: row.band), members[0].scale.span
        probes = ", ".join(dict.fromkeys(row.probe for row in members))
        can_fail = f"only the mean error can fail, beyond {widest.mean_band:.3g}"
        if widest.mean_band > span:
            can_fail = "no figure of it can fail"
        detail = f"probes {probes}: errors up to {widest.band:.3g} pass in a range of {span:g}, so that {can_fail}"
        yield Finding("loose-band", "warning", f"{part} on {target}, '{output}'", detail)
