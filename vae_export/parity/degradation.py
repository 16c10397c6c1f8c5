"""Measure the accuracy that files lose to lower precision, in pixels and nats, and check it against a budget.

A tolerance shows that a file is as accurate as its precision allows. It does not show that this is accurate enough: 8
bits may cost twenty grey levels of a pixel and still be within the tolerance. So the pixels, nats and samples of each
file of lower precision are compared with PyTorch's float64, and a budget in those units can fail the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from vae_export.artifact.certificate import TYPICAL_PROBES
from vae_export.contract import Array, Part
from vae_export.errors import ModelError, UsageError
from vae_export.formats.base import Finding, Runner
from vae_export.frechet import frechet_distance
from vae_export.parity.cases import Case
from vae_export.parity.compare import CaseResult, describe_fault
from vae_export.parity.elbo import METRICS, ElboParity, why_not_comparable
from vae_export.parity.oracle import PartFunction, run_rows
from vae_export.parity.plan import NatsPlan
from vae_export.parity.reference import References
from vae_export.parity.targets import Target
from vae_export.parity.tolerance import Tolerance
from vae_export.pixels import to_levels
from vae_export.precision import FULL
from vae_export.rng import sample
from vae_export.tensors import TensorSpec

#: A larger degradation gives a warning, whether or not there is a budget. Papers compare VAEs by tenths of a nat, and
#: a mean error of one level is the smallest that an 8-bit image shows.
COSTLY_NATS, COSTLY_LEVELS = 0.1, 1.0
#: Those tenths of a nat are of images of 784 pixels; of larger data, as many bits per dimension are large.
_COSTLY_DIMENSIONS = 784
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


def costly_nats(dimensions: int) -> float:
    """Return the loss in nats above which a degradation of data with this number of values gives a warning."""
    return COSTLY_NATS * max(1.0, dimensions / _COSTLY_DIMENSIONS)


def nats_of_bits(bits_per_dim: float, dimensions: int) -> float:
    """Convert bits per dimension to nats, for data with this number of values."""
    return bits_per_dim * dimensions * math.log(2)


@dataclass(frozen=True)
class Degradation:
    """The distance of one target's files to PyTorch's float64, over probes that look like an application's inputs.

    Attributes:
        target: name of the target.
        worst_levels, mean_levels: worst and mean error of a pixel after rounding to 8 bits, in levels.
        psnr: peak signal-to-noise ratio of data with a range, in decibels; infinite if it is equal.
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

    def costly(self, most_nats: float = COSTLY_NATS) -> str | None:
        """Return the figures large enough for a warning, in words; None if there are none. NaN counts as large.

        Args:
            most_nats: `costly_nats` of the data.
        """
        figures = ((self.nats, most_nats, "nats an image"), (self.mean_levels, COSTLY_LEVELS, "grey levels a pixel"))
        said = [
            f"{figure:.3g} {unit} on average, above {most:.3g}"
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


#: Number of real images, and of noise samples for each, that measure the degradation in nats. The difference of one
#: image with one noise sample varies by a third of a nat (8 bits, MNIST), and nine tenths of that variance come from
#: the noise. The mean of so many is known to two hundredths of a nat.
_REAL_IMAGES, _REAL_NOISE_SAMPLES = 256, 4
#: The parts whose images are measured. The images of a decoder of bytes are the decoder's, rounded.
_PARTS_WITH_IMAGES: tuple[Part, ...] = ("decoder", "autoencoder")


class DegradationMeter:
    """Collects the files, then measures each target as a whole, because nats need an encoder and a decoder.

    Attributes:
        results, planned: test cases of the nats, and the number of them that must be present.
        nats_not_compared: the reason why nats were not compared; None if they were.
        degradations: one for each decoder and autoencoder of lower precision, or for all of them if there is a budget.
        findings: warnings about degradations that are large or could not be measured.
    """

    def __init__(
        self,
        references: References,
        budget: Budget | None,
        user_tolerance: Tolerance | None,
        report: Report,
        plan: NatsPlan,
    ) -> None:
        self._references, self._budget, self._user_tolerance = references, budget, user_tolerance
        self._report, self._plan = report, plan
        self._files: dict[tuple[Target, Part], tuple[Callable[[], Runner], Sequence[Case]]] = {}
        self.results: list[CaseResult] = []
        self.planned = 0
        self.nats_not_compared: str | None = None
        self.degradations: list[Degradation] = []
        self.findings: list[Finding] = []

    def add(self, target: Target, part: Part, opener: Callable[[], Runner], cases: Sequence[Case]) -> None:
        """Add a file.

        Args:
            target: the target that the file runs on.
            part: the part in the file.
            opener: opens the file with the first session options of its target. Files are not kept open, because each
                engine holds a copy of the weights.
            cases: the test cases of the part, with inputs and PyTorch's outputs.
        """
        measured = part in _PARTS_WITH_IMAGES and (target.precision != FULL or self._budget is not None)
        self._files[target, part] = opener, cases if measured else ()

    def measure(self) -> None:
        """Measure all files that were added, and report large degradations."""
        self._compare_nats()
        for (target, part), (opener, cases) in self._files.items():
            if cases:
                self.degradations.append(self._degradation(target, part, opener, cases))

    def _compare_nats(self) -> None:
        """Compare the nats on every target that ran both the encoder and the decoder."""
        both = [target for target, part in self._files if part == "decoder" and (target, "encoder") in self._files]
        if not both:
            self.nats_not_compared = "no target ran both an encoder and a decoder"
            return
        if (reason := why_not_comparable(self._references.source.contract)) is not None:
            self.nats_not_compared = reason
            return
        if not self._plan.images:
            self.nats_not_compared = "it would take longer than the verification may"
            return
        for target in both:
            self.planned += len(METRICS)
            (encoder, _), (decoder, _) = self._files[target, "encoder"], self._files[target, "decoder"]
            options = target.session_options(thorough=False)[0]
            # PyTorch's figures come first, so that its weights are gone when the engine makes its copies.
            self._parity.limits(target.precision)
            self._references.release_weights()
            self.results += self._parity.results(str(target), options, encoder(), decoder(), target.precision)

    def _degradation(
        self, target: Target, part: Part, opener: Callable[[], Runner], cases: Sequence[Case]
    ) -> Degradation:
        figures: dict[str, Any] = {}
        try:
            runner = opener()
            data, contract = self._references.captured.graph(part).spec.outputs[0], self._references.source.contract
            if not data.is_bounded and contract.gives_data and contract.data_range is not None:
                # A decoder may leave the range of the data; applications clip it.
                data = replace(data, low=contract.data_range[0], high=contract.data_range[1])
            if data.is_bounded:
                figures |= pixel_degradation(runner, data, cases)
            if (difference := self._elbo_difference(target, part, runner)) is not None:
                figures |= nats_interval(difference)
            if part == "decoder" and (frechet := self._frechet) is not None:
                figures |= {"frechet": frechet.distance(runner), "frechet_of_samples": frechet.of_samples}
        except Exception as error:  # a file that cannot run has failed its test cases, and also exceeds the budget
            self._warn("no-drift", target, part, describe_fault(error))
            figures = {}
        degradation = Degradation(str(target), part=part, **figures)
        dimensions = math.prod(self._references.source.contract.at().data.fixed_item)
        if (costly := degradation.costly(costly_nats(dimensions))) is not None:
            self._warn("costly", target, part, costly)
        return degradation

    def _elbo_difference(self, target: Target, part: Part, runner: Runner) -> Array | None:
        """Return the −ELBO's error for each real image, (M,); None if it is not defined, or would take too long."""
        source = self._references.source
        if source.images is None or why_not_comparable(source.contract) is not None or not self._plan.images:
            return None
        if part == "autoencoder":
            return self._real_parity.elbo_difference(self._real_parity.nats_of_autoencoder(runner))
        if (target, "encoder") not in self._files:
            return None
        encoder, _ = self._files[target, "encoder"]
        return self._real_parity.elbo_difference(self._real_parity.nats(encoder(), runner))

    def _warn(self, rule: str, target: Target, part: Part, detail: str) -> None:
        finding = Finding(rule, "warning", f"{part} on {target}", detail)
        self.findings.append(finding)
        self._report(finding.line())

    @cached_property
    def _parity(self) -> ElboParity:
        plan, examples = self._plan, self._references.examples(self._plan.images)
        return ElboParity(self._references, examples, plan.noise_samples, self._user_tolerance, plan.perturbations)

    @cached_property
    def _real_parity(self) -> ElboParity:
        # Images are not repeated as in the probe, because copies are not independent.
        source = self._references.source
        if source.images is None:
            raise ModelError("no images to measure nats with", where="source")
        images, noise_samples = _REAL_IMAGES, _REAL_NOISE_SAMPLES
        if self._is_reduced:
            images, noise_samples = self._plan.images, min(noise_samples, self._plan.noise_samples)
        examples = self._references.examples(min(len(source.examples[source.contract.data.name]), images))
        return ElboParity(self._references, examples, noise_samples, self._user_tolerance)

    @cached_property
    def _frechet(self) -> FrechetBaseline | None:
        # It takes two thousand samples, in float64 too.
        return None if self._is_reduced else FrechetBaseline.of(self._references)

    @property
    def _is_reduced(self) -> bool:
        """Whether the network is so slow that the plan has fewer images than usual."""
        return self._plan.images < NatsPlan().images


def pixel_degradation(runner: PartFunction, data: TensorSpec, cases: Sequence[Case]) -> dict[str, Any]:
    """Return the errors of the data of a decoder or an autoencoder.

    Args:
        runner: the file.
        data: the output that is data with a range.
        cases: the test cases of the part; only typical probes at the largest batch size are used.

    Returns:
        The field `psnr` of a `Degradation`, and for images `worst_levels` and `mean_levels`.

    Raises:
        ModelError: the data does not match the contract.
    """
    largest = max(case.batch for case in cases)
    typical = [case for case in cases if case.probe in TYPICAL_PROBES and case.batch == largest]
    differences, squares = [], []
    for case in typical:
        decoded, expected = runner(case.inputs)[data.name], case.expected[data.name]
        data.check(decoded, batch=case.batch)  # a NaN has no level, and numpy would broadcast a single image
        level, expected_level = (to_levels(array, data.low, data.high) for array in (decoded, expected))
        differences.append(np.abs(level - expected_level).ravel())
        squares.append((np.asarray(decoded, np.float64) - expected).ravel() ** 2)
    difference, noise = np.concatenate(differences), float(np.concatenate(squares).mean())
    figures = {"psnr": 10 * math.log10((data.high - data.low) ** 2 / noise) if noise else math.inf}
    if data.is_image:
        figures |= {"worst_levels": int(difference.max()), "mean_levels": float(difference.mean())}
    return figures


def nats_interval(difference: Array) -> dict[str, Any]:
    """Return the mean of the differences (M,) and its 95 % interval as `nats`, `nats_low` and `nats_high`."""
    mean = float(difference.mean())
    reach = _NORMAL_95 * float(difference.std(ddof=1)) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
    return {"nats": mean, "nats_low": mean - reach, "nats_high": mean + reach}


class FrechetBaseline:
    """Fréchet distances between data that PyTorch and a file decode from the same random latents.

    The features of a row are the means that PyTorch's encoder computes for it.

    Args:
        references: what PyTorch computes for the source.
    """

    SAMPLES = 1024
    _SEED = 2

    def __init__(self, references: References) -> None:
        self._references, self._contract = references, references.source.contract.at()
        latents = {  # the seeds of several latents differ
            latent.name: sample((2 * self.SAMPLES, *latent.fixed_item), self._SEED + index)
            for index, latent in enumerate(self._contract.latents)
        }
        conditions = references.examples(self.SAMPLES)
        first, second = (
            conditions | {name: array[start : start + self.SAMPLES] for name, array in latents.items()}
            for start in (0, self.SAMPLES)
        )
        self._inputs, decoder = first, references.oracle("decoder").expected
        self._expected = self._features(decoder, first)
        #: Distance between two sets of PyTorch's own data.
        self.of_samples = frechet_distance(self._expected, self._features(decoder, second))

    @classmethod
    def of(cls, references: References) -> FrechetBaseline | None:
        """Return the distances, or None where the features are not those of a VAE, or too many for the samples."""
        contract = references.source.contract
        units = sum(math.prod(latent.fixed_item) for latent in contract.at().latents)
        if "encoder" not in references.source.parts or why_not_comparable(contract) or units >= cls.SAMPLES:
            return None
        return cls(references)

    def distance(self, decoder: PartFunction) -> float:
        """Return the distance of a decoder's data to PyTorch's."""
        return frechet_distance(self._expected, self._features(decoder, self._inputs))

    def _features(self, decoder: PartFunction, inputs: Mapping[str, Array]) -> Array:
        captured, data = self._references.captured, self._contract.data.name
        decoded = run_rows(decoder, captured.graph("decoder").spec, inputs)[data]
        encoder, given = self._references.oracle("encoder").expected, np.ascontiguousarray(decoded, np.float32)
        outputs = run_rows(encoder, captured.graph("encoder").spec, {**inputs, data: given})
        names = [tensor.name for tensor in self._contract.spec("encoder").outputs[::2]]
        return np.concatenate([np.asarray(outputs[name], np.float64).reshape(len(given), -1) for name in names], 1)
