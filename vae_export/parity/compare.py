"""Compare one output of one run with PyTorch's float32 and float64 results, and judge the difference.

Names, dtypes, shapes and finiteness are checked before values, because a NaN compares false with everything and numpy
would silently broadcast (1, 784) against (64, 784). docs/parity.md has the reasons for every figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from vae_export.contract import Array
from vae_export.errors import ModelError, VaeExportError
from vae_export.formats.base import Finding
from vae_export.parity.tolerance import FP32_TOLERANCE_FACTOR, ElementLimits, ErrorLimits
from vae_export.pixels import GreyLevels, compare_levels, rounding_miss
from vae_export.session_options import SessionOptions
from vae_export.tensors import TensorSpec

#: A larger share of codes that rounding changes gives a warning.
UNSTABLE_SHARE = 0.1
#: Characters of an engine's own message that a result keeps.
_FAULT_LENGTH = 400
#: The most bytes of outputs that are kept for comparisons with later runs.
_KEPT_BYTES = 128 << 20


@dataclass(frozen=True)
class Comparison:
    """The differences between one output of a file and PyTorch's results for the same inputs.

    Attributes:
        max_abs, mean_abs: difference to PyTorch's float32 output.
        worst_index: index of the largest difference, batch first.
        error: largest distance to the float64 output; for bytes, to the nearest value that rounds to them.
        ulps: that distance in units in the last place of a float32 as large as the output's largest value.
        grey: differences of the image after rounding to 8 bits; None for an output that is not an image.
        outside: number of values that leave the contract's range by more than rounding; None without a range.
        fault: the reason why the output could not be compared, in which case the figures are None.
        mean_error: mean distance to the float64 output.
        element_used: the largest difference of the mean of one element over the rows from PyTorch in the precision of
            the file, as a share of its tolerance; None where elements are not judged.
        element_index: that element of the output, without the batch.
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
    element_used: float | None = None
    element_index: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the figures by their names; numbers that are not finite stay as they are."""
        return asdict(self)


@dataclass(frozen=True)
class CaseResult:
    """One test case of a certificate: one output of one part, run on one target with one probe at one batch size.

    A result fails closed: a figure that is missing or not finite does not pass. Verdicts are cached, because the HTML
    page reads each of thousands of them a dozen times. `sizes` has the values of open sizes, where there are some.
    """

    part: str
    target: str
    options: SessionOptions
    probe: str
    batch: int
    output: str
    comparison: Comparison
    limits: ErrorLimits
    sizes: tuple[tuple[str, int], ...] = ()

    @cached_property
    def tolerance(self) -> float:
        """The largest error that passes."""
        return self.limits.tolerance(tf32=self.options.tf32)

    @cached_property
    def mean_tolerance(self) -> float:
        """The largest mean error that passes."""
        return self.limits.mean_tolerance(tf32=self.options.tf32)

    @property
    def ratio(self) -> float | None:
        """The error in units of PyTorch's baseline error."""
        return None if self.comparison.error is None else self.comparison.error / self.limits.baseline_error

    @property
    def mean_ratio(self) -> float | None:
        """The mean error in units of PyTorch's mean baseline error."""
        mean_error = self.comparison.mean_error
        return None if mean_error is None else mean_error / self.limits.mean_baseline_error

    @cached_property
    def tolerance_used(self) -> float:
        """The worst or mean error as a share of its tolerance: up to 1 passes; infinite for a fault."""
        if self.comparison.fault is not None:
            return math.inf
        shares = [_share(error, tolerance) for error, tolerance in self._errors_and_tolerances]
        return max(*shares, 0.0 if self.comparison.element_used is None else self.comparison.element_used)

    @cached_property
    def passed(self) -> bool:
        """Whether every figure is a finite number within its tolerance, range and grey level."""
        comparison, grey = self.comparison, self.comparison.grey
        # A tolerance is infinite if PyTorch itself overflows. No file passes then.
        within = all(
            error is not None and error <= tolerance < math.inf for error, tolerance in self._errors_and_tolerances
        )
        within = within and (comparison.element_used is None or comparison.element_used <= 1)
        in_range = not comparison.outside and (grey is None or grey.unexplained == 0)
        return comparison.fault is None and within and in_range

    @property
    def reason(self) -> str:
        """The reason why the case failed, or its errors if it passed."""
        comparison, grey = self.comparison, self.comparison.grey
        if comparison.fault is not None or comparison.error is None:
            return comparison.fault or "not evaluated"
        text = f"error {comparison.error:.3g} against float64, {self.tolerance:.3g} allowed"
        if comparison.error <= self.tolerance and comparison.mean_error is not None:
            text += f"; mean error {comparison.mean_error:.3g}, {self.mean_tolerance:.3g} allowed"
        if comparison.element_used is not None and not comparison.element_used <= 1:
            text += f"; the mean of element {list(comparison.element_index or ())} differs by "
            text += f"{comparison.element_used:.3g} times what is allowed"
        if comparison.outside:
            text += f"; {comparison.outside} pixels outside the contract's range"
        return f"{text}; {grey.unexplained} pixels of another grey level" if grey and grey.unexplained else text

    @property
    def _errors_and_tolerances(self) -> tuple[tuple[float | None, float], ...]:
        return (self.comparison.error, self.tolerance), (self.comparison.mean_error, self.mean_tolerance)

    def to_json(self) -> dict[str, Any]:
        """Return the result as an object of certificate.json (docs/parity.md)."""
        comparison = self.comparison.to_json()
        if self.comparison.element_used is None:
            del comparison["element_used"], comparison["element_index"]
        figures = {
            **comparison,
            "eager_error": self.limits.eager_error,
            "rounding": self.limits.baseline_error,
            "ratio": self.ratio,
            "band": self.tolerance,
            "mean_rounding": self.limits.mean_baseline_error,
            "mean_ratio": self.mean_ratio,
            "mean_band": self.mean_tolerance,
        }
        return {
            "part": self.part,
            "target": self.target,
            "setting": self.options.certificate_name,
            "probe": self.probe,
            "batch": self.batch,
            "output": self.output,
            **({"sizes": dict(self.sizes)} if self.sizes else {}),
            **json_numbers(figures),
            "passed": self.passed,
        }


class KnownComparisons:
    """Comparisons of outputs by test case, which are repeated where another run gives the same bits.

    Most session options of an engine do. Comparing two arrays for equality is ten times faster than measuring them.
    """

    def __init__(self) -> None:
        self._left = _KEPT_BYTES
        self._known: dict[tuple[object, str], list[tuple[Array, Comparison]]] = {}

    def find(self, case: object, name: str, output: object) -> Comparison | None:
        """Return the comparison of an equal output of the same case, or None."""
        if not isinstance(output, np.ndarray):
            return None
        bits = output.view(f"u{output.itemsize}") if output.flags.c_contiguous else output
        for array, comparison in self._known.get((case, name), ()):
            if output.dtype == array.dtype and np.array_equal(bits, array.view(f"u{array.itemsize}")):
                return comparison
        return None

    def add(self, case: object, name: str, output: object, comparison: Comparison) -> None:
        """Keep a comparison, if there is room for its output."""
        if isinstance(output, np.ndarray) and output.flags.c_contiguous and output.nbytes <= self._left:
            self._left -= output.nbytes
            self._known.setdefault((case, name), []).append((output, comparison))


def compare_output(
    value: object,
    spec: TensorSpec,
    eager: Array,
    expected: Array,
    tolerance: float,
    magnitude: float,
    elements: ElementLimits | None = None,
) -> Comparison:
    """Compare an output of a file with PyTorch's, after checking it against the contract.

    Args:
        value: output of the file; anything but an array (N, *item) of the right dtype is a fault.
        spec: the output in the contract.
        eager: PyTorch's float32 output, (N, *item).
        expected: PyTorch's float64 output, (N, *item).
        tolerance: largest error that passes; it decides which differences in grey level come from rounding.
        magnitude: the output's largest absolute value over its probe.
        elements: the limits of the mean of each element; None if they are not judged.

    Returns:
        The differences, or the fault if the output does not match the contract.
    """
    try:
        spec.check(value, batch=len(eager))
    except ModelError as error:
        return Comparison(fault=error.line())
    output = np.asarray(value, np.float64)
    comparison = compare_arrays(output, eager, expected, magnitude, in_bytes=spec.dtype == "uint8")
    if elements is not None:
        used, element = elements.used(output)
        comparison = replace(comparison, element_used=used, element_index=element)
    if not spec.is_bounded:
        return comparison
    levels = (
        compare_levels(output, expected, low=spec.low, high=spec.high, tolerance=tolerance) if spec.is_image else None
    )
    return replace(comparison, grey=levels, outside=int((beyond_range(output, spec) > 0).sum()))


def compare_arrays(
    output: Array, eager: Array, expected: Array, magnitude: float, *, in_bytes: bool = False
) -> Comparison:
    """Compare finite arrays of one shape, (N, *item).

    Args:
        output: float64 values of the file.
        eager, expected: PyTorch's float32 and float64 outputs.
        magnitude: the output's largest absolute value over its probe.
        in_bytes: whether the output is uint8 and `expected` is in [0, 255]. The error is then the part that rounding
            does not explain (see `rounding_miss`).

    Returns:
        The differences.
    """
    difference = np.abs(output - eager)
    worst = np.unravel_index(int(difference.argmax()), difference.shape)
    distances = rounding_miss(output, expected) if in_bytes else np.abs(output - expected)
    error = float(distances.max())
    return Comparison(
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        worst_index=tuple(int(i) for i in worst),
        error=error,
        ulps=error / float(np.spacing(np.float32(magnitude))),
        mean_error=float(distances.mean()),
    )


def compare_codes(value: object, spec: TensorSpec, eager: Array, expected: Array, unstable: Array) -> Comparison:
    """Compare integer codes with PyTorch's, exactly except where rounding decides.

    A code is the index of the nearest entry of a codebook. Where two entries are equally near, within rounding, another
    summation order gives the other one, and both are right. Such a code is unstable: it also changes in PyTorch, in
    float32 or with weights and inputs that are moved by rounding errors. Every other code must be equal.

    Args:
        value: output of the file; anything but an array (N, *item) of the right dtype is a fault.
        spec: the output in the contract.
        eager, expected: PyTorch's codes, computed in float32 and in float64, (N, *item).
        unstable: a mask of the unstable codes, from `unstable_codes`.

    Returns:
        The differences. `error` is the number of stable codes that differ, and `mean_error` their share; `max_abs` is
        the number of codes that differ from float32, and `mean_abs` their share.
    """
    try:
        spec.check(value, batch=len(eager))
    except ModelError as error:
        return Comparison(fault=error.line())
    output = np.asarray(value)
    differing, wrong = output != eager, (output != expected) & ~unstable
    first = np.unravel_index(int(wrong.argmax() if wrong.any() else differing.argmax()), wrong.shape)
    return Comparison(
        max_abs=float(differing.sum()),
        mean_abs=float(differing.mean()),
        worst_index=tuple(int(i) for i in first),
        error=float(wrong.sum()),
        ulps=float(wrong.sum()),
        outside=int(((output < spec.low) | (output > spec.high)).sum()),
        mean_error=float(wrong.mean()),
    )


def unstable_codes(expected: Array, *others: Array) -> Array:
    """Return a mask of the codes that rounding changes.

    Args:
        expected: codes that PyTorch computes in float64, (N, *item).
        others: the same codes in float32, and with weights and inputs moved by rounding errors.
    """
    changed = [other != expected for other in others]
    mask: Array = np.logical_or.reduce(changed)
    return mask


def max_distance(one: Array, other: Array) -> float:
    """Return the largest absolute difference of two arrays of one shape; infinite if there is a NaN."""
    largest = float(np.abs(one - other).max())
    return math.inf if math.isnan(largest) else largest


def mean_distance(one: Array, other: Array) -> float:
    """Return the mean absolute difference of two arrays of one shape; infinite if there is a NaN."""
    mean = float(np.abs(one - other).mean())
    return math.inf if math.isnan(mean) else mean


def beyond_range(output: Array, spec: TensorSpec) -> Array:
    """Return how far each number is beyond the contract's range, less the rounding allowed at the bound.

    The allowance is `FP32_TOLERANCE_FACTOR` ULPs of the bound, which is the smallest tolerance of an output of that
    size. A result of 0 or below means that the number is within the range.
    """
    ulp = float(np.spacing(np.float32(max(abs(spec.low), abs(spec.high)))))
    beyond: Array = np.maximum(spec.low - np.asarray(output, np.float64), output - spec.high)
    return beyond - FP32_TOLERANCE_FACTOR * ulp


def describe_fault(error: Exception) -> str:
    """Return one line that says why a file could not be run. The message of the engine may be pages long."""
    if isinstance(error, VaeExportError):
        return error.line()
    return " ".join(f"cannot run: {type(error).__name__}: {error}".split())[:_FAULT_LENGTH]


def loose_tolerances(results: Iterable[CaseResult]) -> Iterator[Finding]:
    """Warn about tolerances wider than the output's range: such test cases cannot fail."""
    loose: dict[tuple[str, str, str], list[CaseResult]] = {}
    for result in results:
        if result.tolerance > result.limits.value_range:
            loose.setdefault((result.part, result.target, result.output), []).append(result)
    for (part, target, output), members in loose.items():
        widest = max(members, key=lambda result: result.tolerance)
        value_range = widest.limits.value_range
        probes = ", ".join(dict.fromkeys(result.probe for result in members))
        can_fail = f"only the mean error can fail, beyond {widest.mean_tolerance:.3g}"
        if widest.mean_tolerance > value_range:
            can_fail = "no figure of it can fail"
        passes = f"errors up to {widest.tolerance:.3g} pass in a range of {value_range:g}"
        yield Finding(
            "loose-band", "warning", f"{part} on {target}, '{output}'", f"probes {probes}: {passes}, so that {can_fail}"
        )


def unstable_warnings(where: str, shares: Mapping[str, float]) -> Iterator[Finding]:
    """Warn about codes that rounding changes often: only the others are compared.

    Args:
        where: the part and the target.
        shares: for each output that holds codes, the largest share of them that is unstable in a test case.
    """
    for name, share in shares.items():
        if share > UNSTABLE_SHARE:
            detail = f"rounding changes up to {share:.0%} of the codes, and only the others are compared"
            yield Finding("unstable-codes", "warning", f"{where}, '{name}'", detail)


def json_numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with floats rounded to six digits for JSON, and None for floats that are not finite.

    Six digits keep thousands of results readable; verdicts come from the unrounded figures.
    """
    return {name: _json_number(value) if isinstance(value, float) else value for name, value in values.items()}


def _json_number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _share(error: float | None, tolerance: float) -> float:
    """Return the error in units of the tolerance; infinite unless both are finite numbers."""
    if error is None or not math.isfinite(error) or not math.isfinite(tolerance):
        return math.inf
    if tolerance > 0:
        return error / tolerance
    return 0.0 if error == 0 else math.inf
