"""p(x|z): what a decoder's outputs say about an image, and by which names an exported decoder gives them.

    bernoulli            image: probability that a pixel is 1
    gaussian             image: mean; image_logvar: log of the variance, of each pixel
    gaussian-fixed       image: mean; the deviation is `scale` everywhere
    discretised-logistic image: location; image_log_scale: log of the scale, of each pixel; a probability for each of
                         256 levels (Salimans et al., arXiv:1701.05517, section 2.1, with one component)

The first output is always `image`, in the contract's range: whoever only wants pictures need not know the rest. No
torch in here: hosts read it too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from vae_export.errors import ModelError

if TYPE_CHECKING:
    import numpy.typing as npt

    Array: TypeAlias = npt.NDArray[Any]

LikelihoodName = Literal["bernoulli", "gaussian", "gaussian-fixed", "discretised-logistic"]
LIKELIHOODS: tuple[LikelihoodName, ...] = get_args(LikelihoodName)

#: What a decoder says of each pixel beside the image, as it is called after "image_" and "reconstruction_".
SPREADS: Mapping[str, str] = {"gaussian": "logvar", "discretised-logistic": "log_scale"}
#: Deviation of `gaussian-fixed` where nothing else is said, for pixels in [0, 1].
SCALE = 0.1
#: Levels of a pixel less one, for the discretised logistic.
STEPS = 255
#: A float32 sigmoid cannot tell 1 - 2^-24 from 1; the logarithm of what is left must stay finite.
CLOSEST = 2.0**-24


@dataclass(frozen=True)
class Likelihood:
    """Attributes:
    name: one of `LIKELIHOODS`.
    scale: deviation of `gaussian-fixed`, in the image's unit; 1 and without meaning for the others.
    """

    name: LikelihoodName = "bernoulli"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in LIKELIHOODS:
            raise ModelError("unknown likelihood", expected=" | ".join(LIKELIHOODS), got=self.name)
        if type(self.scale) is not float or not 0 < self.scale < math.inf:
            raise ModelError("bad scale of a likelihood", expected="a number above 0", got=self.scale)
        if self.name != "gaussian-fixed" and self.scale != 1.0:
            raise ModelError("a scale is for gaussian-fixed", where=self.name, got=self.scale)

    @classmethod
    def usual(cls, image_range: tuple[float, float]) -> Likelihood:
        """What is taken where a contract does not say: Bernoulli for [0, 1], else a Gaussian of deviation 1."""
        return cls("bernoulli" if image_range == (0.0, 1.0) else "gaussian-fixed")

    @property
    def spread(self) -> str | None:
        """What the decoder says of each pixel beside the image: "logvar", "log_scale", or None."""
        return SPREADS.get(self.name)

    def log_prob(self, x: Array, image: Array, spread: Array | None, *, low: float = 0.0, high: float = 1.0) -> Array:
        """log p(x|z) of each pixel, in nats, float64; shapes as numpy broadcasts them.

        Args:
            x: pixels in [low, high].
            image, spread: the decoder's outputs; `spread` is None where this likelihood has none.
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
            return _discretised_logistic(x, mean, np.asarray(spread, np.float64), low, high)
        gaussian: Array = -0.5 * ((x - mean) ** 2 * np.exp(-logvar) + logvar + math.log(2 * math.pi))
        return gaussian

    def __str__(self) -> str:
        return f"{self.name} of scale {self.scale:g}" if self.name == "gaussian-fixed" else self.name

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name} | ({"scale": self.scale} if self.name == "gaussian-fixed" else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Likelihood:
        """The inverse of `to_json`; raises `ModelError`, `KeyError`, `TypeError`."""
        if unknown := set(data) - {"name", "scale"}:
            raise ModelError("likelihood cannot be read", got=f"unknown {', '.join(map(repr, sorted(unknown)))}")
        return cls(data["name"], **({"scale": float(data["scale"])} if "scale" in data else {}))


def _discretised_logistic(x: Array, mean: Array, log_scale: Array, low: float, high: float) -> Array:
    """log of the logistic's mass between half a level below x and half a level above; the outermost levels take all.

    With s the logistic function: s(a) - s(b) = s(a) s(-b) (1 - exp(b - a)), where nothing cancels.
    """
    import numpy as np

    half = (high - low) / STEPS / 2
    inverse = np.exp(-log_scale)
    above, below = (x + half - mean) * inverse, (x - half - mean) * inverse
    inside = -np.log(-np.expm1(-2 * half * inverse))
    # -log s(t) = log(1 + exp(-t))
    cost = np.where(x < high - half, np.logaddexp(0, -above), 0) + np.where(x > low + half, np.logaddexp(0, below), 0)
    between = (x > low + half) & (x < high - half)
    result: Array = -cost - np.where(between, inside, 0)
    return result
