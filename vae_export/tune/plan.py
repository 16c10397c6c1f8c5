"""The options of `tune`, in a separate module so that the command line shows their defaults without loading torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from vae_export.bench.results import BenchPlan
from vae_export.contract import Part
from vae_export.errors import UsageError


@dataclass(frozen=True)
class TunePlan:
    """The part to tune, and the measuring time of its candidates.

    Attributes:
        part: the part of the model.
        batch: rows of a call.
        rounds: rounds of the last rung; the two rungs before have a quarter and a half of them.
        seconds: measuring time of a candidate in a round.
        sizes: values of the contract's free sizes; others have their usual value.

    Raises:
        UsageError: a value is out of range.
    """

    part: Part = "decoder"
    batch: int = 1
    rounds: int = 12
    seconds: float = 0.02
    sizes: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise UsageError("bad seconds", expected="a number above 0", got=self.seconds)
        BenchPlan(parts=(self.part,), batches=(self.batch,), rounds=self.rounds)  # raises for values out of range

    @property
    def rungs(self) -> tuple[int, int, int]:
        """The number of rounds of each rung."""
        return max(1, self.rounds // 4), max(1, self.rounds // 2), self.rounds
