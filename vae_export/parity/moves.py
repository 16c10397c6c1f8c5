"""How far one output moves when all that is rounded moves: at the worst number, and on average over a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vae_export.contract import Array


class Moves:
    """Adds up turn after turn; each direction is taken there, and then back.

    Attributes:
        worst: of any number in any turn; infinite once one of them is NaN, for no file can be held against that.
        mean: the largest mean of a batch in any direction. A number counts by the farther of there and back: where it
            is a step, as a saturated sigmoid is, only one of the two leads across.
    """

    def __init__(self) -> None:
        self.worst = self.mean = 0.0
        self._there: Array | None = None

    def add(self, distances: Array, turn: int, batches: Sequence[int]) -> None:
        """How far each number (N, *item) is from the truth in a turn; a batch is that many of the first rows."""
        if turn % 2 == 0:
            self._there = distances
            return
        farther = distances if self._there is None else np.maximum(self._there, distances)
        self._there = None
        rows = farther.reshape(len(farther), -1).mean(1)
        self.worst = max(self.worst, _number(farther.max()))
        self.mean = max(self.mean, *(_number(rows[:batch].mean()) for batch in batches))


def _number(value: float) -> float:
    return math.inf if math.isnan(value) else float(value)
