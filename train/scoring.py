"""A model as its scores see it: a posterior for each image, and how badly a latent explains an image.

The same figures are asked of a checkpoint in PyTorch and of its exported ONNX files, so that the two can be compared.

The figures that are reported of a model on a set of images.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from train.distributed import Processes
from train.loss import kl_per_unit, reconstruction_nll, reconstruction_nll_of_outputs, to_unit_range
from vae_export.likelihood import Likelihood
from vae_export.models import VAE, reparameterize
from vae_export.runtime import Model


class ScoredModel(Protocol):
    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image (N, C, H, W) in [0, 1] → mean, logvar of q(z|x), each (N, Z), on the CPU."""

    def reconstruction_nll(self, latent: Tensor, image: Tensor) -> Tensor:
        """-log p(x|z) in nats, of latent (N, Z) and image (N, C, H, W) → (N,), on the CPU."""


class PyTorchModel:
    """A network on its device, in eval mode while any thread scores it; then its mode is given back as it was."""

    def __init__(self, model: VAE) -> None:
        self._model, self._device = model, next(model.parameters()).device
        self._lock, self._scoring, self._was_training = threading.Lock(), 0, model.training

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        with self._evaluating():
            mean, logvar = self._model.encoder(image.to(self._device))
        return mean.cpu(), logvar.cpu()

    def decode(self, latent: Tensor) -> Tensor:
        """latent (N, Z) → image (N, C, H, W) in [0, 1], on the CPU."""
        with self._evaluating():
            image: Tensor = self._model.decoder.image(latent.to(self._device))
        return image.cpu()

    def reconstruction_nll(self, latent: Tensor, image: Tensor) -> Tensor:
        with self._evaluating():
            raw = self._model.decoder.raw(latent.to(self._device))
            return reconstruction_nll(self._model.config.likelihood, raw, image.to(self._device)).cpu()

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        with self._lock:
            if self._scoring == 0:
                self._was_training = self._model.training
                self._model.eval()
            self._scoring += 1
        try:
            with torch.no_grad():
                yield
        finally:
            with self._lock:
                self._scoring -= 1
                if self._scoring == 0:
                    self._model.train(self._was_training)


class ExportedModel:
    """The encoder and decoder of an export, run by ONNX Runtime."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._likelihood = model.contract.likelihood or Likelihood.usual(model.contract.image_range)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self._model.encode(image.contiguous().numpy())
        return torch.from_numpy(mean), torch.from_numpy(logvar)

    def reconstruction_nll(self, latent: Tensor, image: Tensor) -> Tensor:
        outputs = self._model.run("decoder", latent=latent.contiguous().numpy()).values()
        return reconstruction_nll_of_outputs(self._likelihood, tuple(map(torch.from_numpy, outputs)), image)


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


def evaluate_model(model: ScoredModel, pixels: Tensor, *, processes: Processes | None = None) -> Score:
    """Score `model` on pixels uint8 (N, C, H, W), N ≥ 1. The global random state is not touched.

    Processes take batches in turns; each gets the score of all images, to the bit what one alone would have found.
    """
    processes = processes or Processes()
    images = torch.split(pixels, _BATCH)
    posteriors = processes.split_work(len(images), lambda batch: model.encode(to_unit_range(images[batch])))
    generator = torch.Generator().manual_seed(_NOISE_SEED)
    noise = [torch.randn(mean.shape, generator=generator) for mean, _ in posteriors]
    latents = [reparameterize(*posterior, own) for posterior, own in zip(posteriors, noise, strict=True)]
    reconstructions = processes.split_work(
        len(images), lambda batch: model.reconstruction_nll(latents[batch], to_unit_range(images[batch]))
    )
    reconstruction, mean, logvar = (torch.cat([*parts]) for parts in (reconstructions, *zip(*posteriors, strict=True)))
    reconstruction, mean, units = reconstruction.double(), mean.double(), kl_per_unit(mean, logvar).double()
    bound = reconstruction + units.sum(1)
    return Score(
        images=len(pixels),
        negative_elbo=bound.mean().item(),
        standard_error=bound.std(correction=0).item() / len(bound) ** 0.5,
        reconstruction=reconstruction.mean().item(),
        kl=units.sum(1).mean().item(),
        unit_variances=tuple(mean.var(0, correction=0).tolist()),
        unit_kls=tuple(units.mean(0).tolist()),
    )
