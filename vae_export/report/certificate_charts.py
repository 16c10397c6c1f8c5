"""Compute the geometry of the charts on the certificate page: numbers and paths in SVG units, for the template."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vae_export.contract import Array
from vae_export.parity.error_maps import HISTOGRAM_EDGES, ErrorMap
from vae_export.report.text import percent

#: Width of a strip up to the tolerance, and width of the area for errors beyond it.
STRIP = 120
_BEYOND = 14
#: Size and margins of a histogram.
WIDTH, HEIGHT = 480, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 34, 44
#: Width of the word "largest".
_LABEL = 60


@dataclass(frozen=True)
class Mark:
    """One tick of a strip, which stands for all results at its position."""

    x: float
    opacity: float
    beyond: bool


def strip(shares: Sequence[float]) -> list[Mark]:
    """Return the results of a group as ticks between no error (0) and the tolerance (`STRIP`).

    Args:
        shares: each error in units of its tolerance; infinite for a fault.

    Returns:
        The ticks; results at one position share a tick.
    """
    places = Counter(round(value * STRIP) if value <= 1 else STRIP + _BEYOND // 2 for value in shares)
    most = max(places.values(), default=1)
    return [
        Mark(x, round(0.35 + 0.65 * math.log1p(count) / math.log1p(most), 2), x > STRIP)
        for x, count in sorted(places.items())
    ]


@dataclass(frozen=True)
class Histogram:
    """The histogram of the errors of pixels, or of the values of other data.

    Attributes:
        eager, exported: outlines for PyTorch and the file, closed at the axis.
        eager_exact, exported_exact: portion of pixels that equal float64 or differ by less than the axis shows.
        decades: (x, exponent) of the grid.
        portions: (y, text) of the grid.
        largest: x of the file's largest error; None if it lies outside the plot.
        before: whether its label is on the left, because the grey-level line takes the space on the right.
        grey: x of half a grey level; None if it lies outside the plot, or if the data has no levels.
        left, right, top, bottom: edges of the plot.
    """

    eager: str
    exported: str
    eager_exact: float
    exported_exact: float
    decades: tuple[tuple[float, int], ...]
    portions: tuple[tuple[float, str], ...]
    largest: float | None
    before: bool
    grey: float | None
    left: float
    right: float
    top: float
    bottom: float


def histogram(error_map: ErrorMap, level: float | None = None) -> Histogram:
    """Return the histogram of the distances to float64, for PyTorch and the file on one scale.

    Args:
        error_map: the errors of a decoder.
        level: one grey level; None for data that has none.
    """
    eager, exported = (_portions(counts) for counts in (error_map.eager, error_map.exported))
    peak = max(float(eager[1:].max()), float(exported[1:].max()), 1e-9)
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM

    def x(exponent: float) -> float:
        first, last = float(HISTOGRAM_EDGES[0]), float(HISTOGRAM_EDGES[-1])
        return round(_LEFT + (right - _LEFT) * (exponent - first) / (last - first), 1)

    def place(value: float) -> float | None:
        return (
            x(math.log10(value)) if 10 ** float(HISTOGRAM_EDGES[0]) < value < 10 ** float(HISTOGRAM_EDGES[-1]) else None
        )

    def outline(portions: Array) -> str:
        steps = [f"M{x(HISTOGRAM_EDGES[1])} {bottom}"]
        for index, portion in enumerate(portions[1:], 1):
            steps.append(f"V{round(bottom - (bottom - _TOP) * portion / peak, 1)}H{x(HISTOGRAM_EDGES[index + 1])}")
        return "".join([*steps, f"V{bottom}Z"])

    largest, grey = place(error_map.worst), None if level is None else place(level / 2)
    return Histogram(
        eager=outline(eager),
        exported=outline(exported),
        eager_exact=float(eager[0]),
        exported_exact=float(exported[0]),
        decades=tuple(
            (x(exponent), exponent) for exponent in range(int(HISTOGRAM_EDGES[0]), int(HISTOGRAM_EDGES[-1]) + 1, 2)
        ),
        portions=tuple((round(bottom - (bottom - _TOP) * value / peak, 1), percent(value)) for value in _ticks(peak)),
        largest=largest,
        before=largest is not None and (largest > right - _LABEL or (grey is not None and 0 < grey - largest < _LABEL)),
        grey=grey,
        left=_LEFT,
        right=right,
        top=_TOP,
        bottom=bottom,
    )


def _portions(counts: Array) -> Array:
    """Return portions of all pixels: first the pixels that are exact or below the first edge, then each bin."""
    merged = np.asarray(counts[:-1], np.float64)
    merged[0] += counts[-1]
    return merged / max(1.0, float(merged.sum()))


def _ticks(peak: float) -> list[float]:
    """Return two to five round portions up to the peak, for the ticks of the axis."""
    rough = peak / 4
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(step * scale for step in (1, 2, 5, 10) if step * scale >= rough)
    return [step * index for index in range(1, int(peak / step) + 1)]
