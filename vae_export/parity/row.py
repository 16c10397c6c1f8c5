"""One comparison: what was run, how far off it was, what was allowed, and so the verdict.

It fails closed: a figure that is no number has not passed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vae_export.formats.base import Setting
from vae_export.parity.measure import Measure, Scale


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
