"""The figures that are reported of a model on a set of images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from train.objective import kl, to_unit
from train.processes import Processes
from train.scored import Scored
from vae_export.models import reparameterize

#: A latent unit is active if the variance of its posterior mean over images exceeds this (Burda et al.,
#: arXiv:1509.00519, section 2 of its experiments).
ACTIVE_VARIANCE = 0.01
#: Own noise, the same for every model and epoch, so that scores differ by the model alone.
_NOISE_SEED = 20_131_220
_BATCH = 1000


@dataclass(frozen=True)
class Score:
    """Means over `images` images, in nats; one sample of z an image.

    Attributes:
        negative_elbo: reconstruction + kl, z sampled. No beta in it.
        standard_error: of negative_elbo, over images.
        unit_variances: variance of each latent unit's posterior mean over the images, Z numbers.
        unit_kls: KL of each latent unit, Z numbers; their sum is `kl`.
    """

    images: int
    negative_elbo: float
    standard_error: float
    reconstruction: float
    kl: float
    unit_variances: tuple[float, ...]
    unit_kls: tuple[float, ...]

    @property
    def active_units(self) -> int:
        return sum(variance > ACTIVE_VARIANCE for variance in self.unit_variances)

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.negative_elbo)

    def units_by_activity(self) -> list[int]:
        """Indices of the latent units, the most active first."""
        return sorted(range(len(self.unit_variances)), key=lambda unit: -self.unit_variances[unit])

    def units_by_kl(self) -> list[int]:
        """Indices of the latent units, the one with most KL first."""
        return sorted(range(len(self.unit_kls)), key=lambda unit: -self.unit_kls[unit])

    def to_json(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "negative_elbo_nats_per_image": self.negative_elbo,
            "negative_elbo_standard_error": self.standard_error,
            "reconstruction_nats_per_image": self.reconstruction,
            "kl_nats_per_image": self.kl,
            "active_units": self.active_units,
        }


def evaluate(model: Scored, pixels: Tensor, *, processes: Processes | None = None) -> Score:
    """Score `model` on pixels uint8 (N, C, H, W), N ≥ 1. The global random state is not touched.

    Processes take batches in turns; each gets the score of all images, to the bit what one alone would have found.
    """
    processes = processes or Processes()
    images = torch.split(pixels, _BATCH)
    posteriors = processes.shared(len(images), lambda batch: model.encode(to_unit(images[batch])))
    generator = torch.Generator().manual_seed(_NOISE_SEED)
    noise = [torch.randn(mean.shape, generator=generator) for mean, _ in posteriors]
    latents = [reparameterize(*posterior, own) for posterior, own in zip(posteriors, noise, strict=True)]
    misfits = processes.shared(len(images), lambda batch: model.misfit(latents[batch], to_unit(images[batch])))
    misfit, mean, logvar = (torch.cat([*parts]) for parts in (misfits, *zip(*posteriors, strict=True)))
    misfit, mean, units = misfit.double(), mean.double(), kl(mean, logvar).double()
    bound = misfit + units.sum(1)
    return Score(
        images=len(pixels),
        negative_elbo=bound.mean().item(),
        standard_error=bound.std(correction=0).item() / len(bound) ** 0.5,
        reconstruction=misfit.mean().item(),
        kl=units.sum(1).mean().item(),
        unit_variances=tuple(mean.var(0, correction=0).tolist()),
        unit_kls=tuple(units.mean(0).tolist()),
    )
