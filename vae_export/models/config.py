"""The configuration from which the network of a VAE is built. This module can be imported without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from vae_export.contract import Contract
from vae_export.errors import InputError, ModelError, UsageError, VaeExportError
from vae_export.likelihood import Likelihood

Family = Literal["mlp", "blog", "conv", "residual", "resnet", "pyramid"]
FAMILIES: tuple[Family, ...] = get_args(Family)
#: Current family names by the names in checkpoints and training states of earlier versions.
RENAMED_FAMILIES: dict[str, Family] = {"post": "blog"}

Activation = Literal["relu", "tanh", "silu"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)

#: Fields that checkpoints of the first versions lack. Their defaults apply then.
_LATER = {"activation", "likelihood"}

#: `conv` and `residual` halve the image twice; `resnet` and `pyramid` once, and then as often as they can.
CONV_STRIDE = 4
_STRIDES: dict[Family, int] = {"conv": CONV_STRIDE, "residual": CONV_STRIDE, "resnet": 2, "pyramid": 2}
#: The usual latent size of `pyramid` is not above this.
_MOST_PYRAMID_UNITS = 1 << 15


@dataclass(frozen=True)
class VAEConfig:
    """The network of a VAE.

    Attributes:
        family: one of `FAMILIES`.
        image_shape: (C, H, W).
        latent_size: Z, the number of latent units.
        hidden_size: width of the fully connected layers; the most channels of a feature map in `pyramid`.
        activation: activation between layers, one of `ACTIVATIONS`.
        likelihood: p(x|z), which decides whether the decoder has an output beside the image.

    Raises:
        UsageError: a value out of range, or one that the family does not support.
    """

    family: Family = "mlp"
    image_shape: tuple[int, int, int] = (1, 28, 28)
    latent_size: int = 20
    hidden_size: int = 400
    activation: Activation = "relu"
    likelihood: Likelihood = field(default_factory=Likelihood)

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise UsageError("unknown family", expected=" | ".join(FAMILIES), got=self.family)
        sizes: tuple[int, ...] = self.image_shape
        if len(sizes) != 3 or any(type(size) is not int or size < 1 for size in sizes):
            raise UsageError("bad image shape", expected="(C, H, W), each 1 or more", got=sizes)
        for name in ("latent_size", "hidden_size"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise UsageError(f"bad {name.replace('_', ' ')}", expected="1 or more", got=value)
        if self.activation not in ACTIVATIONS:
            raise UsageError("unknown activation", expected=" | ".join(ACTIVATIONS), got=self.activation)
        if self.family == "blog" and (self.activation, self.likelihood.name) != ("relu", "bernoulli"):
            raise UsageError("family 'blog' supports only relu and bernoulli", do="use --family mlp")
        stride = _STRIDES.get(self.family, 1)
        if any(size % stride for size in self.image_shape[1:]):
            raise UsageError(
                f"image size does not fit family {self.family}",
                expected=f"height and width divisible by {stride}",
                got=" x ".join(map(str, self.image_shape[1:])),
                do="choose another --image-size or --family mlp",
            )
        if self.family == "pyramid" and self.latent_size > math.prod(self.image_shape):
            expected = f"at most the {math.prod(self.image_shape):,} values of an image"
            raise UsageError("latent size does not fit family pyramid", expected=expected, got=self.latent_size)

    @property
    def contract(self) -> Contract:
        """The contract of the network's parts: images in [0, 1], latents (Z,), and the likelihood."""
        return Contract(self.image_shape, (self.latent_size,), likelihood=self.likelihood)

    def to_json(self) -> dict[str, Any]:
        """Return the config as the JSON object of a checkpoint."""
        return asdict(self) | {"image_shape": list(self.image_shape), "likelihood": self.likelihood.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> VAEConfig:
        """Return the config that `to_json` wrote; raise `InputError` for unknown, missing or bad fields."""
        known = {field.name for field in fields(cls)}
        if not known - _LATER <= set(data) <= known:
            raise InputError("config does not fit", expected=sorted(known), got=sorted(data))
        image_shape = data["image_shape"]
        if not isinstance(image_shape, list) or len(image_shape) != 3:
            raise InputError("config does not fit", where="image_shape", expected="[C, H, W]", got=image_shape)
        changed: dict[str, Any] = {"image_shape": tuple(image_shape)}
        if isinstance(data["family"], str):
            changed["family"] = RENAMED_FAMILIES.get(data["family"], data["family"])
        try:
            if "likelihood" in data:
                changed["likelihood"] = Likelihood.from_json(data["likelihood"])
            return cls(**{**data, **changed})
        except (UsageError, ModelError, KeyError, TypeError, ValueError) as error:
            got = error.line() if isinstance(error, VaeExportError) else repr(error)
            raise InputError("config does not fit", got=got) from error


def pyramid_sizes(image_shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Return height and width of the images of family `pyramid` for images (C, H, W), the smallest first."""
    sizes = [image_shape[1:]]
    while not any(side % 2 for side in sizes[0]):
        sizes.insert(0, (sizes[0][0] // 2, sizes[0][1] // 2))
    return sizes


def usual_latent_size(family: Family, image_shape: tuple[int, int, int]) -> int:
    """Return the number of latent units of a family for images (C, H, W), where none is asked for.

    20; in `pyramid` as many as the values of the image of half the size, and the four first of the details of each of
    its pixels, but not above 32,768.
    """
    if family != "pyramid":
        return 20
    channels, height, width = image_shape
    return min((channels + min(3 * channels, 4)) * (height // 2) * (width // 2), _MOST_PYRAMID_UNITS)
