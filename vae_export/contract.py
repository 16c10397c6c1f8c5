"""The contract: names, dtypes, shapes and ranges of the inputs and outputs of each exported graph.

Exporters take tensor names from the contract, and parity draws inputs that fit it. The runtime checks arguments against
it. The manifest and the metadata of every file store it. This module does not import torch, because applications use it
too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vae_export.errors import ModelError
from vae_export.likelihood import MAX_LEVEL as MAX_LEVEL
from vae_export.likelihood import Array as Array
from vae_export.likelihood import Likelihood

Part = Literal["encoder", "decoder", "autoencoder", "decoder-uint8-hwc", "decoder-uint8-chw"]
#: The parts that every VAE has. They are exported by default.
PARTS: tuple[Part, ...] = ("encoder", "decoder", "autoencoder")
#: Layouts of an 8-bit image: channels last, as a canvas expects them, or channels first.
Pixels = Literal["uint8-hwc", "uint8-chw"]
#: The decoder part that returns uint8 pixels in each layout. The keys are the values of --pixels.
PIXELS: Mapping[Pixels, Part] = {"uint8-hwc": "decoder-uint8-hwc", "uint8-chw": "decoder-uint8-chw"}
#: Every part that a file can hold.
EVERY_PART: tuple[Part, ...] = (*PARTS, *PIXELS.values())
#: How far a pixel may lie outside its range because of float32 rounding, as a fraction of the range.
RANGE_SLACK = 1e-6

#: The name of the dynamic first axis, in every graph and every shape of a manifest.
BATCH = "N"
#: The distribution of latents, N(0, I), as a manifest names it.
PRIOR = "standard normal"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph.

    Attributes:
        name: the name of the tensor in every exported file.
        item: the shape of one row; the whole shape is (N, *item), with N >= 1.
        low, high: the range of the values; infinite if the tensor has no range.
        dtype: float32, or uint8 for 8-bit pixels.
    """

    name: str
    item: tuple[int, ...]
    low: float = -math.inf
    high: float = math.inf
    dtype: Literal["float32", "uint8"] = "float32"

    @property
    def shape(self) -> tuple[int | str, ...]:
        """The whole shape, with the name of the batch axis first."""
        return (BATCH, *self.item)

    @property
    def is_bounded(self) -> bool:
        """Whether the tensor has a finite range, as images do."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "range": [self.low, self.high] if self.is_bounded else None,
        }

    def __str__(self) -> str:
        """Return the name, shape and range, such as "image (N, 1, 28, 28) in [0, 1]"."""
        within = f" in [{self.low:g}, {self.high:g}]" if self.is_bounded else ""
        return f"{self.name} ({', '.join(map(str, self.shape))}){within}"

    def check(self, value: object, *, batch: int | None = None) -> None:
        """Raise `ModelError` unless `value` is a finite array of this dtype and shape.

        Args:
            value: the value from a caller or an engine.
            batch: the required number of rows; None allows any number >= 1.

        Raises:
            ModelError: the value is not an array, is empty, or has another dtype, shape or a number that is not finite.
        """
        import numpy as np

        where = f"tensor '{self.name}'"
        if not isinstance(value, np.ndarray):
            raise ModelError("not an array", where=where, expected="a numpy array", got=type(value).__name__)
        if value.dtype != np.dtype(self.dtype):  # this includes the byte order
            raise ModelError("wrong dtype", where=where, expected=self.dtype, got=value.dtype)
        expected = (batch if batch is not None else BATCH, *self.item)
        if value.ndim != len(expected) or value.shape[1:] != self.item or batch not in (None, value.shape[0]):
            raise ModelError("wrong shape", where=where, expected=expected, got=value.shape)
        if value.shape[0] == 0:
            raise ModelError("empty batch", where=where, expected=f"{BATCH} of 1 and up", got=value.shape)
        # Bytes are always finite, and isfinite() takes as long as computing them.
        if self.dtype == "float32" and not np.isfinite(value).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
            raise ModelError("not finite", where=f"{where} at {index}", expected="finite numbers", got=value[index])

    def out_of_range(self, value: Array) -> Array | None:
        """Return a mask of the numbers that lie outside the range, or None if there are none.

        Numbers may exceed the range by the fraction `RANGE_SLACK`, because float32 arithmetic rounds.

        Args:
            value: finite numbers of any shape.

        Returns:
            A bool mask of the same shape, or None.
        """
        if not self.is_bounded:
            return None
        slack = RANGE_SLACK * (self.high - self.low)
        low, high = self.low - slack, self.high + slack
        if value.min() >= low and value.max() <= high:
            return None
        mask: Array = (value < low) | (value > high)
        return mask


@dataclass(frozen=True)
class PartSpec:
    """The inputs and outputs of one graph, in order."""

    part: Part
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs": [tensor.to_json() for tensor in self.inputs],
            "outputs": [tensor.to_json() for tensor in self.outputs],
        }

    def check_inputs(self, inputs: Mapping[str, Array]) -> int:
        """Check the names of the inputs, and each array with `TensorSpec.check`.

        Args:
            inputs: arrays by name.

        Returns:
            The number of rows.

        Raises:
            ModelError: a name is missing or unknown, or an array does not fit.
        """
        names = [tensor.name for tensor in self.inputs]
        if set(inputs) != set(names):
            raise ModelError("wrong inputs", where=self.part, expected=names, got=sorted(inputs))
        rows = None
        for tensor in self.inputs:
            tensor.check(inputs[tensor.name], batch=rows)
            rows = len(inputs[tensor.name])
        return rows or 0

    def check_ranges(self, inputs: Mapping[str, Array]) -> None:
        """Raise `ModelError` for an input out of range, such as pixels in [0, 255] where the encoder expects [0, 1].

        Args:
            inputs: arrays by name, which `check_inputs` has accepted.
        """
        import numpy as np

        for tensor in self.inputs:
            value, low, high = inputs[tensor.name], tensor.low, tensor.high
            if (mask := tensor.out_of_range(value)) is not None:
                index = tuple(int(i) for i in np.argwhere(mask)[0])
                where, expected = f"tensor '{tensor.name}' at {index}", f"pixels in [{low:g}, {high:g}]"
                do = "scale 8-bit levels by 1/255" if (low, high) == (0, 1) else "scale the pixels"
                raise ModelError("out of range", where=where, expected=expected, got=value[index], do=do)


def float_part(part: Part) -> Part:
    """Return "decoder" for a decoder with uint8 pixels, and any other part unchanged."""
    return "decoder" if part in PIXELS.values() else part


@dataclass(frozen=True)
class Contract:
    """Shapes and ranges of the images and latents of a VAE. The prior is N(0, I).

    Attributes:
        image_shape: (C, H, W) of one image, channels first.
        latent_shape: (Z,), or (C, H, W) where latents are feature maps.
        image_range: lowest and highest value of a pixel: [0, 1] for our models, [-1, 1] for diffusers' AutoencoderKL.
        likelihood: p(x|z); some likelihoods add a second output to the decoder. None means that it is not stated;
            figures in nats then use `Likelihood.usual`.

    Raises:
        ModelError: a shape, the range or the likelihood is not valid.
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
        """Return the inputs and outputs of a part; raise `ModelError` for an unknown part."""
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
        """Return the decoder's second output, with one number for each pixel, or () if the likelihood has none."""
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
        """Return the contract that `to_json` wrote; raise `ModelError` for any other document."""
        try:
            if data["prior"] != PRIOR:
                raise ValueError(f"prior is {data['prior']!r}, not {PRIOR!r}")
            low, high = data["image_range"]
            stated = data.get("likelihood")  # the first versions wrote no likelihood
            likelihood = None if stated is None else Likelihood.from_json(stated)
            return cls(tuple(data["image_shape"]), tuple(data["latent_shape"]), (float(low), float(high)), likelihood)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError("contract cannot be read", got=repr(error)) from error
