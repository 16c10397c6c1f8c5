"""Whose file is this? Of formats that are dangerous to load, only files that we know to be ours are.

Where and with what a verification ran.

What a file gives when it is run: outputs, or the reason why there are none; and whether two runs gave the same.

Runs every file on every target with every probe, and writes down how far it is from PyTorch and from the truth.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
import torch

from vae_export._version import __version__
from vae_export.artifact.folder import Artifact, read_content
from vae_export.artifact.manifest import FileContent, FileEntry
from vae_export.capture import Captured
from vae_export.contract import Array, Part, PartSpec, float_part
from vae_export.errors import IntegrityError, ModelError, TargetError, VaeExportError
from vae_export.formats import FORMATS, Runner, versions
from vae_export.formats.base import Finding
from vae_export.models.checkpoint import Checkpoint
from vae_export.parity.certificate import Certificate, Determinism
from vae_export.parity.compare import CaseResult, Comparison, compare_output, describe_fault, loose_tolerances
from vae_export.parity.degradation import Budget, DegradationMeter, Report
from vae_export.parity.error_maps import ErrorMap, ErrorMapBuilder
from vae_export.parity.onnx_debug import NodeMismatch, explain_failure, nodes_on_the_cpu
from vae_export.parity.oracle import run_on_zeros
from vae_export.parity.probes import CalibrationInputs
from vae_export.parity.reference import BATCHES, Case, References
from vae_export.parity.targets import Target, choose_targets, kinds_of, refuse_unknown
from vae_export.parity.tolerance import Tolerance
from vae_export.precision import FULL
from vae_export.sandbox.crash_check import Trial, crash_check
from vae_export.session_options import SessionOptions
from vae_export.sources import Source
from vae_export.system.threads import fastest_threads


def check_origin(artifact: Artifact, source: Source, *, trust: bool) -> None:
    """Raise `IntegrityError` for an export of another checkpoint or contract, `ModelError` for a dangerous file.

    Ours is what names the very checkpoint that it is compared with. A manifest is no signature: this keeps out mistakes
    and strangers' files, not a forger.
    """
    exported, given = (item.get("checkpoint_sha256") for item in (artifact.manifest.provenance, source.provenance))
    if exported and given and exported != given:
        raise IntegrityError(
            "export is of another checkpoint",
            where=artifact.folder,
            expected=f"SHA-256 {given}",
            got=exported,
            do="export again",
        )
    # Applications take shapes and ranges from the manifest: it must not promise others than were verified.
    if artifact.manifest.contract != source.contract:
        raise IntegrityError(
            "export has another contract",
            where=artifact.folder,
            expected=source.contract.to_json(),
            got=artifact.manifest.contract.to_json(),
            do="export again",
        )
    if trust or (exported and given):
        return
    for entry in artifact.manifest.known:
        if (danger := FORMATS[entry.format].danger) != "":
            raise ModelError(
                f"a file in format {entry.format} {danger}, and this one is not known to be ours",
                where=artifact.folder / entry.name,
                do="pass --trust if you know who made it",
            )


def environment(source: Source, threads: int, artifact: Artifact) -> dict[str, Any]:
    """JSON-able: versions, machine, TF32 switches, what the probes were made from. No host name, no path, no time."""
    return {
        "versions": {
            "vae-export": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
            "numpy": np.__version__,
        }
        | versions({entry.format for entry in artifact.manifest.known}),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads_of_the_reference": threads,
        "nvidia_tf32_override": os.environ.get("NVIDIA_TF32_OVERRIDE"),
        "images": "real" if source.images is not None else "uniform noise, since the source has no images",
    }


def run_case(runner: Runner, inputs: Mapping[str, Array], spec: PartSpec) -> tuple[dict[str, Array], str | None]:
    """The outputs, or why there are none: a file that cannot run a batch has failed that row, and only that."""
    try:
        outputs = runner(inputs)
    except Exception as error:
        return {}, describe_fault(error)
    wanted = [tensor.name for tensor in spec.outputs]
    if list(outputs) != wanted:
        return {}, f"wrong outputs; expected {wanted}, got {list(outputs)}"
    return outputs, None


def identical_outputs(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    """Whether two answers have the same outputs, to the bit."""
    same = (np.asarray(one[name]).tobytes() == np.asarray(other[name]).tobytes() for name in one.keys() & other.keys())
    return one.keys() == other.keys() and all(same)


#: The probe and batch that determinism and placement are looked at with.
_USUAL = ("data", 64)


def verify(
    artifact: Artifact,
    source: Source | Checkpoint | Captured,
    *,
    targets: Sequence[str] | None = None,
    tolerance: Tolerance | None = None,
    budget: Budget | None = None,
    thorough: bool = True,
    trust: bool = False,
    calibrated: CalibrationInputs | None = None,
    report: Report = lambda _line: None,
) -> Certificate:
    """Compare every file of an artifact with the modules it was exported from.

    Args:
        artifact: from `export` or `open_artifact`; each file's hash is checked before it is run.
        source: the checkpoint, or the encoder, decoder and contract, that were exported, or its captured graphs.
        targets: `format/provider` each, such as "onnx/CPUExecutionProvider"; None takes all that can run here.
        tolerance: the user's band in place of the measured one.
        budget: what of pixels and nats the files may cost.
        thorough: every batch size, optimisation level and thread count; otherwise batches up to 64, and the extreme
            levels on one thread.
        trust: load files in formats that are dangerous, such as programs, although they were not made from this source.
        calibrated: what files of a calibrated precision were calibrated with; None makes it anew, the same each time.
        report: called with a line when a file is about to be verified, and when it costs much.

    Returns:
        A certificate, passed or not; writing it and acting on it is the caller's.

    Raises:
        IntegrityError: a file is not the one in the manifest, or the export has another checkpoint or contract.
        ModelError: a file that cannot be read, has other inputs or outputs, or is dangerous and not known to be ours; a
            source that lacks a part, or gives numbers that are not finite.
        TargetError: a target that was asked for cannot run here; without one, a file that nothing here can run.
        UsageError: a target that no file of this artifact can have.
    """
    captured = Captured.of(source)
    source = captured.source
    if targets is None:
        refuse_unknown(artifact.manifest)
    chosen = choose_targets(kinds_of(artifact.manifest), targets)
    check_origin(artifact, source, trust=trust)
    of_files = [entry.part for entry in artifact.manifest.files if float_part(entry.part) in source.parts]
    graphs = captured.graphs(of_files)
    with fastest_threads(lambda: run_on_zeros(graphs.values(), max(BATCHES))) as threads:
        prepared = References(source, graphs, tolerance, calibrated, thorough=thorough)
        verification = _Verification(artifact, prepared, budget, report, thorough=thorough)
        verification.crashes = crash_check(_scenes(artifact, chosen), source.contract)
        for entry in artifact.manifest.known:
            of_file = [target for target in chosen if target.runs(entry)]
            if of_file or targets is None:
                report(f"verifying {entry.name}")
                verification.file(entry, of_file, targets is not None)
        return verification.certificate(threads)


class _Verification:
    """What is found out, file by file."""

    def __init__(
        self, artifact: Artifact, prepared: References, budget: Budget | None, report: Report, *, thorough: bool
    ) -> None:
        self._artifact, self._prepared, self._budget, self._thorough = artifact, prepared, budget, thorough
        self._costs = DegradationMeter(prepared, budget, report)
        self._evidence: dict[str, ErrorMap] = {}
        self._divergences: dict[str, NodeMismatch] = {}
        self._unusable: dict[str, str] = {}
        self._hashes: dict[str, str] = {}
        self._determinism: list[Determinism] = []
        self._findings: list[Finding] = []
        self._rows: list[CaseResult] = []
        self._planned = 0
        self.crashes: Mapping[tuple[str, str], str] = {}

    def file(self, entry: FileEntry, targets: Sequence[Target], asked: bool) -> None:
        """Read, run and measure one file; a target that cannot run is an error only if it was asked for."""
        content = read_content(self._artifact, entry)
        if entry.part not in self._prepared.graphs:
            raise ModelError("nothing to compare with", where=entry.part, expected=" | ".join(self._prepared.graphs))
        format, spec = FORMATS[entry.format], self._prepared.graphs[entry.part].spec
        self._refuse_unopenable(entry, targets)
        self._findings += _findings(entry, content, self._artifact.manifest.opset)
        cases = self._prepared.cases(entry.part, entry.precision)
        for target in targets:
            settings = target.session_options(thorough=self._thorough)
            try:
                target.check()
                self._refuse_crash(entry, target)
                plain = format.open(content, spec, settings[0])
            except TargetError as error:
                if asked:
                    raise
                self._unusable[str(target)] = error.line()
                continue
            # From here on the target is usable: whatever it does not evaluate is a row that is missing.
            self._planned += len(settings) * len(cases) * len(spec.outputs)
            self._plain(entry, content, target, settings[0], plain)
            for setting in settings:
                runner = plain if setting == settings[0] else format.open(content, spec, setting)
                self._rows += self._measured(entry.part, target, setting, runner, cases)
            self._hashes |= {stored.name: stored.sha256 for stored in entry.stored}
        if not asked and entry.name not in self._hashes:
            reasons = "; ".join(self._unusable[str(target)] for target in targets)
            raise TargetError("file cannot be verified here", where=entry.name, got=reasons)
        self._explain(entry, content.data)

    def _refuse_unopenable(self, entry: FileEntry, targets: Sequence[Target]) -> None:
        """Raise `TargetError` where no engine is here, or each crashed: to read a file's graph takes the engine too."""
        if not targets:
            raise TargetError("file cannot be verified here", where=entry.name, got=FORMATS[entry.format].unavailable())
        if all((entry.name, target.provider) in self.crashes for target in targets):
            self._refuse_crash(entry, targets[0])

    def _refuse_crash(self, entry: FileEntry, target: Target) -> None:
        if (end := self.crashes.get((entry.name, target.provider))) is not None:
            raise TargetError("engine crashed", where=f"{entry.name} on {target}", expected="outputs", got=end)

    def certificate(self, threads: int) -> Certificate:
        """All that was found out, once every file was looked at."""
        costs, prepared = self._costs, self._prepared
        costs.measure()
        rows = (*self._rows, *costs.rows)
        return Certificate(
            files=self._hashes,
            planned=self._planned + costs.planned,
            results=rows,
            findings=(*self._findings, *costs.findings, *loose_tolerances(rows)),
            determinism=tuple(self._determinism),
            node_mismatches=self._divergences,
            unusable=self._unusable,
            not_verified=tuple(entry.name for entry in self._artifact.manifest.files if entry.name not in self._hashes),
            environment=environment(prepared.source, threads, self._artifact) | {"thorough": self._thorough},
            degradations=tuple(costs.drifts),
            tolerance=prepared.tolerance,
            budget=self._budget,
            nats_not_compared=costs.why_not,
            error_maps=self._evidence,
        )

    def _measured(
        self, part: Part, target: Target, setting: SessionOptions, runner: Runner, cases: Sequence[Case]
    ) -> Iterator[CaseResult]:
        plain = setting == target.session_options(thorough=False)[0]
        builder = ErrorMapBuilder() if part == "decoder" and plain else None
        for case in cases:
            outputs, fault = run_case(runner, case.inputs, self._prepared.graphs[part].spec)
            for tensor in self._prepared.graphs[part].spec.outputs:
                name, scale = tensor.name, case.limits[tensor.name]
                if fault is not None:
                    result = Comparison(fault=fault)
                else:
                    band = scale.tolerance(tf32=target.tf32)
                    result = compare_output(
                        outputs[name], tensor, case.eager[name], case.expected[name], band, scale.magnitude
                    )
                if (
                    builder is not None
                    and name == "image"
                    and result.fault is None
                    and case.batch == max(self._prepared.batches)
                ):
                    builder.add(outputs[name], case.eager[name], case.expected[name])
                    if case.probe == "data" and (images := self._prepared.images(case.probe)) is not None:
                        builder.show(images, case.eager[name], outputs[name])
                yield CaseResult(part, str(target), setting, case.probe, case.batch, name, result, scale)
        if builder is not None and (evidence := builder.build()) is not None:
            self._evidence[str(target)] = evidence

    def _plain(
        self, entry: FileEntry, content: FileContent, target: Target, setting: SessionOptions, runner: Runner
    ) -> None:
        """What is looked at once for a target, with its plain setting: the same bits again, and where nodes ran."""
        self._costs.add(target, entry.part, runner)
        spec = self._prepared.graphs[entry.part].spec
        cases = self._prepared.cases(entry.part, entry.precision)
        case = next((case for case in cases if (case.probe, case.batch) == _USUAL), cases[0])
        fresh = FORMATS[entry.format].open(content, spec, setting)
        (first, fault), (again, _), (other, _) = (
            run_case(session, case.inputs, spec) for session in (runner, runner, fresh)
        )
        if fault is None:
            self._determinism.append(
                Determinism(entry.part, str(target), identical_outputs(first, again), identical_outputs(first, other))
            )
        if target.is_gpu and entry.format == "onnx":
            self._findings += nodes_on_the_cpu(content.data, entry.name, target.provider, case.inputs)

    def _explain(self, entry: FileEntry, data: bytes) -> None:
        """Where an ONNX file that failed leaves the path."""
        # A file of another precision has other nodes than the program, between which nothing is to be compared.
        if entry.format != "onnx" or entry.precision != FULL:
            return
        rows = [row for row in self._rows if row.part == entry.part and row.target.startswith(f"{entry.format}/")]
        if failures := [row for row in rows if not row.passed]:
            cases = self._prepared.cases(entry.part, entry.precision)
            found = explain_failure(data, entry.name, self._prepared.graphs[entry.part], failures, cases)
            if isinstance(found, NodeMismatch):
                self._divergences[entry.name] = found
            elif found is not None:
                self._findings.append(found)


def _scenes(artifact: Artifact, targets: Sequence[Target]) -> list[Trial]:
    """What must be tried in a child before it is opened here."""
    return [
        Trial(entry.name, entry.part, entry.format, target.provider, read_content(artifact, entry))
        for entry in artifact.manifest.known
        for target in targets
        if target.runs(entry) and FORMATS[entry.format].may_crash
    ]


def _findings(entry: FileEntry, content: FileContent, opset: int) -> list[Finding]:
    """What reading the file shows; raises `ModelError` for one that is damaged or of another format."""
    try:
        return list(FORMATS[entry.format].lint(content, entry.name, opset, entry.precision))
    except VaeExportError:
        raise
    except Exception as error:  # every reader raises its own
        raise ModelError(f"not a readable {entry.format} file", where=entry.name, got=type(error).__name__) from error
