"""The inputs that parity is checked with: named families of (image, latent, noise), one for every part to take from.

    probe      latent                                       image                          noise
    prior      drawn from N(0, I)                           what the decoder makes of it   drawn
    posterior  mean + noise · exp(logvar / 2) of real ones  its reconstruction             drawn
    data       the mean of real images                      real images                    drawn
    zeros      zeros                                        zeros, or the range's middle   zeros
    six-sigma  +6 or -6 in every unit                       what the decoder makes of it   +6 or -6

The images are in the contract's range. Where a source has no encoder or no decoder, a probe has what can be made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vae_export.contract import Array, Part, PartSpec
from vae_export.graphs import Graph, Source
from vae_export.parity.oracle import evaluate

#: Six standard deviations: one prior draw in 500 million lies further out.
FAR = 6.0
_SEED = 1312_6114  # the paper's arXiv number; any fixed seed does


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


def make_probes(source: Source, graphs: Mapping[Part, Graph], count: int) -> tuple[Probe, ...]:
    """Every probe with `count` inputs; the same each time for the same source and graphs."""
    rng = np.random.default_rng(_SEED)
    contract = source.contract

    def normal() -> Array:
        return rng.standard_normal((count, *contract.latent_shape), dtype=np.float32)

    def encode(image: Array) -> tuple[Array | None, Array | None]:
        if "encoder" not in graphs:
            return None, None
        outputs = evaluate(graphs["encoder"], {"image": image})
        return outputs["mean"], outputs["logvar"]

    def decode(latent: Array | None) -> Array | None:
        if latent is None or "decoder" not in graphs:
            return None
        # Clipped: a decoder without a final squashing can leave the range that an encoder's input has.
        return np.clip(evaluate(graphs["decoder"], {"latent": latent})["image"], *contract.image_range)

    images = _images(source, count, rng)
    mean, logvar = encode(images)
    prior, noise = normal(), normal()
    with np.errstate(over="ignore"):  # an unbounded logvar overflows; the verifier says so by name
        posterior = None if mean is None or logvar is None else mean + noise * np.exp(logvar / 2)
    zeros = np.zeros_like(prior)
    far = np.where(normal() < 0, -FAR, FAR).astype(np.float32)
    low, high = contract.image_range
    blank = np.full_like(images, 0.0 if low <= 0.0 <= high else (low + high) / 2)
    return (
        Probe("prior", decode(prior), prior, normal()),
        Probe("posterior", decode(posterior), posterior, noise),
        Probe("data", images, mean, normal()),
        Probe("zeros", blank, zeros, zeros),
        Probe("six-sigma", decode(far), far, far),
    )


def _images(source: Source, count: int, rng: np.random.Generator) -> Array:
    """`count` real images, repeated if there are fewer; uniform noise where there are none, as the certificate says."""
    if source.images is not None:
        return np.resize(source.images, (count, *source.contract.image_shape))
    low, high = source.contract.image_range
    return rng.uniform(low, high, (count, *source.contract.image_shape)).astype(np.float32)
