"""Measure every subject of a benchmark in its own child process, all subjects in turn, in several rounds.

The speed of a shared machine changes within a minute. So each round measures every subject once, in a random order, and
the time of a subject and the speed of the machine in a round are fitted apart. A round in which other programs slowed a
subject down is left out and counted.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median

from vae_export.artifact.certificate import StoredCertificate
from vae_export.artifact.folder import Artifact
from vae_export.artifact.manifest import FileEntry, Manifest
from vae_export.bench.kernels import Kernel, available_libraries
from vae_export.bench.process import SubjectError, SubjectProcess
from vae_export.bench.results import BenchPlan, BenchResult, SubjectSummary, Timings
from vae_export.bench.roofline import PEAKS, LeastTimes, Roofline, Workload
from vae_export.bench.statistics import RoundFit, Spread, percentile
from vae_export.bench.subjects import COMPILE, EAGER, NOT_FILES, RUNTIME, ExportedFile, Subject, roofline_subject
from vae_export.contract import Contract, Part
from vae_export.errors import TargetError, UsageError
from vae_export.parity.degradation import Report
from vae_export.parity.targets import Target, choose_targets, parse_target
from vae_export.precision import FULL
from vae_export.session_options import short_provider
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
        UsageError: no file has a requested target, or the export lacks a requested part or takes no such sizes.
        TargetError: a requested target cannot be measured here.
    """
    certificate.require(artifact.manifest, artifact.certificate)
    targets = full_names(targets, artifact.manifest)
    chosen = {part: choose_subjects(artifact, part, targets) for part in plan.parts}
    plan = allowed_plan(plan, artifact.manifest.contract, report)
    sizes = artifact.manifest.contract.sizes(plan.sizes)
    unusable: dict[str, str] = {}
    subjects: list[SubjectSummary] = []
    rooflines: list[Roofline] = []
    results: list[BenchResult] = []
    least = LeastTimes()
    for part, names in chosen.items():
        with ExitStack() as stack:
            benchmark = _PartBenchmark(artifact, checkpoint, part, plan, sizes, set(targets or ()), least, report)
            benchmark.open(names, stack)
            benchmark.measure()
        unusable |= benchmark.unusable
        subjects += benchmark.subjects
        rooflines += benchmark.rooflines()
        results += benchmark.results()
    measured = {subject.file for subject in subjects}
    return Timings(
        files={entry.name: entry.sha256 for entry in artifact.manifest.files if entry.name in measured},
        plan=plan.to_json(),
        machine=describe_machine(),
        subjects=tuple(subjects),
        rooflines=tuple(rooflines),
        peaks=tuple(least.peak(threads) for threads in plan.threads),
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


def full_names(names: Sequence[str] | None, manifest: Manifest) -> list[str] | None:
    """Return names of subjects with the full names of their providers; None stays None.

    Raises:
        UsageError: no file of the export has one of these targets.
    """
    if names is None:
        return None
    # Those that are no file have one provider each, and short_provider() takes the end of their names.
    others = {short_provider(name).lower(): name for name in NOT_FILES}
    kinds = [(entry.format, entry.precision) for entry in manifest.known]
    found = (others.get(short_provider(name).lower(), name) for name in names)
    return [name if name in NOT_FILES else str(parse_target(name, kinds)) for name in found]


def choose_subjects(artifact: Artifact, part: Part, requested: Sequence[str] | None) -> list[str]:
    """Choose the subjects to measure, beside the roofline: first eager PyTorch, then the others.

    Args:
        artifact: the export.
        part: the part of the model.
        requested: names of subjects as `full_names` returns them; None takes all that run on this machine.

    Returns:
        The names of the subjects, each once.

    Raises:
        UsageError: the export has no such part, or no file for a requested target.
        TargetError: this machine lacks the provider of a requested target.
    """
    kinds = [(entry.format, entry.precision) for entry in artifact.manifest.known if entry.part == part]
    if not kinds:
        have = sorted({entry.part for entry in artifact.manifest.files})
        raise UsageError("export has no such part", where=part, expected=" | ".join(have))
    if requested is None:
        runtime = [RUNTIME] if ("onnx", FULL) in kinds else []
        return [EAGER, COMPILE, *runtime, *map(str, choose_targets(kinds, None))]
    targets = choose_targets(kinds, [name for name in requested if name not in NOT_FILES])
    others = [name for name in requested if name in NOT_FILES and name != EAGER]
    return [EAGER, *dict.fromkeys([*others, *map(str, targets)])]


class _PartBenchmark:
    """The child processes of one part's subjects, and their measurements.

    Args:
        artifact, checkpoint, plan, report: as for `bench`.
        part: the part of the model.
        sizes: a value for each free size.
        requested: names of the subjects that the user asked for, which must not fail.
        least: the shortest calls of kernels, which all parts share.

    Attributes:
        subjects: the subjects that can be measured.
        unusable: "part, subject" of the others, with the reason.
    """

    def __init__(
        self,
        artifact: Artifact,
        checkpoint: Path | NamedModel,
        part: Part,
        plan: BenchPlan,
        sizes: Mapping[str, int],
        requested: set[str],
        least: LeastTimes,
        report: Report,
    ) -> None:
        self._artifact, self._checkpoint, self._part, self._plan = artifact, checkpoint, part, plan
        self._sizes, self._requested, self._report = sizes, requested, report
        self._processes: dict[str, SubjectProcess] = {}
        self._call_times: CallTimes = defaultdict(list)
        self._memory: dict[tuple[str, int, int], int] = {}
        self._least, self._libraries = least, dict[str, SubjectProcess]()
        self._workloads: dict[int, Workload] = {}
        self._fits: dict[tuple[int, int], RoundFit[str]] = {}
        self.subjects: list[SubjectSummary] = []
        self.unusable: dict[str, str] = {}

    def open(self, names: Sequence[str], stack: ExitStack) -> None:
        """Start a process for each subject, one after the other, so that they do not disturb each other's load time."""
        for library in available_libraries():
            self._report(f"opening {library} for the roofline of {self._part}")
            self._libraries[library] = self._start(roofline_subject(library), stack)
        workloads = self._libraries["torch"].ask("workload", batches=self._plan.batches)["workloads"]
        self._workloads = dict(zip(self._plan.batches, map(Workload.from_json, workloads), strict=True))
        for name in names:
            self._report(f"opening {name} for {self._part}")
            try:
                process = self._start(name, stack)
                self._load(name, process)
            except SubjectError as error:
                if name == EAGER or name in self._requested:
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
                self._measure_kernels(PEAKS, threads)
                for batch in self._plan.batches:
                    workload = self._workloads[batch]
                    self._measure_kernels((*workload.products, workload.weights), threads)
                    for name in order.sample(list(self._processes), len(self._processes)):
                        self._measure(name, batch, threads)

    def rooflines(self) -> Iterator[Roofline]:
        """Yield the roofline of each thread count and batch size."""
        for threads in self._plan.threads:
            for batch in self._plan.batches:
                case = (self._part, batch, threads)
                yield self._least.roofline(
                    case, self._workloads[batch], self._least.peak(threads), self._fastest(*case[1:])
                )

    def results(self) -> Iterator[BenchResult]:
        """Yield the result of each subject, thread count and batch size."""
        rooflines = {(roofline.batch, roofline.threads): roofline for roofline in self.rooflines()}
        for name in self._processes:
            for threads in self._plan.threads:
                for batch in self._plan.batches:
                    yield self._result(name, rooflines[batch, threads])

    def _start(self, name: str, stack: ExitStack) -> SubjectProcess:
        """Start the process of a subject, which ends with the stack; raise `SubjectError` if it fails."""
        model = self._checkpoint.to_json() if isinstance(self._checkpoint, NamedModel) else None
        checkpoint = "" if model else str(self._checkpoint)
        folder = str(self._artifact.folder)
        subject = Subject(folder, checkpoint, self._part, name, self._sizes, self._file(name), model)
        process = stack.enter_context(SubjectProcess(subject))
        process.begin()
        return process

    def _measure_kernels(self, kernels: Sequence[Kernel], threads: int) -> None:
        """Time kernels with each library. One whose process dies is left out from then on."""
        for library, process in list(self._libraries.items()):
            try:
                times = [self._time_kernel(process, kernel, threads, len(kernels)) for kernel in kernels]
            except SubjectError as error:
                if library == "torch":
                    raise TargetError("cannot be measured", where=f"{self._part}, {library}", got=error) from error
                self._libraries.pop(library).close()
                self._leave_out(roofline_subject(library), str(error))
                continue
            for kernel, least in zip(kernels, times, strict=True):
                if least is not None:
                    self._least.add(kernel, threads, library, least / 1e9)

    def _time_kernel(self, process: SubjectProcess, kernel: Kernel, threads: int, kernels: int) -> float | None:
        """Return a kernel's shortest call in nanoseconds, or None where the library does not compute it.

        Each kernel is a request of its own: all those of a large network may take longer than a request is waited for.
        """
        seconds = self._plan.seconds / kernels
        answer = process.ask("time_kernel", kernel=kernel.to_json(), threads=threads, seconds=seconds)
        nanoseconds: float | None = answer["nanoseconds"]
        return nanoseconds

    def _fastest(self, batch: int, threads: int) -> float | None:
        """Return the shortest call of any float32 subject on the CPU, in seconds."""
        exact = [name for name in self._processes if self._precision(name) == FULL and not self._is_on_gpu(name)]
        calls = [min(calls) for name in exact for calls in self._call_times[name, batch, threads]]
        return min(calls, default=None) and min(calls) / 1e9

    def _load(self, name: str, process: SubjectProcess) -> None:
        smallest = min(self._plan.batches)
        loads = [process.ask("open", threads=t, batch=smallest)["seconds"] for t in self._plan.threads]
        for threads in self._plan.threads:
            for batch in sorted(self._plan.batches):
                self._memory[name, batch, threads] = process.ask("warm", threads=threads, batch=batch)["bytes"]
        entry = self._entry(name)
        size = None if entry is None else sum(stored.size for stored in entry.stored)
        file, precision = (None, None) if entry is None else (entry.name, entry.precision)
        self.subjects.append(SubjectSummary(self._part, name, file, size, precision, loads[0]))

    def _measure(self, name: str, batch: int, threads: int) -> None:
        try:
            answer = self._processes[name].ask("time", threads=threads, batch=batch, seconds=self._plan.seconds)
        except SubjectError as error:
            self._processes.pop(name).close()
            if name == EAGER:
                raise TargetError("cannot be measured", where=f"{self._part}, {name}", got=error) from error
            self._leave_out(name, f"batch {batch}: {error}")
            return
        self._call_times[name, batch, threads].append(answer["nanoseconds"])

    def _leave_out(self, name: str, reason: str) -> None:
        self._report(f"left out: {name}: {reason}")
        self.unusable[f"{self._part}, {name}"] = reason
        self.subjects = [subject for subject in self.subjects if subject.name != name]

    def _result(self, name: str, roofline: Roofline) -> BenchResult:
        batch, threads = roofline.batch, roofline.threads
        fit = self._fit(batch, threads)
        rounds = self._call_times[name, batch, threads]
        calls = [taken / fit.slowness(index) / 1e9 for index in fit.kept(name) for taken in rounds[index]]
        middle = fit.time(name) / 1e9
        shares = Spread.of([roofline.seconds / (median(rounds[index]) / 1e9) for index in fit.kept(name)])
        return BenchResult(
            self._part,
            name,
            batch,
            threads,
            calls=len(calls),
            p50_seconds=middle,
            p90_seconds=max(middle, percentile(calls, 0.9)),
            p99_seconds=max(middle, percentile(calls, 0.99)),
            memory_bytes=self._memory[name, batch, threads],
            speedup=fit.ratio(EAGER, name),
            roofline_share=None if self._is_on_gpu(name) else shares.around(roofline.seconds / middle),
            disturbed_rounds=len(rounds) - len(fit.kept(name)),
        )

    def _fit(self, batch: int, threads: int) -> RoundFit[str]:
        """Return the fit of all subjects that were measured to the end."""
        if (batch, threads) not in self._fits:
            rounds = {name: self._call_times[name, batch, threads] for name in self._processes}
            self._fits[batch, threads] = RoundFit({name: [median(c) for c in calls] for name, calls in rounds.items()})
        return self._fits[batch, threads]

    def _precision(self, name: str) -> str:
        """Return the precision of a subject; PyTorch and the runtime compute in float32."""
        target = self._target(name)
        return FULL if target is None else target.precision

    def _file(self, name: str) -> ExportedFile | None:
        """Return the file of a subject with its first verified session options, or None if it is not a file."""
        target, entry = self._target(name), self._entry(name)
        if target is None or entry is None:
            return None
        return ExportedFile(entry.name, target.format, target.session_options(thorough=True)[0])

    def _target(self, name: str) -> Target | None:
        if name in NOT_FILES or name.startswith("roofline/"):
            return None
        return parse_target(name, [(entry.format, entry.precision) for entry in self._artifact.manifest.known])

    def _entry(self, name: str) -> FileEntry | None:
        target = self._target(name)
        return None if target is None else self._artifact.manifest.entry(self._part, target.format, target.precision)

    def _is_on_gpu(self, name: str) -> bool:
        """Whether a subject runs on a GPU, for which the roofline is not measured."""
        target = self._target(name)
        return target is not None and target.is_gpu
