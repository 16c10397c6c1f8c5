"""The accuracy that files lose to lower precision, in units that a person cares about, and a budget for it.

A tolerance says that a file computes what its precision can. It does not say that this is good enough: eight bits may
cost twenty grey levels of a pixel and still be all that eight bits can do. So the pixels, nats and samples of each file
of lower precision are compared with PyTorch's float64, and a budget in those units can fail it.
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
from vae_export.parity.oracle import PartFunction
from vae_export.parity.probes import TYPICAL_PROBES
from vae_export.parity.reference import Case, References
from vae_export.parity.targets import Target
from vae_export.parity.tolerance import Tolerance
from vae_export.pixels import to_levels
from vae_export.precision import FULL
from vae_export.rng import sample

#: Above these a warning is given, whether or not there is a budget. Papers compare VAEs by tenths of a nat: a file that
#: loses more has another network's score. Eight bits, and so a screen, show a mean error of one level and none smaller.
COSTLY_NATS, COSTLY_LEVELS = 0.1, 1.0
#: Half the width of a 95 % confidence interval of a mean, in standard errors.
_NORMAL_95 = 1.96

Report = Callable[[str], None]


@dataclass(frozen=True)
class Budget:
    """The degradation that a file may have.

    Attributes:
        max_grey_levels: error of the worst pixel of typical probes, in 8-bit levels; None is no limit.
        max_nats: upper end of the 95 % interval of the −ELBO's difference, in nats per image; None is no limit.
    """

    max_grey_levels: float | None = None
    max_nats: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("max-grey-levels", self.max_grey_levels), ("max-nats", self.max_nats)):
            if value is not None and not 0 <= value < math.inf:
                raise UsageError(f"bad {name}", expected="a number from 0 up", got=value)


@dataclass(frozen=True)
class Degradation:
    """The distance of one target's files to PyTorch's float64, over probes that look like an application's inputs.

    Attributes:
        target: which files, and where they ran.
        worst_levels, mean_levels: error of a pixel after rounding to 8 bits.
        psnr: peak signal-to-noise ratio of the images, in decibels; infinite where they are equal.
        nats: mean difference of the −ELBO, file less PyTorch, with the same images and noise.
        nats_low, nats_high: the 95 % interval of that mean, from the differences of single images.
        frechet: Fréchet distance (Heusel et al., arXiv:1706.08500) between the images that both decode from the same
            latents, in the space of the encoder's means.
        frechet_of_samples: the Fréchet distance between two sets of PyTorch's own images: the noise of so many samples.
        part: "decoder", whose nats are with the encoder of the same target, or "autoencoder".
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
        """The figures that most users would want to know of, in words; None where there are none. NaN is one."""
        figures = ((self.nats, COSTLY_NATS, "nats an image"), (self.mean_levels, COSTLY_LEVELS, "grey levels a pixel"))
        said = [
            f"{figure:.3g} {unit} on average, above {most:g}"
            for figure, most, unit in figures
            if figure is not None and not figure <= most
        ]
        return "; ".join(said) or None

    def over_budget(self, budget: Budget) -> list[str]:
        """Return a line for each limit of the budget that is missed; a figure that was not measured misses it."""
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


#: Images whose nats are compared in every verification: those of the data probe.
_PARITY_IMAGES = 64
#: Real images, and noise samples for each, that measure the degradation in nats. One image with one noise sample
#: differs by a third of a nat (8 bits, MNIST), nine tenths of that variance by the noise: the mean of so many is known
#: to two hundredths.
_REAL_IMAGES, _REAL_NOISE_SAMPLES = 256, 4
#: The parts whose images are measured. Those of a decoder of bytes are held to be the decoder's, rounded.
_PARTS_WITH_IMAGES: tuple[Part, ...] = ("decoder", "autoencoder")


class DegradationMeter:
    """Collects every opened file, and then measures each target as a whole: nats take an encoder and a decoder.

    Attributes:
        results, planned: test cases of the nats, and how many of them there must be.
        nats_not_compared: why nats were not compared; None where they were.
        degradations: for each decoder and autoencoder of lower precision; for all of them where there is a budget.
        findings: degradations that are large, or could not be measured.
    """

    def __init__(
        self, references: References, budget: Budget | None, user_tolerance: Tolerance | None, report: Report
    ) -> None:
        self._references, self._budget, self._user_tolerance = references, budget, user_tolerance
        self._report = report
        self._files: dict[tuple[Target, Part], tuple[Runner, Sequence[Case]]] = {}
        self.results: list[CaseResult] = []
        self.planned = 0
        self.nats_not_compared: str | None = None
        self.degradations: list[Degradation] = []
        self.findings: list[Finding] = []

    def add(self, target: Target, part: Part, runner: Runner, cases: Sequence[Case]) -> None:
        """Add a file that was opened with its target's plain setting, and the test cases of its part."""
        self._files[target, part] = runner, cases

    def measure(self) -> None:
        """Measure everything that was added; report what is large."""
        self._compare_nats()
        for (target, part), (runner, cases) in self._files.items():
            if part in _PARTS_WITH_IMAGES and (target.precision != FULL or self._budget is not None):
                self.degradations.append(self._degradation(target, part, runner, cases))

    def _compare_nats(self) -> None:
        """Compare the nats on every target that ran both the encoder and the decoder."""
        both = [target for target, part in self._files if part == "decoder" and (target, "encoder") in self._files]
        if not both:
            self.nats_not_compared = "no target ran both an encoder and a decoder"
        for target in both:
            self.planned += len(METRICS)
            (encoder, _), (decoder, _) = self._files[target, "encoder"], self._files[target, "decoder"]
            options = target.session_options(thorough=False)[0]
            self.results += self._parity.results(str(target), options, encoder, decoder, target.precision)

    def _degradation(self, target: Target, part: Part, runner: Runner, cases: Sequence[Case]) -> Degradation:
        figures: dict[str, Any] = {}
        try:
            image = self._references.captured.graph(part).spec.outputs[0]
            figures |= pixel_degradation(runner, image, cases)
            if (difference := self._elbo_difference(target, part, runner)) is not None:
                figures |= nats_interval(difference)
            if part == "decoder" and "encoder" in self._references.source.parts:
                figures |= {"frechet": self._frechet.distance(runner), "frechet_of_samples": self._frechet.of_samples}
        except Exception as error:  # a file that cannot run has failed its test cases; the budget is missed as well
            self._warn("no-drift", target, part, describe_fault(error))
            figures = {}
        degradation = Degradation(str(target), part=part, **figures)
        if degradation.costly is not None:
            self._warn("costly", target, part, degradation.costly)
        return degradation

    def _elbo_difference(self, target: Target, part: Part, runner: Runner) -> Array | None:
        """Return how far the −ELBO of each real image is off, (M,); None without images, or an encoder for them."""
        if self._references.source.images is None:
            return None
        if part == "autoencoder":
            return self._real_parity.elbo_difference(self._real_parity.nats_of_autoencoder(runner))
        if (target, "encoder") not in self._files:
            return None
        encoder, _ = self._files[target, "encoder"]
        return self._real_parity.elbo_difference(self._real_parity.nats(encoder, runner))

    def _warn(self, rule: str, target: Target, part: Part, detail: str) -> None:
        finding = Finding(rule, "warning", f"{part} on {target}", detail)
        self.findings.append(finding)
        self._report(finding.line())

    @cached_property
    def _parity(self) -> ElboParity:
        images = self._references.images(_PARITY_IMAGES)
        return ElboParity(self._references, images, NOISE_SAMPLES, self._user_tolerance)

    @cached_property
    def _real_parity(self) -> ElboParity:
        # Not the images of the probe, which repeats them where they are few: a second copy is no second observation.
        images = self._references.source.images
        if images is None:
            raise ModelError("no images to measure nats with", where="source")
        return ElboParity(self._references, images[:_REAL_IMAGES], _REAL_NOISE_SAMPLES, self._user_tolerance)

    @cached_property
    def _frechet(self) -> FrechetBaseline:
        oracle = self._references.oracle
        return FrechetBaseline(
            oracle("decoder").expected, oracle("encoder").expected, self._references.source.contract.latent_shape
        )


def pixel_degradation(runner: PartFunction, image: TensorSpec, cases: Sequence[Case]) -> dict[str, Any]:
    """Return the figures of the images of a decoder or an autoencoder: `worst_levels`, `mean_levels`, `psnr`.

    Args:
        runner: the file.
        image: the output that is an image.
        cases: the test cases of the part; those of typical probes at the largest batch count.

    Raises:
        ModelError: the images do not keep the contract.
    """
    largest = max(case.batch for case in cases)
    typical = [case for case in cases if case.probe in TYPICAL_PROBES and case.batch == largest]
    differences, squares = [], []
    for case in typical:
        decoded, expected = runner(case.inputs)[image.name], case.expected[image.name]
        image.check(decoded, batch=case.batch)  # a NaN has no level, and numpy would broadcast one image over all
        level, expected_level = (to_levels(array, image.low, image.high) for array in (decoded, expected))
        differences.append(np.abs(level - expected_level))
        squares.append((np.asarray(decoded, np.float64) - expected) ** 2)
    difference, square = np.concatenate(differences), np.concatenate(squares)
    noise = float(square.mean())
    return {
        "worst_levels": int(difference.max()),
        "mean_levels": float(difference.mean()),
        "psnr": 10 * math.log10((image.high - image.low) ** 2 / noise) if noise else math.inf,
    }


def nats_interval(difference: Array) -> dict[str, Any]:
    """Return mean and 95 % interval of the differences (M,) of single images: `nats`, `nats_low`, `nats_high`."""
    mean = float(difference.mean())
    reach = _NORMAL_95 * float(difference.std(ddof=1)) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
    return {"nats": mean, "nats_low": mean - reach, "nats_high": mean + reach}


class FrechetBaseline:
    """Fréchet distances between images that PyTorch and a file decode from the same random latents.

    Images are compared by the means that PyTorch's encoder finds for them.

    Args:
        decoder, encoder: PyTorch's parts in float64.
        latent_shape: shape of one latent.
    """

    SAMPLES = 1024
    _SEED = 2

    def __init__(self, decoder: PartFunction, encoder: PartFunction, latent_shape: Sequence[int]) -> None:
        latents = sample((2 * self.SAMPLES, *latent_shape), self._SEED)
        self._latents, self._encoder = latents[: self.SAMPLES], encoder
        self._expected = self._features(decoder, self._latents)
        #: Distance between two sets of PyTorch's own images.
        self.of_samples = frechet_distance(self._expected, self._features(decoder, latents[self.SAMPLES :]))

    def distance(self, decoder: PartFunction) -> float:
        """Return the distance of a decoder's images to PyTorch's."""
        return frechet_distance(self._expected, self._features(decoder, self._latents))

    def _features(self, decoder: PartFunction, latents: Array) -> Array:
        images = np.ascontiguousarray(decoder({"latent": latents})["image"], np.float32)
        means = self._encoder({"image": images})["mean"]
        return np.asarray(means, np.float64).reshape(len(means), -1)


def frechet_distance(one: Array, other: Array) -> float:
    """Return the distance between normal distributions fitted to two sets of features (M, F); never negative.

    |a − b|² + tr(A + B − 2 (A^½ B A^½)^½), Dowson & Landau, J. Multivariate Analysis 12 (1982).
    """
    means, covariances = zip(*((x.mean(0), np.atleast_2d(np.cov(x, rowvar=False))) for x in (one, other)), strict=True)
    root = _square_root(covariances[0])
    between = _square_root(root @ covariances[1] @ root)
    apart = float(((means[0] - means[1]) ** 2).sum())
    return max(0.0, apart + float(np.trace(covariances[0] + covariances[1] - 2 * between)))


def _square_root(matrix: Array) -> Array:
    """Return the root of a symmetric matrix that has no negative eigenvalues, rounding errors apart."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    root: Array = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root
