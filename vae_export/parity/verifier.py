"""Verify an export: run every file on every target and compare each output with what PyTorch computes.

The files are read and linted, and compared with those that this version writes from the source. Files of engines that
may crash are first run in a child process. Every file is then run with named families of inputs (probes) at several
batch sizes, thread counts and optimisation levels. Each output is compared with PyTorch's float64 result; its tolerance
is a small multiple of the error that PyTorch itself makes in the precision of the file. A second session shows whether
results repeat. A failed ONNX file is searched for its first wrong node. Encoder and decoder together are compared in
nats per image. All results go into a certificate.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
import onnxruntime
import torch

from vae_export._version import __version__
from vae_export.artifact.certificate import manifest_digests
from vae_export.artifact.folder import Artifact, read_content, weights_in
from vae_export.artifact.manifest import MANIFEST
from vae_export.capture import Captured, Graph
from vae_export.contract import Contract, float_part
from vae_export.errors import IntegrityError, ModelError
from vae_export.formats import FORMATS, OPSET, versions
from vae_export.formats.base import Finding
from vae_export.models.checkpoint import Checkpoint
from vae_export.parity.certificate import Certificate, EngineVersion
from vae_export.parity.compare import loose_tolerances
from vae_export.parity.degradation import Budget, DegradationMeter, Report
from vae_export.parity.file_verifier import FileRecord, FileVerifier
from vae_export.parity.golden import golden_findings
from vae_export.parity.oracle import evaluate_graph
from vae_export.parity.pilot import plain_inputs, seconds
from vae_export.parity.plan import BATCHES, DEFAULT_MINUTES, Limits
from vae_export.parity.probes import origin_of_probes
from vae_export.parity.reference import References
from vae_export.parity.reproduction import FileWriter, manifest_findings, stated_provenance
from vae_export.parity.size_check import check_translation
from vae_export.parity.targets import Target, choose_targets, kinds_of, refuse_unknown
from vae_export.parity.tolerance import Tolerance
from vae_export.sources import Source
from vae_export.system.hardware import available_memory
from vae_export.system.threads import fastest_threads
from vae_export.tensors import BATCH, Symbol

#: The longest batch to time numbers of threads with, in seconds.
_LONGEST_TIMING = 1.0


def verify(
    artifact: Artifact,
    source: Source | Checkpoint | Captured | References,
    *,
    targets: Sequence[str] | None = None,
    tolerance: Tolerance | None = None,
    budget: Budget | None = None,
    thorough: bool = True,
    minutes: float | None = DEFAULT_MINUTES,
    trust: bool = False,
    allow_unreproduced: bool = False,
    report: Report = lambda _line: None,
    progress: Callable[[float], None] = lambda _share: None,
) -> Certificate:
    """Compare every file of an export with the modules it was exported from.

    Args:
        artifact: from `export` or `open_artifact`; each file's hash is checked before it is run.
        source: the checkpoint, or the encoder, decoder and contract, that were exported. Passing captured graphs or
            `References` of the same source avoids computing them again.
        targets: names `format/provider`, such as "onnx/CPUExecutionProvider"; None takes all that can run here.
        tolerance: tolerance that replaces the measured one.
        budget: the degradation in pixels and nats that the files may have.
        thorough: whether to run every batch size, optimisation level and thread count; otherwise batches up to 64, and
            the lowest and highest level on one thread.
        minutes: the time for each part and format. A network that needs more gets fewer test cases, as the plan in the
            certificate says. None runs every test case, however long it takes.
        trust: whether to load files in dangerous formats, such as programs, that were not made from this source.
        allow_unreproduced: whether a file may pass that is not what this version writes from the source, judged by its
            outputs alone.
        report: called with a line at each step, for each part of which the plan leaves something out, and for each file
            whose degradation is large.
        progress: called before each test case with the share of the present file's work that is done.

    Returns:
        A certificate, passed or not; the caller writes it and acts on it.

    Raises:
        IntegrityError: a file is not the one in the manifest, or the export has another checkpoint or contract.
        ModelError: a file cannot be read, has other inputs or outputs, or is dangerous and not known to be ours; or the
            source lacks a part or gives numbers that are not finite.
        TargetError: a requested target cannot run here; or, if none was requested, no target here can run a file.
        UsageError: no file of this artifact can have a requested target, or a bad number of minutes.
    """
    references = References.of(source)
    if targets is None:
        refuse_unknown(artifact.manifest)
    chosen = choose_targets(kinds_of(artifact.manifest), targets)
    is_known = check_origin(artifact, references.captured.given)
    check_files(artifact, chosen, required=targets is not None)
    references = references.keeping(artifact.manifest.contract)
    parts = [entry.part for entry in artifact.manifest.files if float_part(entry.part) in references.source.parts]
    bounds = [*bounds_findings(artifact, references.captured)]  # before there are graphs, which take memory
    graphs = references.captured.graphs(parts)
    limits = Limits.of(minutes, available_memory())
    rows = _rows_to_time_threads(graphs.values())
    with fastest_threads(lambda: _run_in_float32(graphs.values(), rows)) as threads:
        writer = references.writer.stating(stated_provenance(artifact.manifest, references.source))
        if not trust:
            check_dangerous(artifact, chosen, writer, is_known=is_known)
        verifier = FileVerifier(
            artifact,
            references,
            writer,
            tolerance,
            thorough=thorough,
            allow_unreproduced=allow_unreproduced,
            progress=progress,
        )
        verifier.crash_check(chosen, report)
        plan = verifier.make_plan(limits, chosen)
        verifier.meter = meter = DegradationMeter(references, budget, tolerance, report, plan.nats)
        for line in plan.lines():
            report(line)
        records = verifier.verify_all(chosen, required=targets is not None, report=report)
        report("measuring nats and degradation")
        meter.measure()
        report("measuring golden vectors")
        golden = golden_findings(artifact, references)
        stated = [*bounds, *manifest_findings(artifact.manifest, references.source), *golden]
    recorded = environment(references.source, threads, artifact) | {"thorough": thorough and plan.is_complete}
    certificate = _certificate(artifact, records, meter, recorded, tolerance, budget)
    if allow_unreproduced:
        stated = [replace(finding, severity="warning") for finding in stated]
    weights = weights_in(references.source.provenance)
    model = weights if isinstance(weights, str | Mapping) else None
    return replace(
        certificate,
        plan=plan,
        findings=(*certificate.findings, *stated),
        allows_unreproduced=allow_unreproduced,
        model=model,
        manifest=manifest_digests(artifact.manifest.text),
    )


def _rows_to_time_threads(graphs: Collection[Graph]) -> int:
    """Return the batch that shows which number of threads is faster: the largest, if that takes less than a second."""
    one_row = seconds(lambda: _run_in_float32(graphs, 1))
    return min(max(BATCHES), max(1, int(_LONGEST_TIMING / one_row)))


def _run_in_float32(graphs: Iterable[Graph], batch: int) -> None:
    """Run each graph at its smallest sizes, in a batch within its bounds."""
    for graph in graphs:
        symbols = dict(graph.spec.symbols)
        bounds = symbols.pop(BATCH, Symbol())
        rows = max(min(batch, bounds.high or batch), bounds.low)
        evaluate_graph(graph, plain_inputs(graph.spec.at({name: item.low for name, item in symbols.items()}), rows))


def check_origin(artifact: Artifact, source: Source) -> bool:
    """Raise an error for an export of another checkpoint or contract; return whether the export is known to be ours.

    A file is known to be ours if its manifest names the checkpoint or weights that it is compared with. A manifest is
    not a signature, so this protects against mistakes and files from strangers, but not against a forged manifest.

    Args:
        artifact: the export.
        source: the source that it is compared with.

    Raises:
        IntegrityError: the export is of another checkpoint or contract.
    """
    is_known = artifact.require_origin(weights_in(source.provenance))
    # Applications take shapes and ranges from the manifest, so it must state those that are verified.
    stated, narrowest = artifact.manifest.contract, source.contract
    if not stated.is_narrowing_of(narrowest):
        names = [
            field.name for field in fields(narrowest) if getattr(stated, field.name) != getattr(narrowest, field.name)
        ]
        raise IntegrityError(
            "export has another contract",
            where=artifact.folder,
            expected=", ".join(f"{name} {getattr(narrowest, name)}" for name in names),
            got=", ".join(f"{name} {getattr(stated, name)}" for name in names),
            do="export again, or pass the options of the export",
        )
    return is_known


def bounds_findings(artifact: Artifact, captured: Captured) -> Iterator[Finding]:
    """Yield a finding if a manifest states other sizes or batches than the contract that export finds.

    The model is captured once more for it, so that only contracts are checked that are not the source's own.

    Args:
        artifact: the export.
        captured: the source, with the contract of the manifest.
    """
    manifest, given = artifact.manifest, captured.given
    stated = manifest.contract
    if manifest.is_of_single_file or stated == given.contract or not captured.has_stated_contract:
        return
    parts = tuple(dict.fromkeys(float_part(entry.part) for entry in manifest.known))
    has_onnx, opset = any(entry.format == "onnx" for entry in manifest.known), manifest.opset or OPSET
    found = Captured(given)
    found.seconds = captured.seconds
    checked: Callable[[Graph], object] = partial(check_translation, opset=opset) if has_onnx else lambda _graph: None
    written = found.narrow(parts, check=checked)
    if written != stated:
        detail = f"{_bounds(stated, written)}; export writes {_bounds(written, stated)}"
        yield Finding("other-manifest", "error", f"{MANIFEST}, contract.symbols", detail)


def _bounds(contract: Contract, other: Contract) -> str:
    """Return as text what a contract says of the symbols of which another contract says something else."""
    said = []
    for name in sorted({*contract.symbols, *other.symbols}):
        symbol = contract.symbols.get(name)
        if symbol == other.symbols.get(name):
            continue
        if symbol is None:
            said.append(f"any {name}" if name == BATCH else f"a number in place of {name}")
        else:
            said.append(f"{name} {symbol.bounds}{f', usually {symbol.usual}' if symbol.usual else ''}")
    return ", ".join(said)


def check_files(artifact: Artifact, targets: Sequence[Target], *, required: bool) -> None:
    """Read what will be verified once, so that a file that is missing or altered is found before minutes of comparing.

    Args:
        artifact: the export.
        targets: the targets that will load files.
        required: whether files that no target runs are skipped.

    Raises:
        IntegrityError: a file is missing, or is not the one in the manifest.
    """
    for entry in artifact.manifest.known:
        if not required or any(target.runs(entry) for target in targets):
            read_content(artifact, entry)
    for part in artifact.manifest.golden:
        for array in (*part.inputs, *part.outputs):
            artifact.read(array)


def check_dangerous(artifact: Artifact, targets: Sequence[Target], writer: FileWriter, *, is_known: bool) -> None:
    """Raise `ModelError` for a file that is dangerous to load, and that is not the file that export writes.

    A manifest can be forged, so that it does not tell whose program a file is: programs need equal bytes even where
    the manifest names our weights.

    Args:
        artifact: the export.
        targets: the targets that will load files.
        writer: writes the files of the source.
        is_known: whether the manifest names the weights of the source.
    """
    for entry in artifact.manifest.known:
        format = FORMATS[entry.format]
        if not format.danger or (is_known and not format.runs_code) or not any(one.runs(entry) for one in targets):
            continue
        if format.unavailable() is not None:  # nothing will load it
            continue
        opset = artifact.manifest.opset or OPSET
        stated = {"": entry.sha256} | {sidecar.suffix: sidecar.sha256 for sidecar in entry.beside}
        if writer.hashes(entry.part, entry.format, entry.precision, opset) != stated:
            raise ModelError(
                f"a file in format {entry.format} {format.danger}, and this one is not what export writes here",
                where=artifact.folder / entry.name,
                expected="equal bytes",
                do="pass --trust if you know who made it",
            )


def environment(source: Source, threads: int, artifact: Artifact) -> dict[str, Any]:
    """Return versions, machine, TF32 switches and the origin of the probes as JSON, without host name, paths or time.

    Args:
        source: the source of the probes.
        threads: threads that PyTorch uses.
        artifact: the export that is verified.
    """
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
        **origin_of_probes(source),
    }


def _certificate(
    artifact: Artifact,
    records: Sequence[FileRecord],
    meter: DegradationMeter,
    recorded_environment: Mapping[str, Any],
    tolerance: Tolerance | None,
    budget: Budget | None,
) -> Certificate:
    """Return the certificate with the results of each file and of each target as a whole."""
    runs = [run for record in records for run in record.runs.values()]
    results = (*(result for record in records for result in record.results), *meter.results)
    findings: list[Finding] = []
    for record in records:
        findings += record.findings
        for run in record.runs.values():
            findings += run.findings
    targets = {name: record.entry.format for record in records for name in record.runs}
    engines = {
        name: EngineVersion(FORMATS[format].engine, FORMATS[format].engine_version())
        for name, format in targets.items()
    }
    hashes = {stored.name: stored.sha256 for record in records if record.runs for stored in record.entry.stored}
    return Certificate(
        files=hashes,
        planned=sum(run.planned for run in runs) + meter.planned,
        results=results,
        findings=(*findings, *meter.findings, *loose_tolerances(results)),
        determinism=tuple(run.determinism for run in runs if run.determinism is not None),
        node_mismatches={record.entry.name: record.mismatch for record in records if record.mismatch is not None},
        unusable={name: reason for record in records for name, reason in record.unusable.items()},
        not_verified=tuple(entry.name for entry in artifact.manifest.files if entry.name not in hashes),
        environment=recorded_environment,
        degradations=tuple(meter.degradations),
        tolerance=tolerance,
        budget=budget,
        nats_not_compared=meter.nats_not_compared,
        reproductions=tuple(record.reproduction for record in records),
        engines=engines,
        coverage={record.entry.name: record.coverage.to_json() for record in records if record.coverage is not None},
        error_maps={
            name: run.error_map for record in records for name, run in record.runs.items() if run.error_map is not None
        },
    )
