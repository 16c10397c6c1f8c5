"""`bench()`: every side in a child process of its own, all of them measured in turn, round after round.

A shared machine drifts: what is measured a minute later is measured on another machine. So each round measures every
side once, in an order of its own, and a ratio is taken within a round; the median over the rounds is what is reported.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median

from vae_export.artifact.certificate import StoredCertificate
from vae_export.artifact.folder import Artifact
from vae_export.artifact.manifest import FileEntry
from vae_export.bench.process import SubjectError, SubjectProcess
from vae_export.bench.results import Figure, Limit, Plan, Side, Spread, Timings, percentile
from vae_export.bench.subjects import COMPILE, EAGER, LIMITS, OWN, PRODUCTS, RUNTIME, WEIGHTS, Opening, Subject
from vae_export.contract import Part
from vae_export.errors import TargetError, UsageError
from vae_export.parity.targets import Target, choose_targets, parse_target
from vae_export.precision import FULL
from vae_export.system.hardware import describe_machine

Report = Callable[[str], None]
#: Nanoseconds of calls, a list a round, by side, batch size and threads.
CallTimes = dict[tuple[str, int, int], list[list[int]]]


def bench(
    artifact: Artifact,
    checkpoint: Path,
    record: StoredCertificate,
    plan: Plan,
    *,
    targets: Sequence[str] | None = None,
    report: Report = lambda _line: None,
) -> Timings:
    """Measure the files of an export, PyTorch, and the machine's limit, side by side.

    Args:
        artifact: whose files are measured.
        checkpoint: that they were made from.
        record: their certificate. What is not proved to compute the right thing is not measured.
        plan: what, and for how long.
        targets: sides by name, such as onnx/CPUExecutionProvider or compile/cpu; None takes all that run here.
            `eager/cpu` and the limit are always there.
        report: called with a line at each step.

    Raises:
        ParityError, IntegrityError: the certificate did not pass, or is of other files.
        UsageError: a target that no file has, or a part that the export lacks.
        TargetError: a target that was asked for cannot be measured here.
    """
    record.require(artifact.manifest, artifact.certificate)
    chosen = {part: sides(artifact, part, targets) for part in plan.parts}
    unusable: dict[str, str] = {}
    measured: list[tuple[list[Side], list[Limit], list[Figure]]] = []
    for part, names in chosen.items():
        with ExitStack() as stack:
            table = _Table(artifact, checkpoint, part, plan, report, unusable, asked=set(targets or ()))
            table.open(names, stack)
            table.rounds()
            measured.append((table.sides, table.limits(), list(table.figures())))
    entries = {side.file for sides, _, _ in measured for side in sides}
    return Timings(
        files={entry.name: entry.sha256 for entry in artifact.manifest.files if entry.name in entries},
        plan=asdict(plan),
        machine=describe_machine(),
        sides=tuple(side for sides, _, _ in measured for side in sides),
        limits=tuple(limit for _, limits, _ in measured for limit in limits),
        figures=tuple(figure for _, _, figures in measured for figure in figures),
        unusable=unusable,
    )


def sides(artifact: Artifact, part: Part, asked: Sequence[str] | None) -> list[str]:
    """The names of the sides to measure, the limit's first, then eager's; raises `UsageError` for one there is not."""
    kinds = [(entry.format, entry.precision) for entry in artifact.manifest.known if entry.part == part]
    if not kinds:
        have = sorted({entry.part for entry in artifact.manifest.files})
        raise UsageError("export has no such part", where=part, expected=" | ".join(have))
    if asked is None:
        runtime = [RUNTIME] if ("onnx", FULL) in kinds else []
        return [*LIMITS, EAGER, COMPILE, *runtime, *map(str, choose_targets(kinds, None))]
    for name in asked:
        if name not in OWN:
            parse_target(name, kinds)
    return [*LIMITS, EAGER, *(name for name in dict.fromkeys(asked) if name != EAGER)]


class _Table:
    """The sides of one part, open in their processes, and what was measured of them."""

    def __init__(
        self,
        artifact: Artifact,
        checkpoint: Path,
        part: Part,
        plan: Plan,
        report: Report,
        unusable: dict[str, str],
        asked: set[str],
    ) -> None:
        self._artifact, self._checkpoint, self._part, self._plan = artifact, checkpoint, part, plan
        self._report, self._unusable, self._asked = report, unusable, asked
        self._workers: dict[str, SubjectProcess] = {}
        self._samples: CallTimes = defaultdict(list)
        self._memory: dict[tuple[str, int, int], int] = {}
        self._counts: dict[int, dict[str, int]] = {}
        self.sides: list[Side] = []

    def open(self, names: Sequence[str], stack: ExitStack) -> None:
        """Start a process for each side, one after the other, so that none disturbs another's load time."""
        for name in names:
            self._report(f"opening {name} for {self._part}")
            subject = Subject(str(self._artifact.folder), str(self._checkpoint), self._part, name, self._opening(name))
            worker = stack.enter_context(SubjectProcess(subject))
            try:
                self._open(name, worker)
            except SubjectError as error:
                worker.close()
                if name in (*LIMITS, EAGER) or name in self._asked:
                    raise TargetError("cannot be measured", where=f"{self._part}, {name}", got=error) from error
                self._drop(name, str(error))
            else:
                self._workers[name] = worker

    def _open(self, name: str, worker: SubjectProcess) -> None:
        worker.begin()
        smallest = min(self._plan.batches)
        loads = [worker.ask("open", threads=t, batch=smallest)["seconds"] for t in self._plan.threads]
        for threads in self._plan.threads:
            for batch in sorted(self._plan.batches):
                self._memory[name, batch, threads] = worker.ask("warm", threads=threads, batch=batch)["bytes"]
        if name == PRODUCTS:
            self._counts = {batch: worker.ask("count", batch=batch) for batch in self._plan.batches}
        if name not in LIMITS:
            entry = self._entry(name)
            size = None if entry is None else sum(stored.size for stored in entry.stored)
            precision = None if entry is None else entry.precision
            self.sides.append(Side(self._part, name, None if entry is None else entry.name, size, precision, loads[0]))

    def rounds(self) -> None:
        """Measure. A side that dies here is left out from then on, and the others go on."""
        order = random.Random(0)  # noqa: S311 -- no secret: an order that differs from round to round
        for round in range(self._plan.rounds):
            self._report(f"measuring {self._part}, round {round + 1} of {self._plan.rounds}")
            for threads in self._plan.threads:
                for batch in self._plan.batches:
                    for name in order.sample(list(self._workers), len(self._workers)):
                        self._slot(name, batch, threads)

    def _slot(self, name: str, batch: int, threads: int) -> None:
        try:
            answer = self._workers[name].ask("time", threads=threads, batch=batch, seconds=self._plan.seconds)
        except SubjectError as error:
            self._workers.pop(name).close()
            if name in (*LIMITS, EAGER):
                raise TargetError("cannot be measured", where=f"{self._part}, {name}", got=error) from error
            self._drop(name, f"batch {batch}: {error}")
            return
        self._samples[name, batch, threads].append(answer["nanoseconds"])

    def _drop(self, name: str, reason: str) -> None:
        self._report(f"left out: {name}: {reason}")
        self._unusable[f"{self._part}, {name}"] = reason
        self.sides = [side for side in self.sides if side.side != name]

    def limits(self) -> list[Limit]:
        return [
            Limit(
                self._part,
                batch,
                threads,
                median(_medians(self._samples[PRODUCTS, batch, threads])) / 1e9,
                median(_medians(self._samples[WEIGHTS, batch, threads])) / 1e9,
                self._counts[batch]["operations"],
                self._counts[batch]["weight_bytes"],
            )
            for threads in self._plan.threads
            for batch in self._plan.batches
        ]

    def figures(self) -> Iterator[Figure]:
        for name in self._workers:
            if name in LIMITS:
                continue
            for threads in self._plan.threads:
                for batch in self._plan.batches:
                    yield self._figure(name, batch, threads)

    def _figure(self, name: str, batch: int, threads: int) -> Figure:
        rounds = self._samples[name, batch, threads]
        own = _medians(rounds)
        eager, products, weights = (
            _medians(self._samples[side, batch, threads]) for side in (EAGER, PRODUCTS, WEIGHTS)
        )
        limit = [max(pair) for pair in zip(products, weights, strict=True)]
        calls = [taken for round in rounds for taken in round]
        return Figure(
            self._part,
            name,
            batch,
            threads,
            calls=len(calls),
            p50_seconds=percentile(calls, 0.5),
            p90_seconds=percentile(calls, 0.9),
            p99_seconds=percentile(calls, 0.99),
            memory_bytes=self._memory[name, batch, threads],
            speedup=_ratio(eager, own),
            reached=None if self._is_elsewhere(name) else _ratio(limit, own),
        )

    def _opening(self, name: str) -> Opening | None:
        """The plain way, which parity verified first; None for what is no exported file."""
        target, entry = self._target(name), self._entry(name)
        if target is None or entry is None:
            return None
        return Opening(entry.name, target.format, target.provider, target.settings(thorough=True)[0])

    def _target(self, name: str) -> Target | None:
        if name in (*OWN, *LIMITS):
            return None
        return parse_target(name, [(entry.format, entry.precision) for entry in self._artifact.manifest.known])

    def _entry(self, name: str) -> FileEntry | None:
        target = self._target(name)
        return None if target is None else self._artifact.manifest.entry(self._part, target.format, target.precision)

    def _is_elsewhere(self, name: str) -> bool:
        """Whether it runs on a device that the limit was not measured on."""
        target = self._target(name)
        return target is not None and target.is_gpu


def _medians(rounds: Sequence[Sequence[int]]) -> list[float]:
    return [median(calls) for calls in rounds]


def _ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Pair by pair, each of one round."""
    return Spread.of([a / b for a, b in zip(over, under, strict=True)])
