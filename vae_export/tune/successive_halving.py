"""Candidates against each other: each in a process of its own, all of them in turn, round after round.

The method is that of `vae_export.bench.benchmark`: a shared machine drifts, so a ratio is of two figures of one round.

The heats of one tuning: the slower half goes, then the session's options of what is left are tried, then who won.

Measuring everything for long would take minutes. So all are measured briefly, the better half for longer, and only
what could still win as long as a figure takes that one can trust (Jamieson & Talwalkar, arXiv:1502.07943).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

from vae_export.bench.process import SubjectError, SubjectProcess
from vae_export.bench.statistics import Spread
from vae_export.bench.subjects import ExportedFile, Subject
from vae_export.errors import MachineError, TargetError
from vae_export.tune.candidates import Candidate
from vae_export.tune.plan import TunePlan


class CandidatePool:
    """Use it as a block: the processes end with it.

    Attributes:
        broken: candidates that could not be run, and what became of them.
    """

    def __init__(self, export: Path, plan: TunePlan) -> None:
        self._export, self._plan = export, plan
        self._stack = ExitStack()
        self._workers: dict[Candidate, SubjectProcess] = {}
        self._seconds: dict[Candidate, list[float]] = {}
        self._order = random.Random(0)  # noqa: S311 -- no secret: an order that differs from round to round
        self.broken: dict[Candidate, str] = {}

    def __enter__(self) -> CandidatePool:
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
            opening = ExportedFile(candidate.entry.name, candidate.target.format, candidate.options)
            worker = self._stack.enter_context(
                SubjectProcess(Subject(str(self._export), "", self._plan.part, str(candidate), opening))
            )
            self._workers[candidate] = worker
            try:
                candidate.target.check()
                worker.begin()
                worker.ask("open", threads=candidate.options.threads, batch=self._plan.batch)
            except MachineError as error:  # the engine, or what this machine lacks for it
                self._break(candidate, str(error))

    def heat(self, rounds: int) -> None:
        """Measure all that are in it, anew."""
        self._seconds = {candidate: [] for candidate in self._workers}
        for _ in range(rounds):
            for candidate in self._order.sample(self.entered, len(self._workers)):
                threads = candidate.options.threads
                order = {"threads": threads, "batch": self._plan.batch, "seconds": self._plan.seconds}
                try:
                    taken = self._workers[candidate].ask("time", **order)["nanoseconds"]
                except SubjectError as error:
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


Report = Callable[[str], None]
#: A median that is nearer than this is no difference that an application would notice.
_SAME = 0.02


@dataclass(frozen=True)
class CandidateResult:
    """Attributes:
    candidate: what was tried.
    outcome: why it is out, or that it won.
    p50_seconds: of a call; None for one that was not measured.
    speedup: time of the runtime's defaults over its own, pair by pair; None likewise.
    """

    candidate: Candidate
    outcome: str
    p50_seconds: float | None = None
    speedup: Spread | None = None

    def to_json(self) -> dict[str, Any]:
        cost = self.candidate.cost
        return {
            "candidate": str(self.candidate),
            "file": self.candidate.entry.name,
            "can_be_recommended": self.candidate.is_followed,
            "p50_seconds": self.p50_seconds,
            "speedup": None if self.speedup is None else asdict(self.speedup),
            "worst_levels": cost.worst_levels,
            "nats_high": cost.nats_high,
            "outcome": self.outcome,
        }


class SuccessiveHalving:
    """Attributes:
    contest: the processes; to be used as a block around all calls.
    usual: what all ratios are to.
    tried: what became of each candidate so far.
    """

    def __init__(self, export: Path, plan: TunePlan, usual: Candidate, report: Report) -> None:
        self._plan, self.usual, self._report = plan, usual, report
        self.contest = CandidatePool(export, plan)
        self.tried: list[CandidateResult] = []

    def run(self, pool: Iterable[Candidate], levels_of: Callable[[Candidate], list[str | None]]) -> None:
        """Heat after heat, until what is left was measured for as long as the plan says."""
        self._enter(pool)
        for rounds in self._plan.heats[:2]:
            self._heat(rounds)
            self._halve()
        best = self._quickest(followed=True)
        self._enter(best.variants(levels_of(best)))
        self._heat(self._plan.heats[1])
        self._halve()
        self._heat(self._plan.heats[2])

    def winner(self) -> tuple[Candidate, list[str]]:
        """The quickest that the runtime can run, or the plainest of those that noise does not tell from it; and why."""
        quickest = self._quickest(followed=True)
        left = [candidate for candidate in self.contest.entered if candidate.is_followed]
        tied = [candidate for candidate in left if self._is_tied(candidate, quickest)]
        winner = min(tied, key=lambda candidate: candidate.plainness)
        for candidate in self.contest.entered:
            self._note(candidate, self._outcome(candidate, winner, tied))
        return winner, [self._praise(winner, len(tied) - 1), *self._elsewhere(winner)]

    def _enter(self, pool: Iterable[Candidate]) -> None:
        pool = list(pool)
        self._report(f"opening {len(pool)} candidates")
        self.contest.enter(pool)
        self._collect_broken()

    def _heat(self, rounds: int) -> None:
        self._report(f"measuring {len(self.contest.entered)} candidates, {rounds} rounds")
        self.contest.heat(rounds)
        self._collect_broken()

    def _collect_broken(self) -> None:
        for candidate, reason in self.contest.broken.items():
            if candidate == self.usual:
                raise TargetError("the runtime's defaults cannot be run here", where=candidate, got=reason)
            self._report(f"left out: {candidate}: {reason}")
            self.tried.append(CandidateResult(candidate, f"cannot run here: {reason}"))
        self.contest.broken.clear()

    def _halve(self) -> None:
        """The slower half goes, of those that can be recommended and of the others; the usual one is what all is to."""
        for followed in (True, False):
            field = [item for item in self.contest.entered if item.is_followed == followed and item != self.usual]
            field.sort(key=lambda candidate: self.contest.ratio(candidate, self.usual).median)
            for candidate in field[math.ceil(len(field) / 2) :]:
                times = self.contest.ratio(candidate, field[0]).median
                self._note(candidate, f"slower: {times:.2f}× the quickest of its heat")
                self.contest.leave(candidate)

    def _quickest(self, *, followed: bool) -> Candidate:
        field = [candidate for candidate in self.contest.entered if candidate.is_followed == followed]
        return min(field, key=lambda candidate: self.contest.ratio(candidate, self.usual).median)

    def _is_tied(self, candidate: Candidate, quickest: Candidate) -> bool:
        """Unless the quickest was quicker in three rounds of four, and by what somebody would notice."""
        return self.contest.ratio(candidate, quickest).low <= 1 or self._times(candidate, quickest) <= 1 + _SAME

    def _times(self, candidate: Candidate, other: Candidate) -> float:
        return self.contest.ratio(candidate, other).median

    def _note(self, candidate: Candidate, outcome: str) -> None:
        speedup = self.contest.ratio(self.usual, candidate)
        self.tried.append(CandidateResult(candidate, outcome, self.contest.p50(candidate), speedup))

    def _outcome(self, candidate: Candidate, winner: Candidate, tied: list[Candidate]) -> str:
        if candidate == winner:
            return "won"
        times = self._times(candidate, winner)
        if candidate in tied:
            return f"a tie: {times:.2f}× the winner's time, less plain"
        if candidate.is_followed:
            return f"slower: {times:.2f}× the winner's time"
        return f"not for the runtime: {times:.2f}× the winner's time"

    def _praise(self, winner: Candidate, others: int) -> str:
        ratio = self.contest.ratio(self.usual, winner)
        if winner == self.usual:
            return f"{winner} won: nothing that the runtime can run is quicker than its defaults beyond noise"
        than = "" if others == 0 else f"; of {others + 1} as quick within noise it is the most exact and the plainest"
        return (
            f"{winner} won: {ratio.median:.2f} times as fast as the runtime's defaults "
            f"({ratio.low:.2f} to {ratio.high:.2f}){than}"
        )

    def _elsewhere(self, winner: Candidate) -> list[str]:
        """What runs outside the runtime, and how far the winner lies behind it."""
        if all(candidate.is_followed for candidate in self.contest.entered):
            return []
        other = self._quickest(followed=False)
        ratio = self.contest.ratio(winner, other)
        beyond = "is slower" if ratio.high < 1 else "is as quick within noise"
        verdict = "is quicker" if ratio.low > 1 else beyond
        return [
            f"outside the runtime {other} {verdict}: the winner takes {ratio.median:.2f} times its time "
            f"({ratio.low:.2f} to {ratio.high:.2f})"
        ]
