"""What each target's files cost, once all of them were opened: in nats, in pixels, in samples.

A row looks at one file. Nats take an encoder and a decoder on one target, so that they come after all rows.
"""

from __future__ import annotations

from vae_export.contract import Part
from vae_export.findings import Finding
from vae_export.formats import Runner
from vae_export.noise import sample
from vae_export.parity.certificate import Row
from vae_export.parity.drift import SAMPLES, Budget, Drift, Samples, nats, pixels
from vae_export.parity.measure import failure
from vae_export.parity.metric import NAMES, MetricParity
from vae_export.parity.prepared import Prepared
from vae_export.parity.targets import Target
from vae_export.precision import FULL

#: The images whose nats are compared: real ones where the source has any.
_PROBE, _IMAGES = "data", 64
_SAMPLES_SEED = 2
#: The parts that an image goes through.
_BOTH: tuple[Part, ...] = ("encoder", "decoder")


class Costs:
    """Takes every opened file, and then measures each target as a whole.

    Attributes:
        rows, planned: of nats; how many of them there must be.
        why_not: the reason why nats were not compared; None where they were.
        drifts: what each file of lower precision costs; of every file where there is a budget.
        findings: what could not be measured.
    """

    def __init__(self, prepared: Prepared, budget: Budget | None) -> None:
        self._prepared, self._budget = prepared, budget
        self._runners: dict[tuple[Target, Part], Runner] = {}
        self._metric: MetricParity | None = None
        self._samples: Samples | None = None
        self.rows: list[Row] = []
        self.planned = 0
        self.why_not: str | None = None
        self.drifts: list[Drift] = []
        self.findings: list[Finding] = []

    def add(self, target: Target, part: Part, runner: Runner) -> None:
        """A file that was opened with its target's plain setting."""
        self._runners[target, part] = runner

    def measure(self) -> None:
        """All that was added."""
        self._measure_nats()
        for (target, part), decoder in self._runners.items():
            if part == "decoder" and (target.precision != FULL or self._budget is not None):
                self.drifts.append(self._drift(target, decoder))

    def _measure_nats(self) -> None:
        """Nats per image on every target that ran both the encoder and the decoder."""
        both = [target for target, part in self._runners if part == "decoder" and (target, "encoder") in self._runners]
        prepared, images = self._prepared, self._prepared.images(_PROBE)
        if not both or images is None:
            self.why_not = "no target ran both an encoder and a decoder"
            return
        self._metric = MetricParity(
            prepared.source.contract, prepared.graphs, prepared.oracles, images[:_IMAGES], prepared.tolerance
        )
        for target in both:
            self.planned += len(NAMES)
            encoder, decoder = self._runners[target, "encoder"], self._runners[target, "decoder"]
            own = {part: prepared.pytorch(part, target.precision) for part in _BOTH}
            setting = target.settings(thorough=False)[0]
            scales = self._metric.scales(target.precision, own)
            self.rows += self._metric.rows(str(target), setting, encoder, decoder, scales)

    def _drift(self, target: Target, decoder: Runner) -> Drift:
        """What a target's decoder costs, in units that a person cares about."""
        prepared = self._prepared
        try:
            image = prepared.graphs["decoder"].spec.outputs[0]
            found = pixels(decoder, image, prepared.cases("decoder", target.precision))
            encoder = self._runners.get((target, "encoder"))
            images = 0 if prepared.source.images is None else len(prepared.source.images)
            if encoder is not None and self._metric is not None and images:
                # Fewer images than the metric takes are repeated there: a second copy is no second observation.
                found |= nats(self._metric.difference(encoder, decoder)[:images])
            if "encoder" in prepared.graphs:
                self._samples = self._samples or self._drawn()
                found |= {"frechet": self._samples.distance(decoder), "frechet_of_samples": self._samples.of_samples}
        except Exception as error:  # a decoder that cannot run has failed its rows; the budget is missed as well
            self.findings.append(Finding("no-drift", "warning", str(target), failure(error)))
            found = {}
        return Drift(str(target), **found)

    def _drawn(self) -> Samples:
        oracles = self._prepared.oracles
        latents = sample((2 * SAMPLES, *self._prepared.source.contract.latent_shape), _SAMPLES_SEED)
        return Samples(
            latents,
            lambda latent: oracles["decoder"].exact({"latent": latent})["image"],
            lambda image: oracles["encoder"].exact({"image": image})["mean"],
        )
