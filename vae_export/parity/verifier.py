"""Runs every file on every target with every probe, and writes down how far it is from PyTorch and from the truth."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import torch

from vae_export import __version__
from vae_export.artifact import Artifact
from vae_export.checkpoint import Checkpoint
from vae_export.contract import Array, Part, PartSpec
from vae_export.errors import IntegrityError, ModelError, TargetError, UsageError
from vae_export.formats import FORMATS, Runner
from vae_export.graphs import Graph, Source
from vae_export.manifest import FileEntry
from vae_export.parity.certificate import Certificate, Row
from vae_export.parity.measure import Measure, Scale, measure
from vae_export.parity.oracle import Oracle, evaluate
from vae_export.parity.probes import Probe, make_probes
from vae_export.threads import fastest_threads

#: One alone (a baked batch shows), even and odd, and one that fills vector registers.
BATCHES = (1, 2, 3, 7, 64)

Report = Callable[[str], None]


def verify(
    artifact: Artifact,
    source: Source | Checkpoint,
    *,
    targets: Sequence[str] | None = None,
    report: Report = lambda _line: None,
) -> Certificate:
    """Compare every file of an artifact with the modules it was exported from.

    Args:
        artifact: from `export` or `open_artifact`; each file's hash is checked before it is run.
        source: the checkpoint, or the encoder, decoder and contract, that were exported.
        targets: `format/provider` each, such as "onnx/CPUExecutionProvider"; None takes all that can run here.
        report: called with a line when a file is about to be verified.

    Returns:
        A certificate, passed or not; writing it and acting on it is the caller's.

    Raises:
        IntegrityError: a file is not the one in the manifest, or the export came from another checkpoint.
        ModelError: the source lacks a part, gives numbers that are not finite, or a file is unlike its contract.
        TargetError: a target that was asked for cannot run here, or nothing here can run a file.
        UsageError: a target that no file of this artifact can have.
    """
    source = Source.of(source)
    _refuse_other_source(artifact, source)
    chosen = _targets(artifact, targets)
    graphs = {part: source.graph(part) for part in source.parts}
    rows: list[Row] = []
    unusable: dict[str, str] = {}
    hashes: dict[str, str] = {}
    references: dict[Part, list[_Reference]] = {}
    with _float32_products(), fastest_threads(lambda: _run_blank(graphs.values())) as threads:
        probes = make_probes(source, graphs, max(BATCHES))
        for entry in artifact.manifest.files:
            report(f"verifying {entry.name}")
            data = artifact.read(entry)
            graph = graphs[entry.part]
            if entry.part not in references:
                references[entry.part] = _references(graph, probes)
            for target in chosen[entry.format]:
                try:
                    runner = FORMATS[entry.format].open(data, graph.spec, target.partition("/")[2])
                except TargetError as error:
                    if targets is not None:
                        raise
                    unusable[target] = error.line()
                    continue
                hashes[entry.name] = entry.sha256
                rows += _rows(entry, target, graph.spec, runner, references[entry.part])
            if targets is None and entry.name not in hashes:
                reasons = [unusable[target] for target in chosen[entry.format]]
                raise TargetError("file cannot be verified here", where=entry.name, got="; ".join(reasons) or None)
    return Certificate(hashes, tuple(rows), unusable, _environment(source, threads))


def _run_blank(graphs: Iterable[Graph]) -> None:
    """One run of each at the largest batch, for its time."""
    for graph in graphs:
        shapes = {tensor.name: (max(BATCHES), *tensor.item) for tensor in graph.spec.inputs}
        evaluate(graph, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})


@dataclass(frozen=True)
class _Reference:
    """What PyTorch makes of one probe at one batch size: inputs, float32 and float64 outputs, how much rounding."""

    probe: str
    batch: int
    inputs: Mapping[str, Array]
    eager: Mapping[str, Array]
    exact: Mapping[str, Array]
    scales: Mapping[str, Scale]


def _references(graph: Graph, probes: Sequence[Probe]) -> list[_Reference]:
    oracle, references = Oracle(graph), []
    for probe in probes:
        inputs = probe.inputs(graph.spec, max(BATCHES))
        if inputs is None:
            continue
        exact = oracle.exact(inputs)
        _refuse_not_finite(graph.spec, probe.name, exact)
        sensitivity = oracle.sensitivity(inputs, exact)
        by_batch = {batch: {name: array[:batch] for name, array in inputs.items()} for batch in BATCHES}
        # PyTorch takes other kernels, with other rounding, at other batch sizes: all of them count as its own.
        eager = {batch: evaluate(graph, arrays) for batch, arrays in by_batch.items()}
        for outputs in eager.values():
            _refuse_not_finite(graph.spec, probe.name, outputs)
        scales = {
            name: Scale(
                eager_error=max(float(np.abs(eager[batch][name] - exact[name][:batch]).max()) for batch in BATCHES),
                sensitivity=sensitivity[name],
                magnitude=float(np.abs(exact[name]).max()),
            )
            for name in exact
        }
        for batch in BATCHES:
            truth = {name: array[:batch] for name, array in exact.items()}
            references.append(_Reference(probe.name, batch, by_batch[batch], eager[batch], truth, scales))
    return references


def _refuse_not_finite(spec: PartSpec, probe: str, outputs: Mapping[str, Array]) -> None:
    """With Inf or NaN from PyTorch itself there is nothing to hold a file against."""
    for name, array in outputs.items():
        if not np.isfinite(array).all():
            raise ModelError("module gives numbers that are not finite", where=f"{spec.part}, '{name}', probe {probe}")


def _rows(
    entry: FileEntry, target: str, spec: PartSpec, runner: Runner, references: Sequence[_Reference]
) -> Iterator[Row]:
    for reference in references:
        outputs, fault = _run(runner, reference.inputs, spec)
        for tensor in spec.outputs:
            name = tensor.name
            result = (
                Measure(fault=fault)
                if fault is not None
                else measure(outputs[name], tensor, reference.eager[name], reference.exact[name])
            )
            yield Row(entry.part, target, reference.probe, reference.batch, name, result, reference.scales[name])


def _run(runner: Runner, inputs: Mapping[str, Array], spec: PartSpec) -> tuple[dict[str, Array], str | None]:
    """The outputs, or why there are none: a file that cannot run a batch has failed that row, and only that."""
    try:
        outputs = runner(inputs)
    except Exception as error:  # every runtime raises its own
        return {}, " ".join(f"cannot run: {type(error).__name__}: {error}".split())
    wanted = [tensor.name for tensor in spec.outputs]
    if list(outputs) != wanted:
        return {}, f"wrong outputs; expected {wanted}, got {list(outputs)}"
    return outputs, None


def _targets(artifact: Artifact, asked: Sequence[str] | None) -> dict[str, list[str]]:
    """The targets to run by format: those that were asked for, or all that this machine lists."""
    formats = sorted({entry.format for entry in artifact.manifest.files})
    if unknown := [format for format in formats if format not in FORMATS]:
        raise IntegrityError("manifest names an unknown format", expected=" | ".join(FORMATS), got=unknown)
    if asked is None:
        return {format: [f"{format}/{provider}" for provider in FORMATS[format].providers()] for format in formats}
    chosen: dict[str, list[str]] = {format: [] for format in formats}
    for target in asked:
        format, slash, provider = target.partition("/")
        if format not in formats or not slash or not provider:
            do = "targets are written format/provider, such as onnx/CPUExecutionProvider"
            raise UsageError("no file for this target", where=target, expected=" | ".join(formats), do=do)
        chosen[format].append(target)
    return chosen


def _refuse_other_source(artifact: Artifact, source: Source) -> None:
    exported, given = (item.get("checkpoint_sha256") for item in (artifact.manifest.provenance, source.provenance))
    if exported and given and exported != given:
        raise IntegrityError(
            "export is of another checkpoint",
            where=artifact.folder,
            expected=f"SHA-256 {given}",
            got=exported,
            do="export again",
        )
    # Hosts shape their inputs by the manifest's contract: a wrong one is as bad as a wrong weight.
    if artifact.manifest.contract != source.contract:
        raise IntegrityError(
            "export has another contract",
            where=artifact.folder,
            expected=source.contract,
            got=artifact.manifest.contract,
            do="export again",
        )
    for entry in artifact.manifest.files:
        if entry.part not in source.parts:
            raise ModelError(
                "nothing to compare with", where=entry.name, expected=f"a source with {' | '.join(source.parts)}"
            )


@contextlib.contextmanager
def _float32_products() -> Iterator[None]:
    """Switch TF32 off in PyTorch and in TensorRT: it rounds factors to 10 bits, which is another computation."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, os.environ.get("NVIDIA_TF32_OVERRIDE")
    matmul.allow_tf32, cudnn.allow_tf32 = False, False
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, override = before
        if override is None:
            del os.environ["NVIDIA_TF32_OVERRIDE"]
        else:
            os.environ["NVIDIA_TF32_OVERRIDE"] = override


def _environment(source: Source, threads: int) -> dict[str, Any]:
    return {
        "versions": {
            "vae-export": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
            "numpy": np.__version__,
        },
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "threads": threads,
        "tf32": False,
        "images": "real" if source.images is not None else "uniform noise, since the source has no images",
    }
