"""The likelihood p(x|z) of an image, and the decoder outputs that are its parameters.

    bernoulli            image: probability that a pixel is 1
    gaussian             image: mean; image_logvar: log variance of each pixel
    gaussian-fixed       image: mean; the standard deviation is `scale` for every pixel
    discretised-logistic image: location; image_log_scale: log scale of each pixel; a probability for each of 256
                         levels (Salimans et al., arXiv:1701.05517, section 2.1, with one component)
    discretised-logistic-colour
                         the same outputs; the green level of a pixel is known when its red and blue are judged, whose
                         locations are moved by as much as green is off (section 2.2, with a fixed coefficient of 1, as
                         lossless codecs subtract green). Equal to discretised-logistic unless there are three channels

The first output is always `image`, in the contract's range, so that an application that only shows images can ignore
the second output. This module does not import torch, because applications use it too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from vae_export.errors import ModelError

if TYPE_CHECKING:
    import numpy.typing as npt

#: Any numpy array. The alias is a string, so that the command line can import this module without numpy.
Array: TypeAlias = "npt.NDArray[Any]"

LikelihoodName = Literal[
    "bernoulli", "gaussian", "gaussian-fixed", "discretised-logistic", "discretised-logistic-colour"
]
LIKELIHOODS: tuple[LikelihoodName, ...] = get_args(LikelihoodName)

#: The suffix of a decoder's second output, after "image_" or "reconstruction_". The output has one number per pixel.
SPREADS: Mapping[str, str] = {
    "gaussian": "logvar",
    "discretised-logistic": "log_scale",
    "discretised-logistic-colour": "log_scale",
}
#: Default standard deviation of `gaussian-fixed`, for pixels in [0, 1].
SCALE = 0.1
#: The highest level of an 8-bit pixel. The lowest is 0.
MAX_LEVEL = 255
#: The channel of three that `discretised-logistic-colour` judges first.
GREEN = 1
#: Bernoulli means are clipped to [2^-24, 1 - 2^-24], so that their logarithms are finite. 1 - 2^-24 is the largest
#: float32 number below 1.
CLOSEST = 2.0**-24


@dataclass(frozen=True)
class Likelihood:
    """The distribution of a pixel, given the decoder's outputs.

    Attributes:
        name: one of `LIKELIHOODS`.
        scale: standard deviation of `gaussian-fixed`, in units of the image; 1 for the others, which do not use it.

    Raises:
        ModelError: an unknown name, or a scale that is not allowed.
    """

    name: LikelihoodName = "bernoulli"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in LIKELIHOODS:
            raise ModelError("unknown likelihood", expected=" | ".join(LIKELIHOODS), got=self.name)
        if type(self.scale) is not float or not 0 < self.scale < math.inf:
            raise ModelError("bad scale of a likelihood", expected="a number above 0", got=self.scale)
        if self.name != "gaussian-fixed" and self.scale != 1.0:
            raise ModelError("only gaussian-fixed has a scale", where=self.name, got=self.scale)

    @classmethod
    def usual(cls, image_range: tuple[float, float] | None) -> Likelihood:
        """Return the default for contracts without a likelihood: Bernoulli for [0, 1], else a unit-variance Gaussian.

        Args:
            image_range: lowest and highest value of the data; None for data without a range.
        """
        return cls("bernoulli" if image_range == (0.0, 1.0) else "gaussian-fixed")

    def sees_green(self, shape: Sequence[int]) -> bool:
        """Whether red and blue are judged by green in images of this shape, (…, C, H, W)."""
        return self.name == "discretised-logistic-colour" and len(shape) > 2 and shape[-3] == 3

    @property
    def is_of_levels(self) -> bool:
        """Whether it gives each of the 256 levels of an 8-bit pixel a probability."""
        return self.spread == "log_scale"

    @property
    def spread(self) -> str | None:
        """The suffix of the decoder's second output: "logvar", "log_scale", or None without a second output."""
        return SPREADS.get(self.name)

    def log_prob(self, x: Array, image: Array, spread: Array | None, *, low: float = 0.0, high: float = 1.0) -> Array:
        """Compute log p(x|z) of each pixel.

        Args:
            x: pixels in [low, high], (…, C, H, W) for discretised-logistic-colour, of any shape for the others.
            image: the decoder's first output, of a shape that broadcasts with x.
            spread: the decoder's second output, or None if this likelihood has none.
            low, high: the range of pixels.

        Returns:
            log p(x|z) in nats, float64, of the broadcast shape.

        Raises:
            ModelError: `spread` is missing.
        """
        import numpy as np

        x, mean = np.asarray(x, np.float64), np.asarray(image, np.float64)
        if self.name == "bernoulli":
            mean = np.clip(mean, CLOSEST, 1 - CLOSEST)
            bernoulli: Array = x * np.log(mean) + (1 - x) * np.log1p(-mean)
            return bernoulli
        if self.name == "gaussian-fixed":
            logvar: Array = np.asarray(2 * math.log(self.scale))
        elif spread is None:
            raise ModelError("a decoder's output is missing", where=self.name, expected=f"image_{self.spread}")
        elif self.name == "gaussian":
            logvar = np.asarray(spread, np.float64)
        else:
            if self.sees_green(x.shape):
                off = (x - mean)[..., GREEN : GREEN + 1, :, :]
                mean = mean + np.where(np.arange(3)[:, None, None] == GREEN, 0, off)
            return _discretised_logistic(x, mean, np.asarray(spread, np.float64), low, high)
        gaussian: Array = -0.5 * ((x - mean) ** 2 * np.exp(-logvar) + logvar + math.log(2 * math.pi))
        return gaussian

    def __str__(self) -> str:
        return f"{self.name} of scale {self.scale:g}" if self.name == "gaussian-fixed" else self.name

    def to_json(self) -> dict[str, Any]:
        """Return the likelihood as JSON: its name, and the scale of `gaussian-fixed`."""
        return {"name": self.name} | ({"scale": self.scale} if self.name == "gaussian-fixed" else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Likelihood:
        """Return the likelihood that `to_json` wrote; raise `ModelError`, `KeyError` or `TypeError` otherwise.

        Other keys are ignored: a later version may add some.
        """
        if data["name"] == "gaussian-fixed" or "scale" in data:
            if type(data["scale"]) not in (int, float):
                raise TypeError(f"scale of a likelihood is {data['scale']!r}")
            return cls(data["name"], float(data["scale"]))
        return cls(data["name"])


def _discretised_logistic(x: Array, mean: Array, log_scale: Array, low: float, high: float) -> Array:
    """Compute the log probability of the interval from half a level below x to half a level above it.

    The intervals of the lowest and the highest level extend to infinity. With the logistic function s, the code uses
    s(a) - s(b) = s(a) s(-b) (1 - exp(b - a)), which avoids cancellation.
    """
    import numpy as np

    half = (high - low) / MAX_LEVEL / 2
    inverse = np.exp(-log_scale)
    above, below = (x + half - mean) * inverse, (x - half - mean) * inverse
    inside = -np.log(-np.expm1(-2 * half * inverse))
    # -log s(t) = log(1 + exp(-t))
    cost = np.where(x < high - half, np.logaddexp(0, -above), 0) + np.where(x > low + half, np.logaddexp(0, below), 0)
    between = (x > low + half) & (x < high - half)
    result: Array = -cost - np.where(between, inside, 0)
    return result
