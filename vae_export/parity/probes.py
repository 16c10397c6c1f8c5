"""The probes that parity is checked with: named families of (image, latent, noise), of which each part uses its inputs.

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

Images are in the contract's range. Without an encoder or a decoder, a probe has only the arrays that can be made.
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
#: Powers of two between the largest probe and PyTorch's overflow, because another summation order may overflow earlier.
_HEADROOM = 8
#: Number of inputs of each typical probe that calibration uses, and the least number of real images that it needs.
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
        image: float32 (M, C, H, W), or None if it cannot be made.
        latent, noise: float32 (M, *latent), or None if they cannot be made.
    """

    name: str
    image: Array | None
    latent: Array | None
    noise: Array | None

    def inputs(self, spec: PartSpec, batch: int) -> dict[str, Array] | None:
        """Return the first `batch` inputs of a part by name, or None if this probe lacks one of them."""
        arrays = {"image": self.image, "latent": self.latent, "noise": self.noise}
        inputs: dict[str, Array] = {}
        for tensor in spec.inputs:
            array = arrays[tensor.name]
            if array is None:
                return None
            inputs[tensor.name] = array[:batch]
        return inputs


# Overflow gives no warning here, because numbers that are not finite are refused later with their names.
@np.errstate(over="ignore", invalid="ignore")
def make_probes(source: Source, graphs: Mapping[Part, Graph], count: int) -> tuple[Probe, ...]:
    """Make every probe with `count` inputs; equal sources and graphs give equal probes.

    Args:
        source: the source, which has the contract and the images.
        graphs: the captured parts of the source.
        count: M, the number of inputs of each probe.

    Returns:
        The probes.
    """
    rng = np.random.default_rng(_SEED)
    contract = source.contract
    low, high = contract.image_range

    def normal() -> Array:
        return rng.standard_normal((count, *contract.latents[0].fixed_item), dtype=np.float32)

    def encode(image: Array) -> tuple[Array | None, Array | None]:
        if "encoder" not in graphs:
            return None, None
        outputs = evaluate_graph(graphs["encoder"], {"image": image})
        return outputs["mean"], outputs["logvar"]

    def decode(latent: Array | None) -> Array | None:
        if latent is None or "decoder" not in graphs:
            return None
        # A decoder without a final squashing function can leave the range of an encoder's input.
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

    They are the source's images, repeated if there are fewer than `count`. Without any images they are uniform noise,
    and the certificate says so.
    """
    if source.images is not None:
        return np.resize(source.images, (count, *source.contract.image_shape))
    low, high = source.contract.image_range
    rng = np.random.default_rng(_SEED) if rng is None else rng
    return rng.uniform(low, high, (count, *source.contract.image_shape)).astype(np.float32)


def probes_out_of_range(precision: PrecisionName) -> tuple[str, ...]:
    """Return the names of the probes that a precision cannot represent.

    `largest` is made for the range of float32, which bf16 shares. float16 ends at 65,504, and integers end at the
    range that they were scaled for. A calibrated file clips values beyond its calibration range, and rounding does not
    explain that error.
    """
    if precision in CALIBRATED:
        return "six-sigma", "largest"
    return () if precision in ("fp32", "bf16") else ("largest",)


def probes_in_range(probes: Sequence[Probe], precision: PrecisionName) -> tuple[Probe, ...]:
    """Return the probes that a precision can represent."""
    return tuple(probe for probe in probes if probe.name not in probes_out_of_range(precision))


def check_calibration_images(source: Source) -> None:
    """Raise `ModelError` if a source has an encoder and fewer than `MIN_CALIBRATION_IMAGES` images."""
    images = 0 if source.images is None else len(source.images)
    if "encoder" in source.parts and images < MIN_CALIBRATION_IMAGES:
        raise ModelError(
            "too few images to calibrate with",
            expected=f"{MIN_CALIBRATION_IMAGES} at least",
            got=images,
            do="give the source real images, or take int8, which needs none",
        )


def calibration_inputs(graphs: Mapping[Part, Graph], probes: Sequence[Probe]) -> dict[Part, dict[str, Array]]:
    """Return the inputs of each part from which activation ranges are measured: all typical probes, concatenated.

    Args:
        graphs: the captured parts of a source.
        probes: the probes of the source, with `CALIBRATION_ROWS` inputs.

    Returns:
        float32 arrays (N, *item) by part and name.

    Raises:
        ModelError: inputs are not finite.
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
    """Return each latent moved towards the next one, by a share that rises from 0 (first row) to 1 (last row)."""
    steps = np.linspace(0, 1, len(latent), dtype=np.float32).reshape(-1, *(1,) * (latent.ndim - 1))
    between: Array = latent + steps * (np.roll(latent, -1, axis=0) - latent)
    return between


def _one_hot(background: Array, value: float) -> Array:
    """Return the background with one entry of each row set to `value`; the entry moves from row to row."""
    rows = background.reshape(len(background), -1).copy()
    # The step shares no factor with most sizes, so that a few rows spread over all entries.
    entries = np.arange(len(rows)) * 97 % rows.shape[1]
    rows[np.arange(len(rows)), entries] = value
    return rows.reshape(background.shape)


def _largest(graphs: Mapping[Part, Graph], signs: Array) -> Array:
    """Return latents with these signs, `_HEADROOM` powers of two below the size at which the decoder overflows."""
    if "decoder" not in graphs:
        return SIX_SIGMA * signs
    for exponent in range(127, 2, -1):
        latent = (signs * 2.0**exponent).astype(np.float32)
        if np.isfinite(evaluate_graph(graphs["decoder"], {"latent": latent})["image"]).all():
            return (signs * 2.0 ** max(exponent - _HEADROOM, 0)).astype(np.float32)
    return SIX_SIGMA * signs
