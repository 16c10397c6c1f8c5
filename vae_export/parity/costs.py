"""What each target's files cost, once all of them were opened: in nats, in pixels, in samples.

A row looks at one file. Nats take an encoder and a decoder on one target, so that they come after all rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from vae_export.contract import Array, Part
from vae_export.errors import ModelError
from vae_export.findings import Finding
from vae_export.formats import Runner
from vae_export.noise import sample
from vae_export.parity.drift import SAMPLES, Budget, Drift, Samples, nats, pixels
from vae_export.parity.measure import failure
from vae_export.parity.metric import NAMES, NOISES, MetricParity
from vae_export.parity.prepared import Prepared
from vae_export.parity.row import Row
from vae_export.parity.targets import Target
from vae_export.precision import FULL

Report = Callable[[str], None]
#: The images whose nats are compared: real ones where the source has any.
_PROBE, _IMAGES = "data", 64
#: Real images, and noises for each, that say what fewer bits cost. One image with one noise differs by a third of a nat
#: (8 bits, MNIST), nine tenths of that variance by the noise: the mean of so many is known to two hundredths.
_COST_IMAGES, _COST_NOISES = 256, 4
_SAMPLES_SEED = 2
#: The parts that an image goes through.
_BOTH: tuple[Part, ...] = ("encoder", "decoder")
#: The parts whose images cost something. Bytes cost what the decoder's image does: rows hold them to be its rounding.
_WITH_IMAGE: tuple[Part, ...] = ("decoder", "autoencoder")


class Costs:
    """Takes every opened file, and then measures each target as a whole.

    Attributes:
        rows, planned: of nats; how many of them there must be.
        why_not: the reason why nats were not compared; None where they were.
        drifts: what each decoder and autoencoder of lower precision costs; every one of them where there is a budget.
        findings: what costs much, and what could not be measured.
    """

    def __init__(self, prepared: Prepared, budget: Budget | None, report: Report) -> None:
        self._prepared, self._budget, self._report = prepared, budget, report
        self._runners: dict[tuple[Target, Part], Runner] = {}
        self.rows: list[Row] = []
        self.planned = 0
        self.why_not: str | None = None
        self.drifts: list[Drift] = []
        self.findings: list[Finding] = []

    def add(self, target: Target, part: Part, runner: Runner) -> None:
        """A file that was opened with its target's plain setting."""
        self._runners[target, part] = runner

    def measure(self) -> None:
        """All that was added; what a reader should not miss is reported as well."""
        self._measure_nats()
        for (target, part), runner in self._runners.items():
            if part in _WITH_IMAGE and (target.precision != FULL or self._budget is not None):
                self.drifts.append(self._drift(target, part, runner))

    def _measure_nats(self) -> None:
        """Nats per image on every target that ran both the encoder and the decoder."""
        both = [target for target, part in self._runners if part == "decoder" and (target, "encoder") in self._runners]
        if not both:
            self.why_not = "no target ran both an encoder and a decoder"
        for target in both:
            self.planned += len(NAMES)
            encoder, decoder = self._runners[target, "encoder"], self._runners[target, "decoder"]
            own = {part: self._prepared.pytorch(part, target.precision) for part in _BOTH}
            setting = target.settings(thorough=False)[0]
            scales = self._metric.scales(target.precision, own)
            self.rows += self._metric.rows(str(target), setting, encoder, decoder, scales)

    def _drift(self, target: Target, part: Part, runner: Runner) -> Drift:
        """What one file costs, in units that a person cares about."""
        prepared = self._prepared
        try:
            image = prepared.graphs[part].spec.outputs[0]
            found = pixels(runner, image, prepared.cases(part, target.precision))
            if (difference := self._difference(target, part, runner)) is not None:
                found |= nats(difference)
            if part == "decoder" and "encoder" in prepared.graphs:
                samples = self._samples
                found |= {"frechet": samples.distance(runner), "frechet_of_samples": samples.of_samples}
        except Exception as error:  # a file that cannot run has failed its rows; the budget is missed as well
            self._warn("no-drift", target, part, failure(error))
            found = {}
        drift = Drift(str(target), part=part, **found)
        if drift.costly is not None:
            self._warn("costly", target, part, drift.costly)
        return drift

    def _difference(self, target: Target, part: Part, runner: Runner) -> Array | None:
        """Of the -ELBO of each real image (M,); None where there are none, or nothing to encode them with."""
        images = self._prepared.source.images
        encoder = self._runners.get((target, "encoder"))
        if images is None or (part == "decoder" and encoder is None):
            return None
        metric = self._cost
        through = (
            metric.through_one(runner) if encoder is None or part != "decoder" else metric.through(encoder, runner)
        )
        return metric.difference(through)

    def _warn(self, rule: str, target: Target, part: Part, detail: str) -> None:
        finding = Finding(rule, "warning", f"{part} on {target}", detail)
        self.findings.append(finding)
        self._report(finding.line())

    @cached_property
    def _metric(self) -> MetricParity:
        images = self._prepared.images(_PROBE)
        if images is None:
            raise ModelError("no images to measure nats with", where=_PROBE)
        return self._nats_of(images[:_IMAGES], NOISES)

    @cached_property
    def _cost(self) -> MetricParity:
        # Not the probe's, which are repeated where they are few: a second copy is no second observation.
        images = self._prepared.source.images
        if images is None:
            raise ModelError("no images to measure nats with", where=_PROBE)
        return self._nats_of(images[:_COST_IMAGES], _COST_NOISES)

    def _nats_of(self, images: Array, noises: int) -> MetricParity:
        prepared = self._prepared
        return MetricParity(
            prepared.source.contract, prepared.graphs, prepared.oracles, images, prepared.tolerance, noises
        )

    @cached_property
    def _samples(self) -> Samples:
        oracles = self._prepared.oracles
        latents = sample((2 * SAMPLES, *self._prepared.source.contract.latent_shape), _SAMPLES_SEED)
        return Samples(
            latents,
            lambda latent: oracles["decoder"].exact({"latent": latent})["image"],
            lambda image: oracles["encoder"].exact({"image": image})["mean"],
        )
