"""What each exported graph takes and gives: names, dtypes, shapes, ranges.

This is the one source. Exporters name tensors by it, parity samples inputs by it, the runtime checks arguments
against it, the manifest and the metadata of every file carry it. No torch in here: hosts read it too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from vae_export.errors import ModelError
from vae_export.likelihood import Likelihood

if TYPE_CHECKING:
    import numpy.typing as npt

#: Any numpy array. A name only: the command line reads the parts below without importing numpy.
Array: TypeAlias = "npt.NDArray[Any]"
Part = Literal["encoder", "decoder", "autoencoder"]
PARTS: tuple[Part, ...] = ("encoder", "decoder", "autoencoder")

#: The name of the dynamic first axis, in every graph and every shape of a manifest.
BATCH = "N"
#: What latents are drawn from: N(0, I).
PRIOR = "standard normal"


@dataclass(frozen=True)
class TensorSpec:
    """One named input or output: float32, shape (N, *item), N dynamic, 1 and up."""

    name: str
    item: tuple[int, ...]
    low: float = -math.inf
    high: float = math.inf

    @property
    def shape(self) -> tuple[int | str, ...]:
        return (BATCH, *self.item)

    @property
    def is_bounded(self) -> bool:
        """Whether it has a range: images do."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "dtype": "float32",
            "shape": list(self.shape),
            "range": [self.low, self.high] if self.is_bounded else None,
        }

    def check(self, value: object, *, batch: int | None = None) -> None:
        """Raise `ModelError` unless `value` is a finite float32 array of this shape (and of this batch size), N ≥ 1."""
        import numpy as np

        where = f"tensor '{self.name}'"
        if not isinstance(value, np.ndarray):
            raise ModelError("not an array", where=where, expected="a numpy array", got=type(value).__name__)
        if value.dtype != np.dtype("=f4"):
            raise ModelError("wrong dtype", where=where, expected="float32", got=value.dtype)
        expected = (batch if batch is not None else BATCH, *self.item)
        if value.ndim != len(expected) or value.shape[1:] != self.item or batch not in (None, value.shape[0]):
            raise ModelError("wrong shape", where=where, expected=expected, got=value.shape)
        if value.shape[0] == 0:
            raise ModelError("empty batch", where=where, expected=f"{BATCH} of 1 and up", got=value.shape)
        if not np.isfinite(value).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
            raise ModelError("not finite", where=f"{where} at {index}", expected="finite numbers", got=value[index])


@dataclass(frozen=True)
class PartSpec:
    """Inputs and outputs of one graph, in order."""

    part: Part
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs": [tensor.to_json() for tensor in self.inputs],
            "outputs": [tensor.to_json() for tensor in self.outputs],
        }


@dataclass(frozen=True)
class Contract:
    """What a VAE's encoder and decoder exchange with the world.

    Attributes:
        image_shape: (C, H, W) of one image, channels first.
        latent_shape: (Z,), or (C, H, W) where latents are feature maps. The prior is N(0, I).
        image_range: lowest and highest value of a pixel; ours is [0, 1], diffusers' AutoencoderKL has [-1, 1].
        likelihood: p(x|z), which decides what the decoder gives beside the image. None: not stated; figures in nats
            then take `Likelihood.usual`.
    """

    image_shape: tuple[int, ...]
    latent_shape: tuple[int, ...]
    image_range: tuple[float, float] = (0.0, 1.0)
    likelihood: Likelihood | None = None

    def __post_init__(self) -> None:
        for name, shape in (("image_shape", self.image_shape), ("latent_shape", self.latent_shape)):
            if not shape or not all(type(size) is int and size > 0 for size in shape):
                raise ModelError("bad contract", where=name, expected="positive sizes", got=shape)
        if len(self.image_shape) != 3:
            raise ModelError("bad contract", where="image_shape", expected="(C, H, W)", got=self.image_shape)
        low, high = self.image_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ModelError("bad contract", where="image_range", expected="low < high", got=self.image_range)
        if not isinstance(self.likelihood, Likelihood | None):
            raise ModelError("bad contract", where="likelihood", expected="a Likelihood", got=self.likelihood)
        if self.likelihood == Likelihood("bernoulli") and self.image_range != (0.0, 1.0):
            got = f"range {self.image_range}"
            raise ModelError("bad contract", where="likelihood bernoulli", expected="pixels in [0, 1]", got=got)

    def spec(self, part: Part) -> PartSpec:
        """Inputs and outputs of `part`; raises `ModelError` for a part there is not."""
        image = TensorSpec("image", self.image_shape, *self.image_range)
        latent, noise, mean, logvar = (
            TensorSpec(name, self.latent_shape) for name in ("latent", "noise", "mean", "logvar")
        )
        match part:
            case "encoder":
                return PartSpec(part, (image,), (mean, logvar))
            case "decoder":
                return PartSpec(part, (latent,), (image, *self._spread("image")))
            case "autoencoder":
                reconstruction = TensorSpec("reconstruction", self.image_shape, *self.image_range)
                outputs = (reconstruction, mean, logvar, latent, *self._spread("reconstruction"))
                return PartSpec(part, (image, noise), outputs)
        raise ModelError("unknown part", expected=" | ".join(PARTS), got=part)

    def _spread(self, image: str) -> tuple[TensorSpec, ...]:
        """What the likelihood needs beside the image, one number a pixel: `image_logvar`, for example."""
        if self.likelihood is None or self.likelihood.spread is None:
            return ()
        return (TensorSpec(f"{image}_{self.likelihood.spread}", self.image_shape),)

    def to_json(self) -> dict[str, Any]:
        return {
            "image_shape": list(self.image_shape),
            "image_range": list(self.image_range),
            "latent_shape": list(self.latent_shape),
            "prior": PRIOR,
            "likelihood": None if self.likelihood is None else self.likelihood.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Contract:
        """The inverse of `to_json`; raises `ModelError` for anything else."""
        try:
            if data["prior"] != PRIOR:
                raise ValueError(f"prior is {data['prior']!r}, not {PRIOR!r}")
            low, high = data["image_range"]
            stated = data.get("likelihood")  # manifests of the first versions have none
            likelihood = None if stated is None else Likelihood.from_json(stated)
            return cls(tuple(data["image_shape"]), tuple(data["latent_shape"]), (float(low), float(high)), likelihood)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError("contract cannot be read", got=repr(error)) from error
