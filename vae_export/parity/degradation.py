"""Measure the accuracy that files lose to lower precision, in pixels and nats, and check it against a budget.

A tolerance shows that a file is as accurate as its precision allows. It does not show that this is accurate enough: 8
bits may cost twenty grey levels of a pixel and still be within the tolerance. So the pixels, nats and samples of each
file of lower precision are compared with PyTorch's float64, and a budget in those units can fail the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vae_export.contract import Array, Part
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
from vae_export.tensors import TensorSpec

#: A larger degradation gives a warning, whether or not there is a budget. Papers compare VAEs by tenths of a nat, and
#: a mean error of one level is the smallest that an 8-bit image shows.
COSTLY_NATS, COSTLY_LEVELS = 0.1, 1.0
#: Half the width of a 95 % confidence interval of a mean, in standard errors.
_NORMAL_95 = 1.96

Report = Callable[[str], None]


@dataclass(frozen=True)
class Budget:
    """The degradation that a file may have.

    Attributes:
        max_grey_levels: error of the worst pixel of typical probes, in 8-bit levels; None for no limit.
        max_nats: upper end of the 95 % interval of the −ELBO's difference, in nats per image; None for no limit.
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
        target: name of the target.
        worst_levels, mean_levels: worst and mean error of a pixel after rounding to 8 bits, in levels.
        psnr: peak signal-to-noise ratio of the images, in decibels; infinite if they are equal.
        nats: mean difference of the −ELBO, file minus PyTorch, with the same images and noise.
        nats_low, nats_high: the 95 % interval of that mean, from the differences of single images.
        frechet: Fréchet distance (Heusel et al., arXiv:1706.08500) between the images that both decode from the same
            latents, in the space of the encoder's means.
        frechet_of_samples: the Fréchet distance between two sets of PyTorch's own images, which is sampling noise.
        part: "decoder" (nats computed with the encoder of the same target) or "autoencoder".
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
        """The figures large enough for a warning, in words; None if there are none. NaN counts as large."""
        figures = ((self.nats, COSTLY_NATS, "nats an image"), (self.mean_levels, COSTLY_LEVELS, "grey levels a pixel"))
        said = [
            f"{figure:.3g} {unit} on average, above {most:g}"
            for figure, most, unit in figures
            if figure is not None and not figure <= most
        ]
        return "; ".join(said) or None

    def over_budget(self, budget: Budget) -> list[str]:
        """Return a line for each limit of the budget that is exceeded. A figure that was not measured exceeds it."""
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
        """Return the figures by their names; numbers that are not finite stay as they are."""
        return asdict(self)


#: Images whose nats are compared in every verification: those of the data probe.
_PARITY_IMAGES = 64
#: Number of real images, and of noise samples for each, that measure the degradation in nats. The difference of one
#: image with one noise sample varies by a third of a nat (8 bits, MNIST), and nine tenths of that variance come from
#: the noise. The mean of so many is known to two hundredths of a nat.
_REAL_IMAGES, _REAL_NOISE_SAMPLES = 256, 4
#: The parts whose images are measured. The images of a decoder of bytes are the decoder's, rounded.
_PARTS_WITH_IMAGES: tuple[Part, ...] = ("decoder", "autoencoder")


class DegradationMeter:
    """Collects the opened files, then measures each target as a whole, because nats need an encoder and a decoder.

    Attributes:
        results, planned: test cases of the nats, and the number of them that must be present.
        nats_not_compared: the reason why nats were not compared; None if they were.
        degradations: one for each decoder and autoencoder of lower precision, or for all of them if there is a budget.
        findings: warnings about degradations that are large or could not be measured.
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
        """Add an opened file.

        Args:
            target: the target that the file runs on.
            part: the part in the file.
            runner: the file, opened with the first session options of its target.
            cases: the test cases of the part, with inputs and PyTorch's outputs.
        """
        self._files[target, part] = runner, cases

    def measure(self) -> None:
        """Measure all files that were added, and report large degradations."""
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
        except Exception as error:  # a file that cannot run has failed its test cases, and also exceeds the budget
            self._warn("no-drift", target, part, describe_fault(error))
            figures = {}
        degradation = Degradation(str(target), part=part, **figures)
        if degradation.costly is not None:
            self._warn("costly", target, part, degradation.costly)
        return degradation

    def _elbo_difference(self, target: Target, part: Part, runner: Runner) -> Array | None:
        """Return the −ELBO's error for each real image, (M,); None without images or without an encoder."""
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
        # The probe's images are not used, because it repeats them if there are few, and copies are not independent.
        source = self._references.source
        if source.images is None:
            raise ModelError("no images to measure nats with", where="source")
        images = source.examples[source.contract.data.name]
        return ElboParity(self._references, images[:_REAL_IMAGES], _REAL_NOISE_SAMPLES, self._user_tolerance)

    @cached_property
    def _frechet(self) -> FrechetBaseline:
        oracle = self._references.oracle
        return FrechetBaseline(
            oracle("decoder").expected,
            oracle("encoder").expected,
            self._references.source.contract.latents[0].fixed_item,
        )


def pixel_degradation(runner: PartFunction, image: TensorSpec, cases: Sequence[Case]) -> dict[str, Any]:
    """Return the errors of the images of a decoder or an autoencoder.

    Args:
        runner: the file.
        image: the output that is an image.
        cases: the test cases of the part; only typical probes at the largest batch size are used.

    Returns:
        The fields `worst_levels`, `mean_levels` and `psnr` of a `Degradation`.

    Raises:
        ModelError: the images do not match the contract.
    """
    largest = max(case.batch for case in cases)
    typical = [case for case in cases if case.probe in TYPICAL_PROBES and case.batch == largest]
    differences, squares = [], []
    for case in typical:
        decoded, expected = runner(case.inputs)[image.name], case.expected[image.name]
        image.check(decoded, batch=case.batch)  # a NaN has no level, and numpy would broadcast a single image
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
    """Return the mean of the differences (M,) and its 95 % interval as `nats`, `nats_low` and `nats_high`."""
    mean = float(difference.mean())
    reach = _NORMAL_95 * float(difference.std(ddof=1)) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
    return {"nats": mean, "nats_low": mean - reach, "nats_high": mean + reach}


class FrechetBaseline:
    """Fréchet distances between images that PyTorch and a file decode from the same random latents.

    The features of an image are the means that PyTorch's encoder computes for it.

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
