"""Verify one file of an export on each target: lint it, compare it with one written anew, and run its test cases."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from vae_export.artifact.folder import Artifact, read_content
from vae_export.artifact.manifest import FileContent, FileEntry
from vae_export.contract import Array, Part, PartSpec, float_part
from vae_export.errors import ModelError, TargetError, VaeExportError
from vae_export.formats import FORMATS, Runner
from vae_export.formats.base import Finding, StatedFile
from vae_export.parity.cases import Case, drawn_cases, rows_by_probe
from vae_export.parity.certificate import Determinism
from vae_export.parity.compare import (
    CaseResult,
    Comparison,
    KnownComparisons,
    compare_codes,
    compare_output,
    describe_fault,
    unstable_warnings,
)
from vae_export.parity.coverage import Coverage, measure_coverage
from vae_export.parity.degradation import DegradationMeter, Report
from vae_export.parity.error_maps import ErrorMap, ErrorMapBuilder
from vae_export.parity.onnx_debug import NodeMismatch, cpu_node_warnings, explain_failure, node_providers
from vae_export.parity.oracle import PartFunction
from vae_export.parity.pilot import Pilot
from vae_export.parity.plan import Limits, NatsPlan, PartPlan, Plan, RowCost, drawn_batches, plan_nats
from vae_export.parity.reference import References
from vae_export.parity.reproduction import FileWriter, Reproduction, reproduce
from vae_export.parity.targets import Target
from vae_export.parity.tolerance import Tolerance
from vae_export.precision import FULL
from vae_export.sandbox.crash_check import Trial, crash_check
from vae_export.session_options import SessionOptions
from vae_export.tensors import TensorSpec

#: A file is timed only where the rest of a part's complete plan takes more than this share of the time allowed.
_SHARE_WITHOUT_FILES = 0.1
#: The bytes of larger files are not held while they run.
_MOST_HELD = 64 << 20


@dataclass
class TargetRecord:
    """The results of one file on one target.

    Attributes:
        planned: number of test cases that must be present.
        results: the test cases that were run.
        findings: warnings about nodes that ran on another provider.
        determinism: whether outputs repeat; None if the file could not be run.
        error_map: pictures of a decoder's errors.
    """

    planned: int
    results: list[CaseResult] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    determinism: Determinism | None = None
    error_map: ErrorMap | None = None


@dataclass
class FileRecord:
    """The results of verifying one file.

    Attributes:
        entry: the file.
        findings: findings of its linter.
        reproduction: the comparison with the file that this version writes.
        runs: a record for each usable target, by its name.
        unusable: the reason why a target cannot be used, by its name.
        mismatch: the first wrong node of a failed ONNX file.
        coverage: what the test cases reach; None if they were not run.
    """

    entry: FileEntry
    findings: list[Finding]
    reproduction: Reproduction
    runs: dict[str, TargetRecord] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    mismatch: NodeMismatch | None = None
    coverage: Coverage | None = None

    @property
    def results(self) -> list[CaseResult]:
        return [result for run in self.runs.values() for result in run.results]


class _Session:
    """A file that is open with one set of options at a time, because each engine holds a copy of the weights.

    Calling it takes input arrays by name and returns output arrays by name.

    Args:
        opener: opens the file.
    """

    def __init__(self, opener: Callable[[SessionOptions], Runner]) -> None:
        self._opener = opener
        self._runner: Runner | None = None
        self._options: SessionOptions | None = None

    def open(self, options: SessionOptions, *, anew: bool = False) -> None:
        """Open the file with these options, unless it is open with them and no new session is wanted."""
        if anew or options != self._options:
            self.close()
            self._runner, self._options = self._opener(options), options

    def opener(self, options: SessionOptions) -> Callable[[], Runner]:
        """Return a function that opens the file with these options once more."""
        return partial(self._opener, options)

    def close(self) -> None:
        """Let the engine free its copy of the weights."""
        self._runner = self._options = None

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if self._runner is None:
            raise RuntimeError("file is not open")
        return self._runner(inputs)


class FileVerifier:
    """Reads, runs and measures the files one after the other.

    Args:
        artifact: the export.
        references: what PyTorch computes for its source.
        writer: writes the files anew.
        tolerance: tolerance that replaces the measured one.
        thorough: whether to run every batch size, optimisation level and thread count.
        allow_unreproduced: whether files that cannot be reproduced may pass.
        progress: called with the share of the work on a file that is done.

    Attributes:
        plan: the test cases of each part, which `make_plan` chooses.
        meter: takes the files that it compares in nats.
    """

    def __init__(
        self,
        artifact: Artifact,
        references: References,
        writer: FileWriter,
        tolerance: Tolerance | None,
        *,
        thorough: bool,
        allow_unreproduced: bool,
        progress: Callable[[float], None],
    ) -> None:
        self._artifact, self._references, self._writer = artifact, references, writer
        self._tolerance, self._thorough, self._allow_unreproduced = tolerance, thorough, allow_unreproduced
        self._progress = progress
        self.plan = Plan({})
        self.meter: DegradationMeter | None = None
        #: Contents of the files that were read for the crash check, by file name.
        self._tried: dict[str, FileContent] = {}
        #: Description of how the child process crashed, by file name and provider.
        self._crashes: Mapping[tuple[str, str], str] = {}

    def make_plan(self, limits: Limits, targets: Sequence[Target]) -> Plan:
        """Measure a row of each part, and choose and return the plan that keeps the limits.

        Args:
            limits: the time and memory for each part and format.
            targets: the targets; the first that can run a file of a part shows how long a row takes in it.
        """
        parts: dict[Part, PartPlan] = {}
        usual: dict[Part, RowCost] = {}
        for part in dict.fromkeys(float_part(entry.part) for entry in self._artifact.manifest.known):
            if part not in self._references.source.parts:
                continue  # `verify` raises the error
            pilot = Pilot(self._references.oracle(part), limits)
            settings = max((len(target.session_options(thorough=True)) for target in targets), default=1)
            parts[part] = pilot.plan(thorough=self._thorough, settings=settings)
            if parts[part].seconds > _SHARE_WITHOUT_FILES * limits.seconds or not parts[part].is_complete:
                pilot.time_file(self._first_runner(part, targets))
                parts[part] = pilot.plan(thorough=self._thorough, settings=settings)
            usual[part] = pilot.costs[0]
        nats = NatsPlan()
        if "encoder" in usual and "decoder" in usual:
            nats = plan_nats(usual["encoder"], usual["decoder"], limits)
        self.plan = Plan(parts, nats, None if math.isinf(limits.seconds) else limits.seconds / 60)
        return self.plan

    def _first_runner(self, part: Part, targets: Sequence[Target]) -> Runner | None:
        """Open the first file of a part that can be opened."""
        self._references.release_weights()
        for entry in self._artifact.manifest.known:
            for target in (target for target in targets if target.runs(entry) and entry.part == part):
                with contextlib.suppress(Exception):  # every reader raises its own; `verify` raises it again
                    self._refuse_crashed(entry, target)
                    content = self._tried.get(entry.name) or read_content(self._artifact, entry)
                    return self._opener(entry, content)(target.session_options(thorough=False)[0])
        return None

    def crash_check(self, targets: Sequence[Target], report: Report) -> None:
        """Run the files of engines that may crash in a child process, before this process opens any of them."""
        trials = []
        for entry in self._artifact.manifest.known:
            if FORMATS[entry.format].may_crash and (providers := [t.provider for t in targets if t.runs(entry)]):
                self._tried[entry.name] = content = read_content(self._artifact, entry)
                trials += [Trial(entry.name, entry.part, entry.format, provider, content) for provider in providers]
        if trials:
            report("trying files in a child process")
        self._crashes = crash_check(trials, self._references.source.contract)

    def verify_all(self, targets: Sequence[Target], *, required: bool, report: Report) -> list[FileRecord]:
        """Verify the files one after the other, with the references of one part at a time.

        Args:
            targets: the targets.
            required: whether each target must be able to run its files. Files that no target runs are then skipped;
                otherwise they are an error.
            report: called with a line for each file.
        """
        records, files = [], self._artifact.manifest.known
        for index, entry in enumerate(files):
            of_file = [target for target in targets if target.runs(entry)]
            if of_file or not required:
                report(f"verifying {entry.name}")
                records.append(self._verify(entry, of_file, required=required))
            if all(later.part != entry.part for later in files[index + 1 :]):
                self._references.release(entry.part)
        return records

    def _verify(self, entry: FileEntry, targets: Sequence[Target], *, required: bool) -> FileRecord:
        """Verify one file. A target that cannot run it is an error only if `required` is set."""
        source = self._references.source
        if float_part(entry.part) not in source.parts:
            raise ModelError("nothing to compare with", where=entry.part, expected=" | ".join(source.parts))
        self._refuse_unopenable(entry, targets)
        record, session = self._read(entry)
        plan = self.plan.parts[float_part(entry.part)]
        before = plan.reference_seconds / (plan.seconds or 1.0)
        cases = self._references.cases(
            entry.part, entry.precision, plan, self._tolerance, lambda share: self._progress(before * share)
        )
        record.coverage = self._coverage(float_part(entry.part), cases, plan)
        drawn = drawn_cases(cases, drawn_batches(plan, self._spec(entry).symbols, entry.sha256))
        self._references.release_weights()
        for index, target in enumerate(targets):
            try:
                target.check()
                self._refuse_crashed(entry, target)
                session.open(target.session_options(thorough=plan.every_setting)[0])
            except TargetError as error:
                if required:
                    raise
                record.unusable[str(target)] = error.line()
                continue

            def progress(share: float, index: int = index) -> None:
                self._progress(before + (1 - before) * (index + share) / len(targets))

            record.runs[str(target)] = self._run(entry, target, session, cases, drawn, progress)
        if not required and not record.runs:
            raise TargetError("file cannot be verified here", where=entry.name, got="; ".join(record.unusable.values()))
        # A file of another precision has other nodes than the captured program, so they cannot be compared.
        failures = [result for result in record.results if not result.passed]
        if failures and entry.format == "onnx" and entry.precision == FULL and not entry.beside:
            graph = self._references.captured.graph(entry.part)
            data = self._artifact.read(entry)
            found = explain_failure(data, entry.name, graph, failures, [*cases, *drawn])
            if isinstance(found, NodeMismatch):
                record.mismatch = found
            elif found is not None:
                record.findings.append(found)
        return record

    def _read(self, entry: FileEntry) -> tuple[FileRecord, _Session]:
        """Read a file, and return what its linter and a comparison with one written anew find, and how to run it."""
        self._references.release_weights()
        content = self._tried.pop(entry.name, None) or read_content(self._artifact, entry)
        findings = _lint(entry, content, self._artifact.manifest.opset)
        if isinstance(self._artifact.manifest.contract.data.batch, int):  # the contract states the number of rows
            findings = [finding for finding in findings if finding.rule != "baked-batch"]
        reproduction = reproduce(entry, self._artifact.manifest, self._writer, lambda: content)
        findings += reproduction.findings(allowed=self._allow_unreproduced)
        if (needed := FORMATS[entry.format].required_machine(content)) != entry.machine:
            detail = f"the manifest says that it needs {entry.machine or 'no machine'}; expected {needed or 'none'}"
            findings.append(Finding("other-manifest", "error", entry.name, detail))
        return FileRecord(entry, findings, reproduction), _Session(self._opener(entry, content))

    def _coverage(self, part: Part, cases: Sequence[Case], plan: PartPlan) -> Coverage:
        """Return what the test cases reach inside a part, which is the same for each file with the same probes."""
        key = part, plan.sweeps, plan.left_out, tuple(dict.fromkeys(case.probe for case in cases))
        covered = self._references.covered
        if key not in covered:
            rows = rows_by_probe(cases)
            covered[key] = measure_coverage(self._references.captured.graph(part), rows, plan)
        return covered[key]

    def _opener(self, entry: FileEntry, content: FileContent) -> Callable[[SessionOptions], Runner]:
        """Return a function that opens a file from its bytes. For a large one, it does not hold them in between."""
        format, spec = FORMATS[entry.format], self._spec(entry)
        if sum(stored.size for stored in entry.stored) <= _MOST_HELD:
            return lambda options: format.open(content, spec, options)
        path, read = self._artifact.folder / entry.name, partial(read_content, self._artifact, entry)
        return lambda options: format.open_stored(path, read, spec, options)

    def _spec(self, entry: FileEntry) -> PartSpec:
        return self._references.captured.graph(entry.part).spec

    def _run(
        self,
        entry: FileEntry,
        target: Target,
        session: _Session,
        cases: Sequence[Case],
        drawn: Sequence[Case],
        progress: Callable[[float], None],
    ) -> TargetRecord:
        """Run a file with all session options of a target; it is open with the first of them.

        Cases of batch sizes that are drawn for the file run with the first options only.
        """
        plan = self.plan.parts[float_part(entry.part)]
        settings, spec = target.session_options(thorough=plan.every_setting), self._spec(entry)
        # The target is usable from here on, so a test case that is not run counts as missing.
        record = TargetRecord(planned=(len(settings) * len(cases) + len(drawn)) * len(spec.outputs))
        if self.meter is not None:
            self.meter.add(target, entry.part, session.opener(settings[0]), cases)
        usual = next((case for case in cases if (case.probe, case.batch) == ("data", 64)), cases[0])
        shown_sizes = plan.sweeps[0].sizes
        largest = {case.probe: case.batch for case in sorted(cases, key=lambda case: case.batch)}
        record.determinism = _determinism(entry, target, session, settings[0], usual, spec)
        record.findings += _not_repeated(entry, target, record.determinism)
        if target.is_gpu and entry.format == "onnx" and not entry.beside:
            providers = node_providers(self._artifact.read(entry), target.provider, usual.inputs)
            record.findings += cpu_node_warnings(providers, entry.name, target.provider)
        shown = target.session_options(thorough=False)[0] if entry.part == "decoder" else None
        known = KnownComparisons()
        for options in settings:
            session.open(options)
            error_map = ErrorMapBuilder() if options == shown else None
            for place, case in enumerate((*cases, *(drawn if options == settings[0] else ()))):
                progress(len(record.results) / record.planned)
                sized = spec.at(dict(case.sizes))
                outputs, fault = run_case(session, case.inputs, sized)
                results = [
                    CaseResult(
                        entry.part,
                        str(target),
                        options,
                        case.probe,
                        case.batch,
                        tensor.name,
                        _compare(case, outputs, fault, tensor, known, place, tf32=target.tf32),
                        case.limits[tensor.name],
                        case.sizes,
                    )
                    for tensor in sized.outputs
                ]
                record.results += results
                is_shown = (case.batch, case.sizes) == (largest.get(case.probe), shown_sizes)
                if error_map is not None and is_shown and results[0].comparison.fault is None:
                    self._draw(error_map, case, outputs)
            if error_map is not None:
                record.error_map = error_map.build()
        unstable = {name: max(case.unstable[name].mean() for case in cases) for name in cases[0].unstable}
        record.findings += unstable_warnings(f"{entry.part} on {target}", unstable)
        return record

    def _draw(self, error_map: ErrorMapBuilder, case: Case, outputs: Mapping[str, Array]) -> None:
        """Add a case to the error map of a decoder, and choose the images to show if its data is images."""
        contract = self._references.source.contract
        data = contract.output.name
        error_map.add(outputs[data], case.eager[data], case.expected[data])
        if case.probe == "data" and contract.is_image:
            rows = min(case.batch, self.plan.parts["decoder"].sweeps[0].rows)  # a larger batch repeats them
            originals = self._references.images(rows)
            if originals.shape[1:] == outputs[data].shape[1:]:
                error_map.show(originals, case.eager[data][:rows], outputs[data][:rows])

    def _refuse_unopenable(self, entry: FileEntry, targets: Sequence[Target]) -> None:
        """Raise `TargetError` if no engine is installed or every engine crashed, because linting needs one."""
        if not targets:
            raise TargetError("file cannot be verified here", where=entry.name, got=FORMATS[entry.format].unavailable())
        if all((entry.name, target.provider) in self._crashes for target in targets):
            self._refuse_crashed(entry, targets[0])

    def _refuse_crashed(self, entry: FileEntry, target: Target) -> None:
        if (end := self._crashes.get((entry.name, target.provider))) is not None:
            raise TargetError("engine crashed", where=f"{entry.name} on {target}", expected="outputs", got=end)


def run_case(runner: PartFunction, inputs: Mapping[str, Array], spec: PartSpec) -> tuple[dict[str, Array], str | None]:
    """Return a file's outputs, or the reason why it has none, so that a failing batch fails only its own test case.

    Args:
        runner: the opened file.
        inputs: float32 arrays (N, *item) by name.
        spec: the part, with its outputs.

    Returns:
        The outputs by name, and None; or an empty dictionary, and the reason.
    """
    try:
        outputs = runner(inputs)
    except Exception as error:  # every engine raises its own
        return {}, describe_fault(error)
    wanted = [tensor.name for tensor in spec.outputs]
    if list(outputs) != wanted:
        return {}, f"wrong outputs; expected {wanted}, got {list(outputs)}"
    return outputs, None


def identical_outputs(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    """Whether two runs gave the same outputs, bit for bit."""
    same = (np.asarray(one[name]).tobytes() == np.asarray(other[name]).tobytes() for name in one.keys() & other.keys())
    return one.keys() == other.keys() and all(same)


def _compare(
    case: Case,
    outputs: Mapping[str, Array],
    fault: str | None,
    tensor: TensorSpec,
    known: KnownComparisons,
    place: int,
    *,
    tf32: bool,
) -> Comparison:
    """Compare an output; `known` has the comparisons of the case at `place` with other options."""
    if fault is not None:
        return Comparison(fault=fault)
    name, limits = tensor.name, case.limits[tensor.name]
    if (found := known.find(place, name, outputs[name])) is not None:
        return found
    eager, expected = case.eager[name], case.expected[name]
    if tensor.is_code:
        comparison = compare_codes(outputs[name], tensor, eager, expected, case.unstable[name])
    else:
        tolerance = limits.tolerance(tf32=tf32)
        comparison = compare_output(
            outputs[name], tensor, eager, expected, tolerance, limits.magnitude, case.elements.get(name)
        )
    known.add(place, name, outputs[name], comparison)
    return comparison


def _determinism(
    entry: FileEntry, target: Target, session: _Session, options: SessionOptions, case: Case, spec: PartSpec
) -> Determinism | None:
    """Return whether a second run and a new session repeat the first run, or None if a run fails.

    The new session stays open.
    """
    (first, fault), (again, _) = (run_case(session, case.inputs, spec) for _ in range(2))
    session.open(options, anew=True)
    other, _ = run_case(session, case.inputs, spec)
    if fault is not None:
        return None
    return Determinism(entry.part, str(target), identical_outputs(first, again), identical_outputs(first, other))


def _not_repeated(entry: FileEntry, target: Target, determinism: Determinism | None) -> Iterator[Finding]:
    """Yield a finding for a file whose second run gave other bits: an error unless its format states a reason."""
    if determinism is None or (determinism.same_session and determinism.fresh_session):
        return
    reason = FORMATS[entry.format].nondeterminism(target.provider)
    session = "a new session" if determinism.same_session else "the same session"
    detail = f"a second run in {session} gave other bits{reason and ': '}{reason}"
    yield Finding("not-deterministic", "error" if not reason else "warning", f"{entry.name} on {target}", detail)


def _lint(entry: FileEntry, content: FileContent, opset: int | None) -> list[Finding]:
    """Return the linter's findings; raise `ModelError` for a file that is damaged or of another format."""
    try:
        return list(FORMATS[entry.format].lint(content, StatedFile(entry.name, opset, entry.precision)))
    except VaeExportError:
        raise
    except Exception as error:  # every reader raises its own
        raise ModelError(f"not a readable {entry.format} file", where=entry.name, got=type(error).__name__) from error
