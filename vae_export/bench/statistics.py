"""Compute percentiles, spreads and ratios that remain correct if other programs disturb some of the rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

#: A round is disturbed for a subject if its median call takes this many times that of the subject's fastest round. The
#: reference is the fastest round, because contention only adds time, and most of a few rounds may be disturbed.
DISTURBED_FACTOR = 2.0


@dataclass(frozen=True)
class Spread:
    """The median and quartiles of a ratio that was taken once in each round."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, _, high = quantiles(values, n=4, method="inclusive")
        return cls(median(values), low, high)


def percentile(values: Sequence[int], share: float) -> float:
    """Return a percentile by the nearest-rank method, converted from nanoseconds to seconds.

    Args:
        values: durations in nanoseconds.
        share: the share of the values that are at or below the percentile, in (0, 1].
    """
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] / 1e9


def undisturbed_rounds(*subjects: Sequence[float]) -> list[int]:
    """Return the indices of the rounds that were disturbed for none of these subjects.

    Args:
        subjects: the median call of each round, one sequence for each subject, all in the same unit of time.

    Returns:
        The indices in ascending order. One subject always has its fastest round; several may have none in common.
    """
    bounds = [DISTURBED_FACTOR * min(rounds) for rounds in subjects]
    return [
        index
        for index, times in enumerate(zip(*subjects, strict=True))
        if all(time <= bound for time, bound in zip(times, bounds, strict=True))
    ]


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """Return the ratio of two subjects' times, taken within each round that was disturbed for neither.

    If every round was disturbed for one of the two, the result is the ratio of the medians over each subject's own
    undisturbed rounds.

    Args:
        numerator: the median call of each round.
        denominator: the median call of the other subject in each of these rounds, in the same unit.

    Returns:
        The median and quartiles of the ratio.
    """
    if kept := undisturbed_rounds(numerator, denominator):
        return Spread.of([numerator[index] / denominator[index] for index in kept])
    return Spread.of([robust_median(numerator) / robust_median(denominator)])


def robust_median(rounds: Sequence[float]) -> float:
    """Return the median over the undisturbed rounds of one subject, in the unit of `rounds`."""
    return median(rounds[index] for index in undisturbed_rounds(rounds))
