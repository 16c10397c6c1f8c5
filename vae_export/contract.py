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
Part = Literal["encoder", "decoder", "autoencoder", "decoder-uint8-hwc", "decoder-uint8-chw"]
#: What every VAE has, and what is exported where nothing else is said.
PARTS: tuple[Part, ...] = ("encoder", "decoder", "autoencoder")
#: Bytes in place of a float32 image: the layout of one image, channels last as a canvas takes them, or first.
Pixels = Literal["uint8-hwc", "uint8-chw"]
#: The decoder that gives such bytes, by what is typed after --pixels.
PIXELS: Mapping[Pixels, Part] = {"uint8-hwc": "decoder-uint8-hwc", "uint8-chw": "decoder-uint8-chw"}
#: All that a file can be.
EVERY_PART: tuple[Part, ...] = (*PARTS, *PIXELS.values())
#: The highest of the levels that a byte has for a pixel; the lowest is 0.
MAX_LEVEL = 255

#: The name of the dynamic first axis, in every graph and every shape of a manifest.
BATCH = "N"
#: What latents are drawn from: N(0, I).
PRIOR = "standard normal"


@dataclass(frozen=True)
class TensorSpec:
    """One named input or output: shape (N, *item), N dynamic, 1 and up; float32, or the uint8 of bytes for a screen."""

    name: str
    item: tuple[int, ...]
    low: float = -math.inf
    high: float = math.inf
    dtype: Literal["float32", "uint8"] = "float32"

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
            "dtype": self.dtype,
            "shape": list(self.shape),
            "range": [self.low, self.high] if self.is_bounded else None,
        }

    def check(self, value: object, *, batch: int | None = None) -> None:
        """Raise `ModelError` unless `value` is a finite array of this dtype, shape and batch size, N ≥ 1."""
        import numpy as np

        where = f"tensor '{self.name}'"
        if not isinstance(value, np.ndarray):
            raise ModelError("not an array", where=where, expected="a numpy array", got=type(value).__name__)
        if value.dtype != np.dtype(self.dtype):  # of the machine's own byte order
            raise ModelError("wrong dtype", where=where, expected=self.dtype, got=value.dtype)
        expected = (batch if batch is not None else BATCH, *self.item)
        if value.ndim != len(expected) or value.shape[1:] != self.item or batch not in (None, value.shape[0]):
            raise ModelError("wrong shape", where=where, expected=expected, got=value.shape)
        if value.shape[0] == 0:
            raise ModelError("empty batch", where=where, expected=f"{BATCH} of 1 and up", got=value.shape)
        # A byte is always finite, and to ask numpy takes as long as to make it.
        if self.dtype == "float32" and not np.isfinite(value).all():
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


def float_part(part: Part) -> Part:
    """The part that computes the same without rounding it to bytes: what a file is held against, and tested with."""
    return "decoder" if part in PIXELS.values() else part


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
            case "decoder-uint8-hwc":
                channels, *sizes = self.image_shape
                return PartSpec(part, (latent,), (TensorSpec("pixels", (*sizes, channels), 0, MAX_LEVEL, "uint8"),))
            case "decoder-uint8-chw":
                return PartSpec(part, (latent,), (TensorSpec("pixels", self.image_shape, 0, MAX_LEVEL, "uint8"),))
        raise ModelError("unknown part", expected=" | ".join(EVERY_PART), got=part)

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
