"""What a file costs a person who looks at its images, and one who reads its nats.

A band says that a file computes what its precision can. It does not say that this is good enough: eight bits may cost
twenty grey levels of a pixel and still be all that eight bits can do. So each file of lower precision also has its
figures in units that somebody cares about, and a budget in those units can fail it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vae_export.contract import Array, Part, TensorSpec
from vae_export.errors import UsageError
from vae_export.formats.base import Runner
from vae_export.grey import levels
from vae_export.parity.probes import ORDINARY
from vae_export.parity.reference import Reference

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
class Drift:
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

    def excesses(self, budget: Budget) -> list[str]:
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


def pixels(runner: Runner, image: TensorSpec, cases: Sequence[Reference]) -> dict[str, Any]:
    """The figures of the images that a decoder or an autoencoder gives: `worst_levels`, `mean_levels`, `psnr`.

    Raises `ModelError` for images that do not keep the contract, which have no such figures.
    """
    largest = max(case.batch for case in cases)
    ordinary = [case for case in cases if case.probe in ORDINARY and case.batch == largest]
    differences, squares = [], []
    for case in ordinary:
        decoded, exact = runner(case.inputs)[image.name], case.exact[image.name]
        image.check(decoded, batch=case.batch)  # a NaN has no level, and numpy would broadcast one image over all
        level, expected = (levels(array, image.low, image.high) for array in (decoded, exact))
        differences.append(np.abs(level - expected))
        squares.append((np.asarray(decoded, np.float64) - exact) ** 2)
    difference, square = np.concatenate(differences), np.concatenate(squares)
    noise = float(square.mean())
    return {
        "worst_levels": int(difference.max()),
        "mean_levels": float(difference.mean()),
        "psnr": 10 * math.log10((image.high - image.low) ** 2 / noise) if noise else math.inf,
    }


def nats(difference: Array) -> dict[str, Any]:
    """Mean and 95 % interval of the differences (M,) of single images: `nats`, `nats_low`, `nats_high`."""
    mean = float(difference.mean())
    reach = _NORMAL_95 * float(difference.std(ddof=1)) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
    return {"nats": mean, "nats_low": mean - reach, "nats_high": mean + reach}


class Samples:
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
