"""Candidates against each other: each in a process of its own, all of them in turn, round after round.

The method is that of `vae_export.bench.rounds`: a shared machine drifts, so a ratio is of two figures of one round.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from types import TracebackType

from vae_export.bench.sides import Opening, Subject
from vae_export.bench.timings import Spread
from vae_export.bench.worker import SideError, Worker
from vae_export.errors import MachineError
from vae_export.tune.candidates import Candidate
from vae_export.tune.plan import TunePlan


class Contest:
    """Use it as a block: the processes end with it.

    Attributes:
        broken: candidates that could not be run, and what became of them.
    """

    def __init__(self, export: Path, plan: TunePlan) -> None:
        self._export, self._plan = export, plan
        self._stack = ExitStack()
        self._workers: dict[Candidate, Worker] = {}
        self._seconds: dict[Candidate, list[float]] = {}
        self._order = random.Random(0)  # noqa: S311 -- no secret: an order that differs from round to round
        self.broken: dict[Candidate, str] = {}

    def __enter__(self) -> Contest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def entered(self) -> list[Candidate]:
        """Those that are still in it."""
        return list(self._workers)

    def enter(self, candidates: Iterable[Candidate]) -> None:
        """Open each in a process of its own, and compute a batch; what cannot is `broken`."""
        for candidate in candidates:
            opening = Opening(
                candidate.entry.name, candidate.target.format, candidate.target.provider, candidate.setting
            )
            worker = self._stack.enter_context(
                Worker(Subject(str(self._export), "", self._plan.part, str(candidate), opening))
            )
            self._workers[candidate] = worker
            try:
                candidate.target.check()
                worker.begin()
                worker.ask("open", threads=candidate.setting.threads, batch=self._plan.batch)
            except MachineError as error:  # the engine, or what this machine lacks for it
                self._break(candidate, str(error))

    def heat(self, rounds: int) -> None:
        """Measure all that are in it, anew."""
        self._seconds = {candidate: [] for candidate in self._workers}
        for _ in range(rounds):
            for candidate in self._order.sample(self.entered, len(self._workers)):
                threads = candidate.setting.threads
                order = {"threads": threads, "batch": self._plan.batch, "seconds": self._plan.seconds}
                try:
                    taken = self._workers[candidate].ask("time", **order)["nanoseconds"]
                except SideError as error:
                    self._break(candidate, str(error))
                    continue
                self._seconds[candidate].append(median(taken) / 1e9)

    def leave(self, candidate: Candidate) -> None:
        """It takes no part in the next heat."""
        self._workers.pop(candidate).close()

    def p50(self, candidate: Candidate) -> float:
        """Seconds of a call in the last heat that it was in."""
        return median(self._seconds[candidate])

    def ratio(self, over: Candidate, under: Candidate) -> Spread:
        """The time of one over that of the other, pair by pair over the rounds of the last heat."""
        pairs = zip(self._seconds[over], self._seconds[under], strict=True)
        return Spread.of([one / other for one, other in pairs])

    def _break(self, candidate: Candidate, reason: str) -> None:
        self.broken[candidate] = reason
        self.leave(candidate)
