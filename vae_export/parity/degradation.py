"""What a file costs a person who looks at its images, and one who reads its nats.

A band says that a file computes what its precision can. It does not say that this is good enough: eight bits may cost
twenty grey levels of a pixel and still be all that eight bits can do. So each file of lower precision also has its
figures in units that somebody cares about, and a budget in those units can fail it.

What each target's files cost, once all of them were opened: in nats, in pixels, in samples.

A row looks at one file. Nats take an encoder and a decoder on one target, so that they come after all rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vae_export.contract import Array, Part, TensorSpec
from vae_export.errors import ModelError, UsageError
from vae_export.formats.base import Finding, Runner
from vae_export.parity.compare import CaseResult, describe_fault
from vae_export.parity.elbo import METRICS, NOISE_SAMPLES, ElboParity
from vae_export.parity.probes import TYPICAL_PROBES
from vae_export.parity.reference import Case, References
from vae_export.parity.targets import Target
from vae_export.pixels import to_levels
from vae_export.precision import FULL
from vae_export.rng import sample

#: Latents that are sampled for the Fréchet distance, twice.
SAMPLES = 1024
#: What is said aloud, whether or not there is a budget. Papers compare VAEs by tenths of a nat: a file that costs more
#: has another network's score. Eight bits, and so a screen, show a mean error of one level and none that is smaller.
COSTLY_NATS, COSTLY_LEVELS = 0.1, 1.0
#: Standard errors on either side of a mean that hold it with 95 %.
_NORMAL_95 = 1.96


@dataclass(frozen=True)
class Budget:
    """What a file may cost.

    Attributes:
        max_grey_levels: of the worst pixel of ordinary probes, in 8 bits.
        max_nats: per image: the upper end of the interval of the -ELBO's difference.
    """

    max_grey_levels: float | None = None
    max_nats: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("max-grey-levels", self.max_grey_levels), ("max-nats", self.max_nats)):
            if value is not None and not 0 <= value < math.inf:
                raise UsageError(f"bad {name}", expected="a number from 0 up", got=value)


@dataclass(frozen=True)
class Degradation:
    """The distance of one target's files to PyTorch's float64, over probes as an application has them.

    Attributes:
        target: which files, and where they ran.
        part: decoder, whose nats are with the encoder of the same target, or autoencoder.
        worst_levels, mean_levels: of a pixel, after rounding to 8 bits.
        psnr: peak signal-to-noise ratio of the images, in decibels; infinite where they are equal.
        nats: mean difference of the -ELBO, file less PyTorch, with the same images and noise.
        nats_low, nats_high: the 95 % interval of that mean, from the differences of single images.
        frechet: Fréchet distance (Heusel et al., arXiv:1706.08500) between the images that both decode of the same
            latents, in the space of the encoder's means.
        frechet_of_samples: the same between two sets of images of PyTorch's alone: what so many samples say anyway.
    """

    target: str
    worst_levels: int | None = None
    mean_levels: float | None = None
    psnr: float | None = None
    nats: float | None = None
    nats_low: float | None = None
    nats_high: float | None = None
    frechet: float | None = None
    frechet_of_samples: float | None = None
    part: Part = "decoder"

    @property
    def costly(self) -> str | None:
        """What of it costs more than most would take without a word; None where nothing does. NaN does."""
        figures = ((self.nats, COSTLY_NATS, "nats an image"), (self.mean_levels, COSTLY_LEVELS, "grey levels a pixel"))
        said = [
            f"{figure:.3g} {unit} on average, above {most:g}"
            for figure, most, unit in figures
            if figure is not None and not figure <= most
        ]
        return "; ".join(said) or None

    def over_budget(self, budget: Budget) -> list[str]:
        """A line for each way in which the budget is missed; a figure that is not there has missed it."""
        lines = []
        for figure, most, unit in (
            (self.worst_levels, budget.max_grey_levels, "grey levels"),
            (self.nats_high, budget.max_nats, "nats"),
        ):
            if most is not None and not (figure is not None and figure <= most):
                got = "not measured" if figure is None else f"{figure:.4g}"
                lines.append(f"{self.part} on {self.target}: {got} {unit}, {most:g} allowed")
        return lines

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def pixel_degradation(runner: Runner, image: TensorSpec, cases: Sequence[Case]) -> dict[str, Any]:
    """The figures of the images that a decoder or an autoencoder gives: `worst_levels`, `mean_levels`, `psnr`.

    Raises `ModelError` for images that do not keep the contract, which have no such figures.
    """
    largest = max(case.batch for case in cases)
    ordinary = [case for case in cases if case.probe in TYPICAL_PROBES and case.batch == largest]
    differences, squares = [], []
    for case in ordinary:
        decoded, exact = runner(case.inputs)[image.name], case.expected[image.name]
        image.check(decoded, batch=case.batch)  # a NaN has no level, and numpy would broadcast one image over all
        level, expected = (to_levels(array, image.low, image.high) for array in (decoded, exact))
        differences.append(np.abs(level - expected))
        squares.append((np.asarray(decoded, np.float64) - exact) ** 2)
    difference, square = np.concatenate(differences), np.concatenate(squares)
    noise = float(square.mean())
    return {
        "worst_levels": int(difference.max()),
        "mean_levels": float(difference.mean()),
        "psnr": 10 * math.log10((image.high - image.low) ** 2 / noise) if noise else math.inf,
    }


def nats_interval(difference: Array) -> dict[str, Any]:
    """Mean and 95 % interval of the differences (M,) of single images: `nats`, `nats_low`, `nats_high`."""
    mean = float(difference.mean())
    reach = _NORMAL_95 * float(difference.std(ddof=1)) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
    return {"nats": mean, "nats_low": mean - reach, "nats_high": mean + reach}


class FrechetBaseline:
    """Images of the same random latents, by PyTorch and by a file, seen by PyTorch's encoder.

    Args:
        latents: (2 · SAMPLES, *latent): one set to compare with, and another.
        decode, encode: PyTorch's float64: latents → images, images → means.
    """

    def __init__(self, latents: Array, decode: Callable[[Array], Array], encode: Callable[[Array], Array]) -> None:
        self._latents, self._encode = latents[:SAMPLES], encode
        self._exact = self._features(decode(self._latents))
        self.of_samples = frechet_distance(self._exact, self._features(decode(latents[SAMPLES:])))

    def distance(self, decoder: Runner) -> float:
        """Of a decoder's images to PyTorch's."""
        return frechet_distance(self._exact, self._features(decoder({"latent": self._latents})["image"]))

    def _features(self, images: Array) -> Array:
        means = self._encode(np.ascontiguousarray(images, np.float32))
        return np.asarray(means, np.float64).reshape(len(means), -1)


def frechet_distance(one: Array, other: Array) -> float:
    """Between normal distributions with the means and covariances of two sets of features (M, F); never negative.

    |a - b|² + tr(A + B - 2 (A^½ B A^½)^½), Dowson & Landau, J. Multivariate Analysis 12 (1982).
    """
    means, covariances = zip(*((x.mean(0), np.atleast_2d(np.cov(x, rowvar=False))) for x in (one, other)), strict=True)
    root = _root(covariances[0])
    between = _root(root @ covariances[1] @ root)
    apart = float(((means[0] - means[1]) ** 2).sum())
    return max(0.0, apart + float(np.trace(covariances[0] + covariances[1] - 2 * between)))


def _root(matrix: Array) -> Array:
    """Of a symmetric matrix without negative eigenvalues but for rounding."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    root: Array = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root


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


class DegradationMeter:
    """Takes every opened file, and then measures each target as a whole.

    Attributes:
        rows, planned: of nats; how many of them there must be.
        why_not: the reason why nats were not compared; None where they were.
        drifts: what each decoder and autoencoder of lower precision costs; every one of them where there is a budget.
        findings: what costs much, and what could not be measured.
    """

    def __init__(self, prepared: References, budget: Budget | None, report: Report) -> None:
        self._prepared, self._budget, self._report = prepared, budget, report
        self._runners: dict[tuple[Target, Part], Runner] = {}
        self.rows: list[CaseResult] = []
        self.planned = 0
        self.why_not: str | None = None
        self.drifts: list[Degradation] = []
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
            self.planned += len(METRICS)
            encoder, decoder = self._runners[target, "encoder"], self._runners[target, "decoder"]
            own = {part: self._prepared.pytorch(part, target.precision) for part in _BOTH}
            setting = target.session_options(thorough=False)[0]
            scales = self._metric.scales(target.precision, own)
            self.rows += self._metric.rows(str(target), setting, encoder, decoder, scales)

    def _drift(self, target: Target, part: Part, runner: Runner) -> Degradation:
        """What one file costs, in units that a person cares about."""
        prepared = self._prepared
        try:
            image = prepared.graphs[part].spec.outputs[0]
            found = pixel_degradation(runner, image, prepared.cases(part, target.precision))
            if (difference := self._difference(target, part, runner)) is not None:
                found |= nats_interval(difference)
            if part == "decoder" and "encoder" in prepared.graphs:
                samples = self._samples
                found |= {"frechet": samples.distance(runner), "frechet_of_samples": samples.of_samples}
        except Exception as error:  # a file that cannot run has failed its rows; the budget is missed as well
            self._warn("no-drift", target, part, describe_fault(error))
            found = {}
        drift = Degradation(str(target), part=part, **found)
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
    def _metric(self) -> ElboParity:
        images = self._prepared.images(_PROBE)
        if images is None:
            raise ModelError("no images to measure nats with", where=_PROBE)
        return self._nats_of(images[:_IMAGES], NOISE_SAMPLES)

    @cached_property
    def _cost(self) -> ElboParity:
        # Not the probe's, which are repeated where they are few: a second copy is no second observation.
        images = self._prepared.source.images
        if images is None:
            raise ModelError("no images to measure nats with", where=_PROBE)
        return self._nats_of(images[:_COST_IMAGES], _COST_NOISES)

    def _nats_of(self, images: Array, noises: int) -> ElboParity:
        prepared = self._prepared
        return ElboParity(
            prepared.source.contract, prepared.graphs, prepared.oracles, images, prepared.tolerance, noises
        )

    @cached_property
    def _samples(self) -> FrechetBaseline:
        oracles = self._prepared.oracles
        latents = sample((2 * SAMPLES, *self._prepared.source.contract.latent_shape), _SAMPLES_SEED)
        return FrechetBaseline(
            latents,
            lambda latent: oracles["decoder"].expected({"latent": latent})["image"],
            lambda image: oracles["encoder"].expected({"image": image})["mean"],
        )
