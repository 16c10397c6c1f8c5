"""One output of one run, held against PyTorch and against the truth.

Names, dtypes, shapes and finiteness come before values: a NaN compares false with everything, and numpy would
broadcast (1, 784) against (64, 784) without a word.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vae_export.contract import Array, TensorSpec
from vae_export.errors import ModelError

#: How many times further from the truth than PyTorch's own rounding a file may be. Two float32 implementations that
#: sum in different orders differ by a small factor either way; a wrong weight, layer or dtype by thousands.
FACTOR = 8.0


@dataclass(frozen=True)
class Scale:
    """How much rounding one output of one probe has to live with.

    Attributes:
        eager_error: PyTorch's own largest error against float64, over all batches of the probe.
        sensitivity: of the output to one rounding of each weight and input (see `oracle`).
        magnitude: the largest absolute value of the output.
    """

    eager_error: float
    sensitivity: float
    magnitude: float

    @property
    def band(self) -> float:
        """The largest error that a file may have: `FACTOR` times the rounding, and never less than an ULP."""
        ulp = float(np.spacing(np.float32(self.magnitude)))
        return max(FACTOR * max(self.eager_error, self.sensitivity), ulp)


@dataclass(frozen=True)
class Measure:
    """Attributes:
    max_abs, mean_abs: difference to PyTorch's float32 output.
    worst_index: where it is largest, batch first.
    error: largest distance to the float64 output.
    fault: what is wrong with the array itself, in which case the figures are absent.
    """

    max_abs: float | None = None
    mean_abs: float | None = None
    worst_index: tuple[int, ...] | None = None
    error: float | None = None
    fault: str | None = None


def measure(value: object, spec: TensorSpec, eager: Array, exact: Array) -> Measure:
    """Compare `value` (N, *item) with PyTorch's float32 and float64 outputs of the same shape."""
    try:
        spec.check(value, batch=len(eager))
    except ModelError as error:
        return Measure(fault=error.line())
    output = np.asarray(value, np.float64)
    difference = np.abs(output - eager)
    worst = np.unravel_index(int(difference.argmax()), difference.shape)
    return Measure(
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        worst_index=tuple(int(i) for i in worst),
        error=float(np.abs(output - exact).max()),
    )
