"""Compute times and ratios that agree with each other, and that hold if other programs disturb some of the rounds.

Every subject is measured once in each round, so the time of a subject in a round is the time of the subject multiplied
by how slow the machine was in the round. Both factors are fitted by medians (Tukey's median polish of the logarithms,
Exploratory Data Analysis, 1977, chapter 11). Times are stated for a fast round, and the ratio of two subjects is that
of their stated times.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Generic, TypeVar

#: A measurement is disturbed if its median call takes this many times that of the subject's fastest round. The
#: reference is the fastest round, because contention only adds time, and most of a few rounds may be disturbed.
DISTURBED_FACTOR = 2.0
#: A measurement is also disturbed if it takes this many times what the fit says for its subject and round.
_UNFIT_FACTOR = 1.3
#: Passes over subjects and rounds; the fit changes by less than the noise after three.
_PASSES = 4

Name = TypeVar("Name", bound=Hashable)


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

    def around(self, middle: float) -> Spread:
        """Return these quartiles around another median, widened where they do not enclose it."""
        return Spread(middle, min(self.low, middle), max(self.high, middle))


class RoundFit(Generic[Name]):
    """The times of subjects that were measured once in each round, without what disturbed them.

    Args:
        rounds: by subject, the median call of each round, all in the same unit of time and for the same rounds.
    """

    def __init__(self, rounds: Mapping[Name, Sequence[float]]) -> None:
        self._kept = {name: undisturbed_rounds(times) for name, times in rounds.items()}
        logs = {name: [math.log(time) for time in times] for name, times in rounds.items()}
        self._slow: dict[int, float] = {}
        self._polish(logs)
        for name, kept in self._kept.items():
            level = median(logs[name][index] - self._slow[index] for index in kept)
            fit = [index for index in kept if logs[name][index] - self._slow[index] <= level + math.log(_UNFIT_FACTOR)]
            self._kept[name] = fit
        # Stated times are those of a fast round: half of the faster half of the rounds is faster still.
        fast = _lower_quartile(list(self._slow.values()))
        self._values = {
            name: {index: rounds[name][index] / math.exp(self._slow[index] - fast) for index in kept}
            for name, kept in self._kept.items()
        }
        self._fast = fast
        self._least = {name: min(times) for name, times in rounds.items()}

    def kept(self, name: Name) -> list[int]:
        """Return the indices of the rounds in which a subject was not disturbed, at least one."""
        return self._kept[name]

    def slowness(self, index: int) -> float:
        """Return how many times longer calls took in a round than in the one that times are stated for."""
        return math.exp(self._slow[index] - self._fast)

    def time(self, name: Name) -> float:
        """Return the time of a subject, in the unit of `rounds`; never less than in its fastest round."""
        return max(median(self._values[name].values()), self._least[name])

    def ratio(self, numerator: Name, denominator: Name) -> Spread:
        """Return the time of one subject divided by that of another, with the quartiles of their ratio in each round.

        If every round was disturbed for one of the two, the quartiles are the ratio itself.
        """
        one, other = self._values[numerator], self._values[denominator]
        stated = self.time(numerator) / self.time(denominator)
        common = sorted(one.keys() & other.keys())
        return Spread.of([one[index] / other[index] for index in common] or [stated]).around(stated)

    def _polish(self, logs: Mapping[Name, Sequence[float]]) -> None:
        """Fit how slow the machine was in each round, as the logarithm of a factor."""
        self._slow = {index: 0.0 for kept in self._kept.values() for index in kept}
        for _ in range(_PASSES):
            level = {
                name: median(logs[name][index] - self._slow[index] for index in kept)
                for name, kept in self._kept.items()
            }
            self._slow = {
                index: median(logs[name][index] - level[name] for name, kept in self._kept.items() if index in kept)
                for index in self._slow
            }


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile by the nearest-rank method.

    Args:
        values: the values.
        share: the share of the values that are at or below the percentile, in (0, 1].
    """
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def undisturbed_rounds(rounds: Sequence[float]) -> list[int]:
    """Return the indices of the rounds that take at most twice as long as the fastest one, in ascending order."""
    bound = DISTURBED_FACTOR * min(rounds)
    return [index for index, time in enumerate(rounds) if time <= bound]


def _lower_quartile(values: Sequence[float]) -> float:
    return quantiles(values, n=4, method="inclusive")[0] if len(values) > 1 else sum(values)
