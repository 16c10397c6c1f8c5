"""Successive halving: measure all candidates briefly, drop the slower half, and measure the rest for longer.

It would take minutes to measure dozens of candidates for as long as a reliable figure needs. So the first rung measures
all of them briefly, and only those that may still win reach the last rung (Jamieson & Talwalkar, arXiv:1502.07943).
A rung measures as `vae_export.bench.benchmark` does: every candidate has its own process, each round measures all of
them in turn, and ratios are taken within a round.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from vae_export.bench.process import SubjectError, SubjectProcess
from vae_export.bench.statistics import RoundFit, Spread
from vae_export.bench.subjects import ExportedFile, Subject
from vae_export.errors import MachineError, TargetError
from vae_export.parity.degradation import Report
from vae_export.tune.candidates import Candidate
from vae_export.tune.plan import TunePlan

#: A candidate that takes at most this many times the time of the fastest is always tied with it.
_SAME = 1.02
#: Up to this many times, it is tied if it was as fast in a quarter of the rounds, because noise may be that large.
_MAX_TIE = 1.1


@dataclass(frozen=True)
class CandidateResult:
    """The outcome of one candidate.

    Attributes:
        candidate: the candidate.
        outcome: "won", or the reason why it did not win.
        p50_seconds: median time of a call, or None if it was not measured. It is the median time of the runtime's
            defaults in the last rung divided by `speedup`, so that times and ratios agree although load differs
            between rungs.
        speedup: time of the runtime's defaults divided by that of the candidate, or None if it was not measured.
    """

    candidate: Candidate
    outcome: str
    p50_seconds: float | None = None
    speedup: Spread | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the entry of the JSON that `tune --json` prints."""
        cost = self.candidate.cost
        return {
            "candidate": str(self.candidate),
            "file": self.candidate.entry.name,
            "can_be_recommended": self.candidate.runs_in_runtime,
            "p50_seconds": self.p50_seconds,
            "speedup": None if self.speedup is None else asdict(self.speedup),
            "worst_levels": cost.worst_levels,
            "nats_high": cost.nats_high,
            "outcome": self.outcome,
        }


class SuccessiveHalving:
    """A search for the fastest candidate. Use it as a context manager, which ends the processes of the candidates.

    Args:
        export: the export folder.
        plan: the part, the batch size, and the measuring time.
        baseline: the candidate with the runtime's defaults, to which all ratios refer.
        report: called with one line at each step.

    Attributes:
        pool: the candidates that are still measured.
        baseline: the candidate with the runtime's defaults.
    """

    def __init__(self, export: Path, plan: TunePlan, baseline: Candidate, report: Report) -> None:
        self._plan, self._report = plan, report
        self._eliminated: list[tuple[Candidate, str, Spread | None]] = []
        self.baseline = baseline
        self.pool = CandidatePool(export, plan)

    def __enter__(self) -> SuccessiveHalving:
        return self

    def __exit__(self, *_error: object) -> None:
        self.pool.close()

    def run(self, candidates: Iterable[Candidate], levels_of: Callable[[Candidate], list[str | None]]) -> None:
        """Measure all rungs, and drop the slower half of the candidates after each rung but the last.

        Args:
            candidates: the candidates, including the baseline.
            levels_of: returns the optimisation levels at which a candidate was verified. The session options of the
                fastest candidate are varied before the last rungs.

        Raises:
            TargetError: the runtime's defaults cannot run here.
        """
        first, second, last = self._plan.rungs
        self._add(candidates)
        self._measure(first)
        self._eliminate_slower_half("rung 1")
        self._measure(second)
        self._eliminate_slower_half("rung 2")
        fastest = self._fastest(in_runtime=True)
        self._add(fastest.variants(levels_of(fastest)))
        self._measure(second)
        self._eliminate_slower_half("rung 3")
        self._measure(last)

    def winner(self) -> tuple[Candidate, list[str]]:
        """Return the winner, and sentences that explain the choice.

        The winner is the fastest candidate that the runtime can run, or the simplest of those tied with it.
        """
        fastest = self._fastest(in_runtime=True)
        tied = [item for item in self.pool.candidates if item.runs_in_runtime and self._is_tied(item, fastest)]
        winner = min(tied, key=lambda candidate: candidate.preference)
        return winner, [self._explain(winner, len(tied) - 1), *self._compare_outside_runtime(winner)]

    def results(self, winner: Candidate) -> list[CandidateResult]:
        """Return the outcome of each candidate: the fastest first, and those that were not measured last."""
        fastest = self._fastest(in_runtime=True)
        found = [
            *self._eliminated,
            *((c, self._outcome(c, winner, fastest), self.pool.ratio(self.baseline, c)) for c in self.pool.candidates),
        ]
        results = [
            CandidateResult(candidate, outcome, None if speedup is None else self.p50(speedup), speedup)
            for candidate, outcome, speedup in found
        ]
        return sorted(results, key=lambda result: -result.speedup.median if result.speedup else math.inf)

    def p50(self, speedup: Spread) -> float:
        """Return the median time of a call, in seconds, of a candidate with this speedup."""
        return self.pool.p50(self.baseline) / speedup.median

    def leave_out(self, candidate: Candidate, reason: str) -> None:
        """Record a candidate that is not measured, with the reason."""
        self._eliminated.append((candidate, reason, None))

    def _add(self, candidates: Iterable[Candidate]) -> None:
        candidates = list(candidates)
        self._report(f"opening {len(candidates)} candidates")
        self.pool.add(candidates)
        self._leave_out_failed()

    def _measure(self, rounds: int) -> None:
        self._report(f"measuring {len(self.pool.candidates)} candidates, {rounds} rounds")
        self.pool.measure(rounds)
        self._leave_out_failed()

    def _leave_out_failed(self) -> None:
        for candidate, reason in self.pool.failed.items():
            if candidate == self.baseline:
                raise TargetError("the runtime's defaults cannot be run here", where=candidate, got=reason)
            self._report(f"left out: {candidate}: {reason}")
            self.leave_out(candidate, f"cannot run here: {reason}")
        self.pool.failed.clear()

    def _eliminate_slower_half(self, rung: str) -> None:
        """Drop the slower half of those that the runtime can run, and of the others; the baseline always stays."""
        for in_runtime in (True, False):
            group = [c for c in self.pool.candidates if c.runs_in_runtime == in_runtime and c != self.baseline]
            group.sort(key=lambda candidate: self.pool.ratio(candidate, self.baseline).median)
            for candidate in group[math.ceil(len(group) / 2) :]:
                times = self.pool.ratio(candidate, group[0]).median
                outcome = f"slower: {_times(times)} the time of the fastest of {rung}"
                self._eliminated.append((candidate, outcome, self.pool.ratio(self.baseline, candidate)))
                self.pool.remove(candidate)

    def _fastest(self, *, in_runtime: bool) -> Candidate:
        group = [candidate for candidate in self.pool.candidates if candidate.runs_in_runtime == in_runtime]
        return min(group, key=lambda candidate: self.pool.ratio(candidate, self.baseline).median)

    def _is_tied(self, candidate: Candidate, fastest: Candidate) -> bool:
        ratio = self.pool.ratio(candidate, fastest)
        return ratio.median <= _SAME or (ratio.low <= 1 and ratio.median <= _MAX_TIE)

    def _outcome(self, candidate: Candidate, winner: Candidate, fastest: Candidate) -> str:
        if candidate == winner:
            return "won"
        if not candidate.runs_in_runtime:
            return f"not for the runtime: {_times(self.pool.ratio(candidate, winner).median)} the time of the winner"
        if candidate == fastest:
            return "a tie: the fastest, but less simple than the winner"
        times = _times(self.pool.ratio(candidate, fastest).median)
        if not self._is_tied(candidate, fastest):
            return f"slower: {times} the time of the fastest"
        return f"a tie: {times} the time of the fastest, less simple than the winner"

    def _explain(self, winner: Candidate, others: int) -> str:
        ratio = self.pool.ratio(self.baseline, winner)
        if winner == self.baseline:
            return f"{winner} won: nothing that the runtime can run is faster than its defaults beyond noise"
        than = "" if others == 0 else f"; of {others + 1} as fast within noise it is the most exact and the simplest"
        return (
            f"{winner} won: {ratio.median:.2f} times as fast as the runtime's defaults "
            f"({ratio.low:.2f} to {ratio.high:.2f}){than}"
        )

    def _compare_outside_runtime(self, winner: Candidate) -> list[str]:
        """Return a sentence that compares the winner with the fastest candidate that the runtime cannot run."""
        if all(candidate.runs_in_runtime for candidate in self.pool.candidates):
            return []
        other = self._fastest(in_runtime=False)
        ratio = self.pool.ratio(winner, other)
        beyond = "is slower" if ratio.high < 1 else "is as fast within noise"
        verdict = "is faster" if ratio.low > 1 else beyond
        return [
            f"outside the runtime {other} {verdict}: the winner takes {ratio.median:.2f} times its time "
            f"({ratio.low:.2f} to {ratio.high:.2f})"
        ]


class CandidatePool:
    """The processes of the candidates that are still measured, and their times in the last rung.

    Attributes:
        failed: candidates that could not be run, with the reason; the caller clears it.
    """

    def __init__(self, export: Path, plan: TunePlan) -> None:
        self._export, self._plan = export, plan
        self._stack = ExitStack()
        self._processes: dict[Candidate, SubjectProcess] = {}
        self._fit: RoundFit[Candidate] = RoundFit({})
        self._order = random.Random(0)  # noqa: S311 -- no secret: an order that differs from round to round
        self.failed: dict[Candidate, str] = {}

    @property
    def candidates(self) -> list[Candidate]:
        """The candidates that are still measured."""
        return list(self._processes)

    def add(self, candidates: Iterable[Candidate]) -> None:
        """Open each candidate in its own process, and compute a batch."""
        for candidate in candidates:
            target = candidate.target
            file = ExportedFile(candidate.entry.name, target.format, candidate.options)
            subject = Subject(str(self._export), "", self._plan.part, str(candidate), self._plan.sizes, file)
            process = self._stack.enter_context(SubjectProcess(subject))
            self._processes[candidate] = process
            try:
                target.check()
                process.begin()
                process.ask("open", threads=candidate.options.threads, batch=self._plan.batch)
            except MachineError as error:  # the engine failed, or needs what this machine lacks
                self._fail(candidate, str(error))

    def measure(self, rounds: int) -> None:
        """Measure all candidates again, and discard the times of the previous rung."""
        medians: dict[Candidate, list[float]] = {candidate: [] for candidate in self._processes}
        for _ in range(rounds):
            for candidate in self._order.sample(self.candidates, len(self._processes)):
                try:
                    answer = self._processes[candidate].ask(
                        "time",
                        threads=candidate.options.threads,
                        batch=self._plan.batch,
                        seconds=self._plan.seconds,
                    )
                except SubjectError as error:
                    self._fail(candidate, str(error))
                    continue
                medians[candidate].append(median(answer["nanoseconds"]) / 1e9)
        self._fit = RoundFit({candidate: medians[candidate] for candidate in self._processes})

    def p50(self, candidate: Candidate) -> float:
        """Return the median time of a call in the last rung, in seconds."""
        return self._fit.time(candidate)

    def ratio(self, numerator: Candidate, denominator: Candidate) -> Spread:
        """Return the time of one candidate divided by that of another, over the rounds of the last rung."""
        return self._fit.ratio(numerator, denominator)

    def remove(self, candidate: Candidate) -> None:
        """End the process of a candidate, which is no longer measured."""
        self._processes.pop(candidate).close()

    def close(self) -> None:
        """End all processes."""
        self._stack.close()

    def _fail(self, candidate: Candidate, reason: str) -> None:
        self.failed[candidate] = reason
        self.remove(candidate)


def _times(ratio: float) -> str:
    """Return a ratio such as "1.53×", with a third decimal if two would show 1.00 for a ratio other than 1."""
    text = f"{ratio:.2f}"
    return f"{ratio:.3f}×" if text == "1.00" and ratio != 1 else f"{text}×"
