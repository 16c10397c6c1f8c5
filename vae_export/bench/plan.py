"""What is measured, and for how long."""

from __future__ import annotations

import os
from dataclasses import dataclass

from vae_export.contract import EVERY_PART, Part
from vae_export.errors import UsageError

BATCHES = (1, 8, 64, 512, 4096)
THREADS = (1, 2)
#: Beyond this an input alone is gigabytes.
_MOST_ROWS = 1 << 20


@dataclass(frozen=True)
class Plan:
    """Attributes:
    parts: in this order.
    batches: rows of a call.
    threads: within an operator.
    rounds: how often every side is measured; a ratio is of two figures of one round.
    seconds: that a side has for one batch size in one round.
    """

    parts: tuple[Part, ...] = ("decoder",)
    batches: tuple[int, ...] = BATCHES
    threads: tuple[int, ...] = THREADS
    rounds: int = 12
    seconds: float = 0.02

    def __post_init__(self) -> None:
        cores = os.cpu_count() or 1
        for name, values, highest in (
            ("batch", self.batches, _MOST_ROWS),
            ("threads", self.threads, max(cores, *THREADS)),
            ("rounds", (self.rounds,), 10_000),
        ):
            if not values or (bad := [value for value in values if not 1 <= value <= highest]):
                raise UsageError(f"bad {name}", expected=f"1 to {highest:,}", got=bad[0] if values else "none")
            if len(set(values)) != len(values):
                raise UsageError(f"{name} is there twice", got=list(values))
        if not self.parts or any(part not in EVERY_PART for part in self.parts):
            raise UsageError("unknown part", expected=" | ".join(EVERY_PART), got=list(self.parts))

    @classmethod
    def quick(cls) -> Plan:
        """For a first look: few rounds, and spreads that say so."""
        return cls(rounds=3, seconds=0.005)
