"""The inputs that parity is checked with: named families of (image, latent, noise), one for every part to take from.

    probe          latent                                       image                          noise
    prior          drawn from N(0, I)                           what the decoder makes of it   drawn
    posterior      mean + noise · exp(logvar / 2) of real ones  its reconstruction             drawn
    data           the mean of real images                      real images                    drawn
    zeros          zeros                                        zeros, or the range's middle   zeros
    six-sigma      +6 or -6 in every unit                       what the decoder makes of it   +6 or -6
    interpolation  between posterior means of real images       what the decoder makes of it   zeros
    one-hot        one unit at 1, the others at 0               one pixel at its highest       one unit at 1
    smallest       the smallest normal float32, either sign     the range's low, a step above  the smallest
    largest        2^8 below where PyTorch overflows            the range's highest            +6 or -6

The images are in the contract's range. Where a source has no encoder or no decoder, a probe has what can be made.
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
from vae_export.system.threads import one_thread

#: Six standard deviations: one prior draw in 500 million lies further out.
SIX_SIGMA = 6.0
#: The smallest float32 with full precision. What lies below it, engines may flush to zero.
SMALLEST = float(np.finfo(np.float32).smallest_normal)
#: Powers of two between the largest probe and PyTorch's overflow: another order of summation may overflow earlier.
_HEADROOM = 8
#: Rows of each ordinary probe that calibrate, and images without which they would say little.
CALIBRATION_ROWS, MIN_CALIBRATION_IMAGES = 64, 16
_SEED = 1312_6114  # the paper's arXiv number; any fixed seed does


#: Inputs of each part by name.
CalibrationInputs: TypeAlias = Mapping[Part, Mapping[str, Array]]


@dataclass(frozen=True)
class Probe:
    """Arrays of one length M, float32: image (M, C, H, W), latent and noise (M, *latent); None cannot be made."""

    name: str
    image: Array | None
    latent: Array | None
    noise: Array | None

    def inputs(self, spec: PartSpec, batch: int) -> dict[str, Array] | None:
        """The first `batch` inputs of a part by name; None if this probe has none for it."""
        arrays = {"image": self.image, "latent": self.latent, "noise": self.noise}
        inputs: dict[str, Array] = {}
        for tensor in spec.inputs:
            array = arrays[tensor.name]
            if array is None:
                return None
            inputs[tensor.name] = array[:batch]
        return inputs


# Quiet: what is not finite is refused by name, by whoever takes it.
@np.errstate(over="ignore", invalid="ignore")
def make_probes(source: Source, graphs: Mapping[Part, Graph], count: int) -> tuple[Probe, ...]:
    """Every probe with `count` inputs; the same each time for the same source and graphs."""
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

    images = _images(source, count, rng)
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


#: Probes that look like what an application gives: ranges of activations are found with them.
TYPICAL_PROBES = ("prior", "posterior", "data", "interpolation")


def probes_out_of_range(precision: PrecisionName) -> tuple[str, ...]:
    """The probes that numbers of a precision cannot hold: `largest` is made for float32's range.

    bf16 has the same; float16 ends at 65,504, and integers at the range that they were scaled for. What was calibrated
    clips whatever calibration did not see, and how far off that is no rounding says.
    """
    if precision in CALIBRATED:
        return "six-sigma", "largest"
    return () if precision in ("fp32", "bf16") else ("largest",)


def probes_in_range(probes: Sequence[Probe], precision: PrecisionName) -> tuple[Probe, ...]:
    """The probes that numbers of a precision can hold."""
    return tuple(probe for probe in probes if probe.name not in probes_out_of_range(precision))


@one_thread()
def calibration_inputs(source: Source, graphs: Mapping[Part, Graph]) -> dict[Part, dict[str, Array]]:
    """Inputs by name, for each part, as an application would have them: all ordinary probes, one behind the other.

    Raises `ModelError` where there are too few images to say what images are like, or numbers that are not finite.
    """
    images = 0 if source.images is None else len(source.images)
    if "encoder" in graphs and images < MIN_CALIBRATION_IMAGES:
        raise ModelError(
            "too few images to calibrate with",
            expected=f"{MIN_CALIBRATION_IMAGES} at least",
            got=images,
            do="give the source real images, or take int8, which needs none",
        )
    ordinary = [probe for probe in make_probes(source, graphs, CALIBRATION_ROWS) if probe.name in TYPICAL_PROBES]
    calibrated: dict[Part, dict[str, Array]] = {}
    for part, graph in graphs.items():
        found = [probe.inputs(graph.spec, CALIBRATION_ROWS) for probe in ordinary]
        given = [inputs for inputs in found if inputs is not None]
        names = [tensor.name for tensor in graph.spec.inputs]
        calibrated[part] = {name: np.concatenate([inputs[name] for inputs in given]) for name in names}
        for name, array in calibrated[part].items():
            if not np.isfinite(array).all():
                raise ModelError("inputs to calibrate with are not finite", where=f"{part}, '{name}'")
    return calibrated


def _images(source: Source, count: int, rng: np.random.Generator) -> Array:
    """`count` real images, repeated if there are fewer; uniform noise where there are none, as the certificate says."""
    if source.images is not None:
        return np.resize(source.images, (count, *source.contract.image_shape))
    low, high = source.contract.image_range
    return rng.uniform(low, high, (count, *source.contract.image_shape)).astype(np.float32)


def _interpolated(latent: Array) -> Array:
    """Each latent moved towards the next one, by 0 at the first to 1 at the last."""
    steps = np.linspace(0, 1, len(latent), dtype=np.float32).reshape(-1, *(1,) * (latent.ndim - 1))
    between: Array = latent + steps * (np.roll(latent, -1, axis=0) - latent)
    return between


def _one_hot(background: Array, value: float) -> Array:
    """The background, with another single entry of each row at `value`."""
    rows = background.reshape(len(background), -1).copy()
    # A step that shares no factor with most sizes spreads few rows over all entries.
    entries = np.arange(len(rows)) * 97 % rows.shape[1]
    rows[np.arange(len(rows)), entries] = value
    return rows.reshape(background.shape)


def _largest(graphs: Mapping[Part, Graph], signs: Array) -> Array:
    """Latents as large as the decoder's float32 output allows, `_HEADROOM` powers of two below, with these signs."""
    if "decoder" not in graphs:
        return SIX_SIGMA * signs
    for exponent in range(127, 2, -1):
        latent = (signs * 2.0**exponent).astype(np.float32)
        if np.isfinite(evaluate_graph(graphs["decoder"], {"latent": latent})["image"]).all():
            return (signs * 2.0 ** max(exponent - _HEADROOM, 0)).astype(np.float32)
    return SIX_SIGMA * signs
