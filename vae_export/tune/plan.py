"""What is tuned for, and how long that may take. No torch in here: the command line reads it for its help."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vae_export.bench.results import BenchPlan
from vae_export.contract import Part
from vae_export.errors import UsageError


@dataclass(frozen=True)
class TunePlan:
    """Attributes:
    part: which graph.
    batch: rows of a call.
    rounds: of the last heat, in which what is left is measured; the heats before it have a quarter and a half of them.
    seconds: that a candidate has in a round.
    """

    part: Part = "decoder"
    batch: int = 1
    rounds: int = 12
    seconds: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise UsageError("bad seconds", expected="a number above 0", got=self.seconds)
        BenchPlan(parts=(self.part,), batches=(self.batch,), rounds=self.rounds)  # what it refuses is refused here too

    @property
    def heats(self) -> tuple[int, int, int]:
        """Rounds of the first heat, of the second, and of the last."""
        return max(1, self.rounds // 4), max(1, self.rounds // 2), self.rounds
