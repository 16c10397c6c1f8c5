"""Runs every file on every target with every probe, and writes down how far it is from PyTorch and from the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from vae_export.artifact import Artifact
from vae_export.checkpoint import Checkpoint
from vae_export.contract import Array, Part, PartSpec
from vae_export.errors import ModelError, TargetError, VaeExportError
from vae_export.findings import Finding
from vae_export.formats import FORMATS, Runner, Setting
from vae_export.graphs import Graph, Source
from vae_export.manifest import FileEntry
from vae_export.noise import sample
from vae_export.parity.certificate import Certificate, Determinism, Row
from vae_export.parity.divergence import Divergence, first_divergence
from vae_export.parity.drift import SAMPLES, Budget, Drift, Samples, nats, pixels
from vae_export.parity.environment import environment
from vae_export.parity.evidence import Evidence, EvidenceBuilder
from vae_export.parity.lowered import Evaluate, lowered
from vae_export.parity.measure import Measure, Tolerance, failure, measure
from vae_export.parity.metric import NAMES, MetricParity
from vae_export.parity.oracle import Oracle, evaluate
from vae_export.parity.origin import check_origin
from vae_export.parity.placement import nodes_on_the_cpu
from vae_export.parity.probes import calibration, make_probes, within
from vae_export.parity.reference import BATCHES, FEW_BATCHES, Reference, references
from vae_export.parity.targets import Target, choose
from vae_export.precision import CALIBRATED, FULL, PrecisionName
from vae_export.rehearsal import Scene, rehearse
from vae_export.threads import fastest_threads

Report = Callable[[str], None]
#: The probe and batch that determinism, placement and nats are looked at with.
_USUAL = ("data", 64)
_SAMPLES_SEED = 2
#: The parts that an image goes through.
BOTH: tuple[Part, ...] = ("encoder", "decoder")


def verify(
    artifact: Artifact,
    source: Source | Checkpoint,
    *,
    targets: Sequence[str] | None = None,
    tolerance: Tolerance | None = None,
    budget: Budget | None = None,
    thorough: bool = True,
    trust: bool = False,
    report: Report = lambda _line: None,
) -> Certificate:
    """Compare every file of an artifact with the modules it was exported from.

    Args:
        artifact: from `export` or `open_artifact`; each file's hash is checked before it is run.
        source: the checkpoint, or the encoder, decoder and contract, that were exported.
        targets: `format/provider` each, such as "onnx/CPUExecutionProvider"; None takes all that can run here.
        tolerance: the user's band in place of the measured one.
        budget: what of pixels and nats the files may cost.
        thorough: every batch size, optimisation level and thread count; otherwise batches up to 64, and the extreme
            levels on one thread.
        trust: load files in formats that are dangerous, such as programs, although they were not made from this source.
        report: called with a line when a file is about to be verified.

    Returns:
        A certificate, passed or not; writing it and acting on it is the caller's.

    Raises:
        IntegrityError: a file is not the one in the manifest, or the export has another checkpoint or contract.
        ModelError: a file that cannot be read, has other inputs or outputs, or is dangerous and not known to be ours; a
            source that lacks a part, or gives numbers that are not finite.
        TargetError: a target that was asked for cannot run here, or nothing here can run a file.
        UsageError: a target that no file of this artifact can have.
    """
    source = Source.of(source)
    kinds = sorted({(entry.format, entry.precision) for entry in artifact.manifest.known})
    chosen = choose(kinds, targets)
    check_origin(artifact, source, trust=trust)
    graphs = {part: source.graph(part) for part in source.parts}
    with fastest_threads(lambda: _run_blank(graphs.values())) as threads:
        verification = _Verification(artifact, source, graphs, tolerance, budget, thorough)
        verification.crashes = rehearse(_scenes(artifact, chosen), source.contract)
        for entry in artifact.manifest.known:
            of_file = [target for target in chosen if target.runs(entry)]
            if of_file or targets is None:
                report(f"verifying {entry.name}")
                verification.file(entry, of_file, targets is not None)
        verification.metrics()
        verification.drift()
        return verification.certificate(threads)


class _Verification:
    """What is found out, file by file."""

    def __init__(
        self,
        artifact: Artifact,
        source: Source,
        graphs: Mapping[Part, Graph],
        tolerance: Tolerance | None,
        budget: Budget | None,
        thorough: bool,
    ) -> None:
        self._artifact, self._source, self._graphs, self._tolerance = artifact, source, graphs, tolerance
        self._thorough, self._budget = thorough, budget
        self._metric: MetricParity | None = None
        self._drifts: list[Drift] = []
        self._batches = BATCHES if thorough else FEW_BATCHES
        self._probes = make_probes(source, graphs, max(self._batches))
        self._oracles = {part: Oracle(graph) for part, graph in graphs.items()}
        self._references: dict[tuple[Part, PrecisionName], list[Reference]] = {}
        self._own: dict[tuple[Part, PrecisionName], Evaluate] = {}
        self._runners: dict[tuple[Target, Part], Runner] = {}
        self._evidence: dict[str, Evidence] = {}
        self._divergences: dict[str, Divergence] = {}
        self._unusable: dict[str, str] = {}
        self._hashes: dict[str, str] = {}
        self._determinism: list[Determinism] = []
        self._findings: list[Finding] = []
        self._rows: list[Row] = []
        self._planned = 0
        self._nats: str | None = None
        self.crashes: Mapping[tuple[str, str], str] = {}

    def file(self, entry: FileEntry, targets: Sequence[Target], asked: bool) -> None:
        """Read, run and measure one file; a target that cannot run is an error only if it was asked for."""
        data = self._artifact.read(entry)
        if entry.part not in self._graphs:
            raise ModelError("nothing to compare with", where=entry.part, expected=" | ".join(self._graphs))
        format, spec = FORMATS[entry.format], self._graphs[entry.part].spec
        self._findings += _findings(entry, data, self._artifact.manifest.opset)
        cases = self._cases(entry.part, entry.precision)
        for target in targets:
            settings = target.settings(thorough=self._thorough)
            try:
                target.check()
                if (end := self.crashes.get((entry.name, target.provider))) is not None:
                    raise TargetError("engine crashed", where=f"{entry.name} on {target}", expected="outputs", got=end)
                plain = format.open(data, spec, target.provider, settings[0])
            except TargetError as error:
                if asked:
                    raise
                self._unusable[str(target)] = error.line()
                continue
            # From here on the target is usable: whatever it does not evaluate is a row that is missing.
            self._planned += len(settings) * len(cases) * len(spec.outputs)
            self._plain(entry, data, target, settings[0], plain)
            for setting in settings:
                runner = plain if setting == settings[0] else format.open(data, spec, target.provider, setting)
                self._rows += self._measured(entry.part, target, setting, runner, cases)
            self._hashes |= {stored.name: stored.sha256 for stored in entry.stored}
        if not asked and entry.name not in self._hashes:
            reasons = "; ".join(self._unusable[str(target)] for target in targets) or format.unavailable()
            raise TargetError("file cannot be verified here", where=entry.name, got=reasons)
        self._explain(entry, data)

    def metrics(self) -> None:
        """Nats per image on every target that ran both the encoder and the decoder."""
        both = [target for target, part in self._runners if part == "decoder" and (target, "encoder") in self._runners]
        images = next(probe.image for probe in self._probes if probe.name == _USUAL[0])
        if not both or images is None:
            self._nats = "no target ran both an encoder and a decoder"
            return
        parity = MetricParity(self._source.contract, self._graphs, self._oracles, images[: _USUAL[1]], self._tolerance)
        self._metric = parity
        for target in both:
            self._planned += len(NAMES)
            encoder, decoder = self._runners[target, "encoder"], self._runners[target, "decoder"]
            scales = parity.scales(target.precision, {part: self._pytorch(part, target.precision) for part in BOTH})
            setting = target.settings(thorough=False)[0]
            self._rows += parity.rows(str(target), setting, encoder, decoder, scales)

    def drift(self) -> None:
        """What each target's decoder costs, in units that a person cares about."""
        samples: Samples | None = None
        for (target, part), decoder in self._runners.items():
            if part != "decoder" or (target.precision == FULL and self._budget is None):
                continue
            image = self._graphs[part].spec.outputs[0]
            try:
                found = pixels(decoder, image, self._cases(part, target.precision))
                encoder = self._runners.get((target, "encoder"))
                images = 0 if self._source.images is None else len(self._source.images)
                if encoder is not None and self._metric is not None and images:
                    # Fewer images than the metric takes are repeated there: a second copy is no second observation.
                    found |= nats(self._metric.difference(encoder, decoder)[:images])
                if "encoder" in self._graphs:
                    samples = samples or self._samples()
                    found |= {"frechet": samples.distance(decoder), "frechet_of_samples": samples.of_samples}
            except Exception as error:  # a decoder that cannot run has failed its rows; the budget is missed as well
                self._findings.append(Finding("no-drift", "warning", str(target), failure(error)))
                found = {}
            self._drifts.append(Drift(str(target), **found))

    def _samples(self) -> Samples:
        latents = sample((2 * SAMPLES, *self._source.contract.latent_shape), _SAMPLES_SEED)
        return Samples(
            latents,
            lambda latent: self._oracles["decoder"].exact({"latent": latent})["image"],
            lambda image: self._oracles["encoder"].exact({"image": image})["mean"],
        )

    def certificate(self, threads: int) -> Certificate:
        return Certificate(
            files=self._hashes,
            planned=self._planned,
            rows=tuple(self._rows),
            findings=tuple(self._findings),
            determinism=tuple(self._determinism),
            divergences=self._divergences,
            unusable=self._unusable,
            not_verified=tuple(entry.name for entry in self._artifact.manifest.files if entry.name not in self._hashes),
            environment=environment(self._source, threads, self._artifact) | {"thorough": self._thorough},
            drifts=tuple(self._drifts),
            tolerance=self._tolerance,
            budget=self._budget,
            nats=self._nats,
            evidence=self._evidence,
        )

    def _cases(self, part: Part, precision: PrecisionName) -> list[Reference]:
        """Computed once, whatever the number of formats and targets."""
        if (part, precision) not in self._references:
            self._references[part, precision] = references(
                self._graphs[part],
                self._oracles[part],
                within(self._probes, precision),
                self._tolerance,
                self._batches,
                precision,
                self._pytorch(part, precision),
            )
        return self._references[part, precision]

    def _pytorch(self, part: Part, precision: PrecisionName) -> Evaluate:
        """A part in PyTorch, with the numbers of a precision."""
        if (part, precision) not in self._own:
            graph = self._graphs[part]
            inputs = calibration(self._source, self._graphs, graph.spec) if precision in CALIBRATED else None
            self._own[part, precision] = lowered(graph, precision, inputs)
        return self._own[part, precision]

    def _measured(
        self, part: Part, target: Target, setting: Setting, runner: Runner, cases: Sequence[Reference]
    ) -> Iterator[Row]:
        plain = setting == target.settings(thorough=False)[0]
        builder = EvidenceBuilder() if part == "decoder" and plain else None
        for case in cases:
            outputs, fault = _run(runner, case.inputs, self._graphs[part].spec)
            for tensor in self._graphs[part].spec.outputs:
                name, scale = tensor.name, case.scales[tensor.name]
                if fault is not None:
                    result = Measure(fault=fault)
                else:
                    band = scale.band(tf32=target.tf32)
                    result = measure(outputs[name], tensor, case.eager[name], case.exact[name], band, scale.magnitude)
                if (
                    builder is not None
                    and name == "image"
                    and result.fault is None
                    and case.batch == max(self._batches)
                ):
                    builder.add(outputs[name], case.eager[name], case.exact[name])
                    if case.probe == "data" and (images := self._image(case.probe)) is not None:
                        builder.show(images, case.eager[name], outputs[name])
                yield Row(part, str(target), setting, case.probe, case.batch, name, result, scale)
        if builder is not None and (evidence := builder.build()) is not None:
            self._evidence[str(target)] = evidence

    def _plain(self, entry: FileEntry, data: bytes, target: Target, setting: Setting, runner: Runner) -> None:
        """What is looked at once for a target, with its plain setting: the same bits again, and where nodes ran."""
        self._runners[target, entry.part] = runner
        spec = self._graphs[entry.part].spec
        cases = self._cases(entry.part, entry.precision)
        case = next((case for case in cases if (case.probe, case.batch) == _USUAL), cases[0])
        fresh = FORMATS[entry.format].open(data, spec, target.provider, setting)
        (first, fault), (again, _), (other, _) = (
            _run(session, case.inputs, spec) for session in (runner, runner, fresh)
        )
        if fault is None:
            self._determinism.append(Determinism(entry.part, str(target), _same(first, again), _same(first, other)))
        if target.is_gpu and entry.format == "onnx":
            self._findings += nodes_on_the_cpu(data, entry.name, target.provider, case.inputs)

    def _explain(self, entry: FileEntry, data: bytes) -> None:
        """Where the first failed row of an ONNX file leaves the path."""
        failed = next(
            (
                row
                for row in self._rows
                if row.part == entry.part and not row.passed and row.target.startswith(f"{entry.format}/")
            ),
            None,
        )
        # A file of another precision has other nodes than the program, between which nothing is to be compared.
        if failed is None or entry.format != "onnx" or entry.precision != FULL:
            return
        cases = self._cases(entry.part, entry.precision)
        case = next(case for case in cases if (case.probe, case.batch) == (failed.probe, failed.batch))
        try:
            found = first_divergence(data, self._graphs[entry.part], case.inputs)
        except Exception as error:  # a file too broken to be run node by node; its rows say what is wrong with it
            self._findings.append(Finding("no-divergence", "warning", entry.name, f"node by node, {failure(error)}"))
            return
        if found is not None:
            self._divergences[entry.name] = found

    def _image(self, name: str) -> Array | None:
        return next(probe.image for probe in self._probes if probe.name == name)


def _run(runner: Runner, inputs: Mapping[str, Array], spec: PartSpec) -> tuple[dict[str, Array], str | None]:
    """The outputs, or why there are none: a file that cannot run a batch has failed that row, and only that."""
    try:
        outputs = runner(inputs)
    except Exception as error:
        return {}, failure(error)
    wanted = [tensor.name for tensor in spec.outputs]
    if list(outputs) != wanted:
        return {}, f"wrong outputs; expected {wanted}, got {list(outputs)}"
    return outputs, None


def _scenes(artifact: Artifact, targets: Sequence[Target]) -> list[Scene]:
    """What must be tried in a child before it is opened here."""
    return [
        Scene(entry.name, entry.part, entry.format, target.provider, artifact.read(entry))
        for entry in artifact.manifest.known
        for target in targets
        if target.runs(entry) and FORMATS[entry.format].may_crash
    ]


def _findings(entry: FileEntry, data: bytes, opset: int) -> list[Finding]:
    """What reading the file shows; raises `ModelError` for one that is damaged or of another format."""
    try:
        return list(FORMATS[entry.format].lint(data, entry.name, opset, entry.precision))
    except VaeExportError:
        raise
    except Exception as error:  # every reader raises its own
        raise ModelError(f"not a readable {entry.format} file", where=entry.name, got=type(error).__name__) from error


def _same(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    same = (np.asarray(one[name]).tobytes() == np.asarray(other[name]).tobytes() for name in one.keys() & other.keys())
    return one.keys() == other.keys() and all(same)


def _run_blank(graphs: Iterable[Graph]) -> None:
    """One run of each at the largest batch, for its time."""
    for graph in graphs:
        shapes = {tensor.name: (max(BATCHES), *tensor.item) for tensor in graph.spec.inputs}
        evaluate(graph, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
