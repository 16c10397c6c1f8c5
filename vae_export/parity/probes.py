"""The inputs that parity is checked with: named families of (image, latent, noise) from which every part takes its own.

    probe          latent                                       image                          noise
    prior          drawn from N(0, I)                           decoded from the latent        drawn
    posterior      mean + noise · exp(logvar / 2) of real ones  its reconstruction             drawn
    data           the mean of real images                      real images                    drawn
    zeros          zeros                                        zeros, or the range's middle   zeros
    six-sigma      +6 or -6 in every unit                       decoded from the latent        +6 or -6
    interpolation  between posterior means of real images       decoded from the latent        zeros
    one-hot        one unit at 1, the others at 0               one pixel at its highest       one unit at 1
    smallest       the smallest normal float32, either sign     the range's low, a step above  the smallest
    largest        2^8 below where PyTorch overflows            the range's highest            +6 or -6

Images are in the contract's range. Without an encoder or a decoder, a probe has what can still be made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from vae_export.capture import Graph
from vae_export.contract import Array, Part, PartSpec
from vae_export.errors import ModelError
from vae_export.parity.oracle import evaluate_graph
from vae_export.precision import CALIBRATED, PrecisionName
from vae_export.sources import Source

#: Six standard deviations: one prior draw in 500 million lies further out.
SIX_SIGMA = 6.0
#: The smallest float32 with full precision. Engines may flush smaller numbers to zero.
SMALLEST = float(np.finfo(np.float32).smallest_normal)
#: Powers of two between the largest probe and PyTorch's overflow: another order of summation may overflow earlier.
_HEADROOM = 8
#: Inputs of each typical probe that calibration takes, and how many real images it needs to be of use.
CALIBRATION_ROWS, MIN_CALIBRATION_IMAGES = 64, 16
#: Probes that look like the inputs of an application.
TYPICAL_PROBES = ("prior", "posterior", "data", "interpolation")
_SEED = 1312_6114  # the arXiv number of Kingma & Welling; any fixed seed does

#: Input arrays by name, for each part.
CalibrationInputs: TypeAlias = Mapping[Part, Mapping[str, Array]]


@dataclass(frozen=True)
class Probe:
    """One family of inputs.

    Attributes:
        name: name of the family.
        image: float32 (M, C, H, W); None where it cannot be made, as for `latent` and `noise`.
        latent, noise: float32 (M, *latent).
    """

    name: str
    image: Array | None
    latent: Array | None
    noise: Array | None

    def inputs(self, spec: PartSpec, batch: int) -> dict[str, Array] | None:
        """Return the first `batch` inputs of a part by name; None where this probe lacks one of them."""
        arrays = {"image": self.image, "latent": self.latent, "noise": self.noise}
        inputs: dict[str, Array] = {}
        for tensor in spec.inputs:
            array = arrays[tensor.name]
            if array is None:
                return None
            inputs[tensor.name] = array[:batch]
        return inputs


# Overflow is no warning here: numbers that are not finite are refused where they are used, with their names.
@np.errstate(over="ignore", invalid="ignore")
def make_probes(source: Source, graphs: Mapping[Part, Graph], count: int) -> tuple[Probe, ...]:
    """Make every probe with `count` inputs; equal sources and graphs give equal probes.

    Args:
        source: gives the contract and the images.
        graphs: the captured parts of the source.
        count: M, inputs of each probe.
    """
    rng = np.random.default_rng(_SEED)
    contract = source.contract
    low, high = contract.image_range

    def normal() -> Array:
        return rng.standard_normal((count, *contract.latent_shape), dtype=np.float32)

    def encode(image: Array) -> tuple[Array | None, Array | None]:
        if "encoder" not in graphs:
            return None, None
        outputs = evaluate_graph(graphs["encoder"], {"image": image})
        return outputs["mean"], outputs["logvar"]

    def decode(latent: Array | None) -> Array | None:
        if latent is None or "decoder" not in graphs:
            return None
        # Clipped: a decoder without a final squashing can leave the range that an encoder's input has.
        image: Array = np.clip(evaluate_graph(graphs["decoder"], {"latent": latent})["image"], low, high)
        return image

    images = data_images(source, count, rng)
    mean, logvar = encode(images)
    prior, noise = normal(), normal()
    posterior = None if mean is None or logvar is None else mean + noise * np.exp(logvar / 2)
    between = None if mean is None else _interpolated(mean)
    zeros = np.zeros_like(prior)
    signs = np.where(normal() < 0, -1, 1).astype(np.float32)
    far, tiny = SIX_SIGMA * signs, SMALLEST * signs
    blank = np.full_like(images, 0.0 if low <= 0.0 <= high else (low + high) / 2)
    one_unit, one_pixel = _one_hot(zeros, 1.0), _one_hot(np.full_like(images, low), high)
    lowest = np.full_like(images, SMALLEST if low == 0 else np.nextafter(np.float32(low), np.float32(high)))
    highest = np.full_like(images, high)
    return (
        Probe("prior", decode(prior), prior, normal()),
        Probe("posterior", decode(posterior), posterior, noise),
        Probe("data", images, mean, normal()),
        Probe("zeros", blank, zeros, zeros),
        Probe("six-sigma", decode(far), far, far),
        Probe("interpolation", decode(between), between, zeros),
        Probe("one-hot", one_pixel, one_unit, one_unit),
        Probe("smallest", lowest, tiny, tiny),
        Probe("largest", highest, _largest(graphs, signs), far),
    )


def data_images(source: Source, count: int, rng: np.random.Generator | None = None) -> Array:
    """Return the images of the probe `data`, float32 (count, C, H, W).

    They are the source's, repeated if there are fewer. Without any they are uniform noise, and the certificate says so.
    """
    if source.images is not None:
        return np.resize(source.images, (count, *source.contract.image_shape))
    low, high = source.contract.image_range
    rng = np.random.default_rng(_SEED) if rng is None else rng
    return rng.uniform(low, high, (count, *source.contract.image_shape)).astype(np.float32)


def probes_out_of_range(precision: PrecisionName) -> tuple[str, ...]:
    """Return the names of the probes that numbers of a precision cannot hold.

    `largest` is made for float32's range, which bf16 shares; float16 ends at 65,504, and integers at the range that
    they were scaled for. A calibrated file clips what calibration did not see, by an error that no rounding explains.
    """
    if precision in CALIBRATED:
        return "six-sigma", "largest"
    return () if precision in ("fp32", "bf16") else ("largest",)


def probes_in_range(probes: Sequence[Probe], precision: PrecisionName) -> tuple[Probe, ...]:
    """Return the probes that numbers of a precision can hold."""
    return tuple(probe for probe in probes if probe.name not in probes_out_of_range(precision))


def check_calibration_images(source: Source) -> None:
    """Raise `ModelError` where a source has an encoder, and too few images to know typical inputs of it."""
    images = 0 if source.images is None else len(source.images)
    if "encoder" in source.parts and images < MIN_CALIBRATION_IMAGES:
        raise ModelError(
            "too few images to calibrate with",
            expected=f"{MIN_CALIBRATION_IMAGES} at least",
            got=images,
            do="give the source real images, or take int8, which needs none",
        )


def calibration_inputs(graphs: Mapping[Part, Graph], probes: Sequence[Probe]) -> dict[Part, dict[str, Array]]:
    """Return the inputs of each part that ranges of activations are found with: all typical probes, one after another.

    Args:
        graphs: the captured parts of a source.
        probes: its probes with `CALIBRATION_ROWS` inputs.

    Returns:
        float32 arrays (N, *item) by part and name.

    Raises:
        ModelError: inputs that are not finite.
    """
    typical = [probe for probe in probes if probe.name in TYPICAL_PROBES]
    calibration: dict[Part, dict[str, Array]] = {}
    for part, graph in graphs.items():
        available = [probe.inputs(graph.spec, CALIBRATION_ROWS) for probe in typical]
        inputs = [arrays for arrays in available if arrays is not None]
        calibration[part] = {
            tensor.name: np.concatenate([arrays[tensor.name] for arrays in inputs]) for tensor in graph.spec.inputs
        }
        for name, array in calibration[part].items():
            if not np.isfinite(array).all():
                raise ModelError("inputs to calibrate with are not finite", where=f"{part}, '{name}'")
    return calibration


def _interpolated(latent: Array) -> Array:
    """Move each latent towards the next one, by 0 at the first to 1 at the last."""
    steps = np.linspace(0, 1, len(latent), dtype=np.float32).reshape(-1, *(1,) * (latent.ndim - 1))
    between: Array = latent + steps * (np.roll(latent, -1, axis=0) - latent)
    return between


def _one_hot(background: Array, value: float) -> Array:
    """Return the background, with another single entry of each row at `value`."""
    rows = background.reshape(len(background), -1).copy()
    # A step that shares no factor with most sizes spreads few rows over all entries.
    entries = np.arange(len(rows)) * 97 % rows.shape[1]
    rows[np.arange(len(rows)), entries] = value
    return rows.reshape(background.shape)


def _largest(graphs: Mapping[Part, Graph], signs: Array) -> Array:
    """Return latents of these signs, `_HEADROOM` powers of two below where the decoder's float32 image overflows."""
    if "decoder" not in graphs:
        return SIX_SIGMA * signs
    for exponent in range(127, 2, -1):
        latent = (signs * 2.0**exponent).astype(np.float32)
        if np.isfinite(evaluate_graph(graphs["decoder"], {"latent": latent})["image"]).all():
            return (signs * 2.0 ** max(exponent - _HEADROOM, 0)).astype(np.float32)
    return SIX_SIGMA * signs
