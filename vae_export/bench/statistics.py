"""Percentiles, spreads and ratios that stay right where other programs disturb some of the rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

#: A round is disturbed for a subject where its median call takes this many times that of the subject's fastest round.
#: Contention only ever adds time, so the fastest round is the reference: with few rounds, most can be disturbed.
DISTURBED_FACTOR = 2.0


@dataclass(frozen=True)
class Spread:
    """A ratio that was taken once a round: its median and quartiles over the rounds."""

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
    """Return the smallest value that `share` of all are at or below (nearest rank), converted from ns to seconds."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] / 1e9


def undisturbed_rounds(*subjects: Sequence[float]) -> list[int]:
    """Return the numbers of the rounds that were disturbed for none of these subjects.

    Args:
        subjects: the median call of each round, one sequence a subject, in one unit of time.

    Returns:
        Indices in ascending order. For one subject at least that of its fastest round; for several possibly none.
    """
    bounds = [DISTURBED_FACTOR * min(rounds) for rounds in subjects]
    return [
        index
        for index, times in enumerate(zip(*subjects, strict=True))
        if all(time <= bound for time, bound in zip(times, bounds, strict=True))
    ]


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """Return the ratio of two subjects' times, taken within each round that was disturbed for neither.

    Where every round was disturbed for one of the two, it is the ratio of the medians of their own undisturbed rounds.

    Args:
        numerator: the median call of each round.
        denominator: the same of the other subject, in the same unit, from the same rounds.
    """
    if kept := undisturbed_rounds(numerator, denominator):
        return Spread.of([numerator[index] / denominator[index] for index in kept])
    return Spread.of([robust_median(numerator) / robust_median(denominator)])


def robust_median(rounds: Sequence[float]) -> float:
    """Return the median over the undisturbed rounds of one subject."""
    return median(rounds[index] for index in undisturbed_rounds(rounds))
