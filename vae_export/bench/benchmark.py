"""Measure every subject of a benchmark in its own child process, all subjects in turn, in several rounds.

The speed of a shared machine changes within a minute. So each round measures every subject once, in a random order, and
ratios are taken within a round. A round in which other programs slowed a subject down is left out and counted.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

from vae_export.artifact.certificate import StoredCertificate
from vae_export.artifact.folder import Artifact
from vae_export.artifact.manifest import FileEntry
from vae_export.bench.process import SubjectError, SubjectProcess
from vae_export.bench.results import BenchPlan, BenchResult, Roofline, SubjectSummary, Timings
from vae_export.bench.statistics import paired_ratio, percentile, robust_median, undisturbed_rounds
from vae_export.bench.subjects import (
    COMPILE,
    EAGER,
    NOT_FILES,
    PRODUCTS,
    ROOFLINES,
    RUNTIME,
    WEIGHTS,
    ExportedFile,
    Subject,
)
from vae_export.contract import Contract, Part
from vae_export.errors import TargetError, UsageError
from vae_export.parity.degradation import Report
from vae_export.parity.targets import Target, choose_targets, parse_target
from vae_export.precision import FULL
from vae_export.sources import NamedModel
from vae_export.system.hardware import describe_machine
from vae_export.tensors import BATCH, Symbol

#: Durations of calls in nanoseconds, one list for each round, by subject, batch size and threads.
CallTimes = dict[tuple[str, int, int], list[list[int]]]


def bench(
    artifact: Artifact,
    checkpoint: Path | NamedModel,
    certificate: StoredCertificate,
    plan: BenchPlan,
    *,
    targets: Sequence[str] | None = None,
    report: Report = lambda _line: None,
) -> Timings:
    """Measure the files of an export, PyTorch, and the roofline of this machine.

    Args:
        artifact: the export whose files are measured.
        checkpoint: the checkpoint or the model that they were made from.
        certificate: the certificate of the export; only certified files are measured.
        plan: the parts, batch sizes and thread counts to measure, and the measuring time.
        targets: names of the subjects, such as `onnx/CPUExecutionProvider` or `compile/cpu`; None takes all that run
            here. `eager/cpu` and the roofline are always measured.
        report: called with one line at each step.

    Returns:
        The timings; subjects that failed are under `unusable`.

    Raises:
        ParityError, IntegrityError: the certificate did not pass, or belongs to other files.
        UsageError: no file has a requested target, or the export lacks a requested part.
        TargetError: a requested target cannot be measured here.
    """
    certificate.require(artifact.manifest, artifact.certificate)
    chosen = {part: choose_subjects(artifact, part, targets) for part in plan.parts}
    plan = allowed_plan(plan, artifact.manifest.contract, report)
    unusable: dict[str, str] = {}
    subjects: list[SubjectSummary] = []
    rooflines: list[Roofline] = []
    results: list[BenchResult] = []
    for part, names in chosen.items():
        with ExitStack() as stack:
            benchmark = _PartBenchmark(artifact, checkpoint, part, plan, report, unusable, requested=set(targets or ()))
            benchmark.open(names, stack)
            benchmark.measure()
        subjects += benchmark.subjects
        rooflines += benchmark.rooflines()
        results += benchmark.results()
    measured = {subject.file for subject in subjects}
    return Timings(
        files={entry.name: entry.sha256 for entry in artifact.manifest.files if entry.name in measured},
        plan=asdict(plan),
        machine=describe_machine(),
        subjects=tuple(subjects),
        rooflines=tuple(rooflines),
        results=tuple(results),
        unusable=unusable,
    )


def allowed_plan(plan: BenchPlan, contract: Contract, report: Report) -> BenchPlan:
    """Leave out the batch sizes that the graphs do not take.

    Args:
        plan: the parts, batch sizes and thread counts to measure.
        contract: the contract of the export, which has the bounds of the batch.
        report: called with a line if some are left out.

    Returns:
        The plan without them.

    Raises:
        UsageError: no batch size is left.
    """
    allowed = contract.symbols.get(BATCH, Symbol())
    batches = tuple(batch for batch in plan.batches if allowed.allows(batch))
    if batches == plan.batches:
        return plan
    if not batches:
        got = ", ".join(map(str, plan.batches))
        raise UsageError("files take no such batch", expected=f"{allowed.bounds} rows", got=got, do="pass --batch")
    report(f"the files take {allowed.bounds} rows; other batch sizes are left out")
    return replace(plan, batches=batches)


def choose_subjects(artifact: Artifact, part: Part, requested: Sequence[str] | None) -> list[str]:
    """Choose the subjects to measure: first the roofline's, then eager PyTorch, then the others.

    Args:
        artifact: the export.
        part: the part of the model.
        requested: names of subjects; None takes all that run on this machine.

    Returns:
        The names of the subjects, each once.

    Raises:
        UsageError: the export has no such part, or no file for a requested target.
    """
    kinds = [(entry.format, entry.precision) for entry in artifact.manifest.known if entry.part == part]
    if not kinds:
        have = sorted({entry.part for entry in artifact.manifest.files})
        raise UsageError("export has no such part", where=part, expected=" | ".join(have))
    if requested is None:
        runtime = [RUNTIME] if ("onnx", FULL) in kinds else []
        return [*ROOFLINES, EAGER, COMPILE, *runtime, *map(str, choose_targets(kinds, None))]
    for name in requested:
        if name not in NOT_FILES:
            parse_target(name, kinds)
    return [*ROOFLINES, EAGER, *(name for name in dict.fromkeys(requested) if name != EAGER)]


class _PartBenchmark:
    """The child processes of one part's subjects, and their measurements."""

    def __init__(
        self,
        artifact: Artifact,
        checkpoint: Path | NamedModel,
        part: Part,
        plan: BenchPlan,
        report: Report,
        unusable: dict[str, str],
        requested: set[str],
    ) -> None:
        self._artifact, self._checkpoint, self._part, self._plan = artifact, checkpoint, part, plan
        self._report, self._unusable, self._requested = report, unusable, requested
        self._processes: dict[str, SubjectProcess] = {}
        self._call_times: CallTimes = defaultdict(list)
        self._memory: dict[tuple[str, int, int], int] = {}
        self._counts: dict[int, dict[str, int]] = {}
        self.subjects: list[SubjectSummary] = []

    def open(self, names: Sequence[str], stack: ExitStack) -> None:
        """Start a process for each subject, one after the other, so that they do not disturb each other's load time."""
        for name in names:
            self._report(f"opening {name} for {self._part}")
            model = self._checkpoint.to_json() if isinstance(self._checkpoint, NamedModel) else None
            checkpoint = "" if model else str(self._checkpoint)
            folder = str(self._artifact.folder)
            subject = Subject(folder, checkpoint, self._part, name, self._file(name), model)
            process = stack.enter_context(SubjectProcess(subject))
            try:
                self._load(name, process)
            except SubjectError as error:
                process.close()
                if name in (*ROOFLINES, EAGER) or name in self._requested:
                    raise TargetError("cannot be measured", where=f"{self._part}, {name}", got=error) from error
                self._leave_out(name, str(error))
            else:
                self._processes[name] = process

    def measure(self) -> None:
        """Measure all rounds. A subject whose process dies is skipped from then on, and the others continue."""
        order = random.Random(0)  # noqa: S311 -- no secret: an order that differs from round to round
        for index in range(self._plan.rounds):
            self._report(f"measuring {self._part}, round {index + 1} of {self._plan.rounds}")
            for threads in self._plan.threads:
                for batch in self._plan.batches:
                    for name in order.sample(list(self._processes), len(self._processes)):
                        self._measure(name, batch, threads)

    def rooflines(self) -> list[Roofline]:
        return [
            Roofline(
                self._part,
                batch,
                threads,
                robust_median(self._round_medians(PRODUCTS, batch, threads)) / 1e9,
                robust_median(self._round_medians(WEIGHTS, batch, threads)) / 1e9,
                self._counts[batch]["operations"],
                self._counts[batch]["weight_bytes"],
            )
            for threads in self._plan.threads
            for batch in self._plan.batches
        ]

    def results(self) -> Iterator[BenchResult]:
        for name in self._processes:
            if name in ROOFLINES:
                continue
            for threads in self._plan.threads:
                for batch in self._plan.batches:
                    yield self._result(name, batch, threads)

    def _load(self, name: str, process: SubjectProcess) -> None:
        process.begin()
        smallest = min(self._plan.batches)
        loads = [process.ask("open", threads=t, batch=smallest)["seconds"] for t in self._plan.threads]
        for threads in self._plan.threads:
            for batch in sorted(self._plan.batches):
                self._memory[name, batch, threads] = process.ask("warm", threads=threads, batch=batch)["bytes"]
        if name == PRODUCTS:
            self._counts = {batch: process.ask("count", batch=batch) for batch in self._plan.batches}
        if name not in ROOFLINES:
            entry = self._entry(name)
            size = None if entry is None else sum(stored.size for stored in entry.stored)
            file, precision = (None, None) if entry is None else (entry.name, entry.precision)
            self.subjects.append(SubjectSummary(self._part, name, file, size, precision, loads[0]))

    def _measure(self, name: str, batch: int, threads: int) -> None:
        try:
            answer = self._processes[name].ask("time", threads=threads, batch=batch, seconds=self._plan.seconds)
        except SubjectError as error:
            self._processes.pop(name).close()
            if name in (*ROOFLINES, EAGER):
                raise TargetError("cannot be measured", where=f"{self._part}, {name}", got=error) from error
            self._leave_out(name, f"batch {batch}: {error}")
            return
        self._call_times[name, batch, threads].append(answer["nanoseconds"])

    def _leave_out(self, name: str, reason: str) -> None:
        self._report(f"left out: {name}: {reason}")
        self._unusable[f"{self._part}, {name}"] = reason
        self.subjects = [subject for subject in self.subjects if subject.name != name]

    def _result(self, name: str, batch: int, threads: int) -> BenchResult:
        own, eager, products, weights = (
            self._round_medians(subject, batch, threads) for subject in (name, EAGER, PRODUCTS, WEIGHTS)
        )
        roofline = [max(pair) for pair in zip(products, weights, strict=True)]
        rounds = self._call_times[name, batch, threads]
        calls = [taken for index in undisturbed_rounds(own) for taken in rounds[index]]
        return BenchResult(
            self._part,
            name,
            batch,
            threads,
            calls=len(calls),
            p50_seconds=percentile(calls, 0.5),
            p90_seconds=percentile(calls, 0.9),
            p99_seconds=percentile(calls, 0.99),
            memory_bytes=self._memory[name, batch, threads],
            speedup=paired_ratio(eager, own),
            roofline_share=None if self._is_on_gpu(name) else paired_ratio(roofline, own),
            disturbed_rounds=len(own) - len(undisturbed_rounds(eager, own)),
        )

    def _round_medians(self, name: str, batch: int, threads: int) -> list[float]:
        """Return the median duration of a call in each round, in nanoseconds."""
        return [median(calls) for calls in self._call_times[name, batch, threads]]

    def _file(self, name: str) -> ExportedFile | None:
        """Return the file of a subject with its first verified session options, or None if it is not a file."""
        target, entry = self._target(name), self._entry(name)
        if target is None or entry is None:
            return None
        return ExportedFile(entry.name, target.format, target.session_options(thorough=True)[0])

    def _target(self, name: str) -> Target | None:
        if name in (*NOT_FILES, *ROOFLINES):
            return None
        return parse_target(name, [(entry.format, entry.precision) for entry in self._artifact.manifest.known])

    def _entry(self, name: str) -> FileEntry | None:
        target = self._target(name)
        return None if target is None else self._artifact.manifest.entry(self._part, target.format, target.precision)

    def _is_on_gpu(self, name: str) -> bool:
        """Whether a subject runs on a GPU, for which the roofline is not measured."""
        target = self._target(name)
        return target is not None and target.is_gpu
