"""Score a model on a set of images: sampled -ELBO, reconstruction, KL and active units, in nats per image.

A checkpoint in PyTorch and its exported ONNX files are scored by the same code, so that the scores can be compared.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
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
    """A model that can be scored: it encodes and decodes, and says how well a latent explains an image."""

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and logvar of q(z|x), each (N, Z) on the CPU, for images (N, C, H, W) in [0, 1]."""

    def decode(self, latent: Tensor) -> Tensor:
        """Return images (N, C, H, W) in [0, 1], on the CPU, for latents (N, Z)."""

    def reconstruction_nll(self, latent: Tensor, image: Tensor) -> Tensor:
        """Return -log p(x|z) in nats, (N,) on the CPU, for latents (N, Z) and images (N, C, H, W)."""


class PyTorchModel:
    """A network on its device. It is in eval mode while any thread scores it; then its mode is restored."""

    def __init__(self, model: VAE) -> None:
        self._model, self._device = model, next(model.parameters()).device
        self._lock, self._scoring, self._was_training = threading.Lock(), 0, model.training

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and logvar of q(z|x), each (N, Z) on the CPU, for images (N, C, H, W) in [0, 1]."""
        with self._evaluating():
            mean, logvar = self._model.encoder(image.to(self._device))
        return mean.cpu(), logvar.cpu()

    def decode(self, latent: Tensor) -> Tensor:
        """Return images (N, C, H, W) in [0, 1], on the CPU, for latents (N, Z)."""
        with self._evaluating():
            image: Tensor = self._model.decoder.image(latent.to(self._device))
        return image.cpu()

    def reconstruction_nll(self, latent: Tensor, image: Tensor) -> Tensor:
        """Return -log p(x|z) in nats, (N,) on the CPU, for latents (N, Z) and images (N, C, H, W)."""
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
    """The ONNX encoder and decoder of an export, run by ONNX Runtime."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._likelihood = model.contract.likelihood or Likelihood.usual(model.contract.image_range)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and logvar of q(z|x), each (N, Z) on the CPU, for images (N, C, H, W) in [0, 1]."""
        mean, logvar = self._model.encode(image.contiguous().numpy())
        return torch.from_numpy(mean), torch.from_numpy(logvar)

    def decode(self, latent: Tensor) -> Tensor:
        """Return images (N, C, H, W) in [0, 1], on the CPU, for latents (N, Z)."""
        return torch.from_numpy(self._model.decode(latent.contiguous().numpy()))

    def reconstruction_nll(self, latent: Tensor, image: Tensor) -> Tensor:
        """Return -log p(x|z) in nats, (N,) on the CPU, for latents (N, Z) and images (N, C, H, W)."""
        outputs = self._model.run("decoder", latent=latent.contiguous().numpy()).values()
        return reconstruction_nll_of_outputs(self._likelihood, tuple(map(torch.from_numpy, outputs)), image)


#: A latent unit is active if the variance of its posterior mean over images exceeds this (Burda et al.,
#: arXiv:1509.00519, section 2 of its experiments).
ACTIVE_VARIANCE = 0.01
#: Seed of the noise, the same for every model and epoch, so that scores depend on the model alone.
_NOISE_SEED = 20_131_220
#: Images that are scored at once, and most values of pixels in them, since large images have large feature maps.
_BATCH, _BATCH_VALUES = 1000, 1 << 22


@dataclass(frozen=True)
class Score:
    """Scores of a model: means over images, in nats, with one sample of z per image.

    Attributes:
        images: number of images.
        negative_elbo: reconstruction + kl; beta is not in it.
        standard_error: standard error of negative_elbo over the images.
        reconstruction: -log p(x|z).
        kl: KL(q(z|x) || p(z)), summed over the latent units.
        unit_variances: variance of each unit's posterior mean over the images, Z numbers.
        unit_kls: KL of each unit, Z numbers; their sum is `kl`.
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
        """The number of latent units whose posterior mean varies by more than `ACTIVE_VARIANCE`."""
        return sum(variance > ACTIVE_VARIANCE for variance in self.unit_variances)

    @property
    def is_finite(self) -> bool:
        """Whether the -ELBO is a finite number."""
        return math.isfinite(self.negative_elbo)

    def units_by_kl(self) -> list[int]:
        """Return the indices of the latent units, the one of most KL first."""
        return sorted(range(len(self.unit_kls)), key=lambda unit: -self.unit_kls[unit])

    def to_json(self) -> dict[str, Any]:
        """Return the score as it is stored in checkpoints, metrics and evaluations."""
        return {
            "images": self.images,
            "negative_elbo_nats_per_image": self.negative_elbo,
            "negative_elbo_standard_error": self.standard_error,
            "reconstruction_nats_per_image": self.reconstruction,
            "kl_nats_per_image": self.kl,
            "active_units": self.active_units,
        }


def evaluate_model(
    model: ScoredModel,
    pixels: Tensor,
    *,
    processes: Processes | None = None,
    report: Callable[[int], None] = lambda _: None,
) -> Score:
    """Score a model on images. PyTorch's global random state is not used.

    Args:
        model: the model.
        pixels: uint8 (N, C, H, W), N ≥ 1.
        processes: the processes that share the work, batch by batch; None is one process. Each returns the score of all
            images, with the bits that one process alone would return.
        report: called after each batch with the number of images up to its end.

    Returns:
        The score, in nats per image.
    """
    processes = processes or Processes()
    images = torch.split(pixels, min(_BATCH, max(1, _BATCH_VALUES // pixels[0].numel())))
    noise = _Noise([len(batch) for batch in images])

    def score(batch: int) -> _BatchScore:
        image = to_unit_range(images[batch])
        mean, logvar = model.encode(image)
        latent = reparameterize(mean, logvar, noise.of(batch, mean.shape[1]))
        scored = _BatchScore.of(model.reconstruction_nll(latent, image), mean, logvar)
        report(sum(map(len, images[: batch + 1])))
        return scored

    batches = processes.split_work(len(images), score)
    reconstruction, kl = torch.cat([one.reconstruction for one in batches]), torch.cat([one.kl for one in batches])
    bound = reconstruction + kl
    images_each = torch.tensor([[len(batch)] for batch in images]).double()
    means = torch.stack([one.mean for one in batches])
    among = images_each * (means - (images_each * means).sum(0) / len(pixels)) ** 2
    within = torch.stack([one.squares for one in batches])
    return Score(
        images=len(pixels),
        negative_elbo=bound.mean().item(),
        standard_error=bound.std(correction=0).item() / len(bound) ** 0.5,
        reconstruction=reconstruction.mean().item(),
        kl=kl.mean().item(),
        unit_variances=tuple(((among + within).sum(0) / len(pixels)).tolist()),
        unit_kls=tuple((torch.stack([one.unit_kls for one in batches]).sum(0) / len(pixels)).tolist()),
    )


class _Noise:
    """Standard normal numbers for batches of images. Each batch has the same ones, whichever batches are asked for."""

    def __init__(self, images: Sequence[int]) -> None:
        self._images, self._drawn = images, 0
        self._generator = torch.Generator().manual_seed(_NOISE_SEED)

    def of(self, batch: int, latent_size: int) -> Tensor:
        """Return the noise of a batch, (N, Z); batches come in ascending order."""
        while self._drawn <= batch:
            noise = torch.randn(self._images[self._drawn], latent_size, generator=self._generator)
            self._drawn += 1
        return noise


@dataclass(frozen=True)
class _BatchScore:
    """The sums over a batch that a score is made of, in float64.

    They take the place of the posteriors, because those of all images would fill the memory where latents are large.

    Attributes:
        reconstruction, kl: of each image, in nats, (N,).
        unit_kls: KL of each latent unit, summed over the images, (Z,).
        mean, squares: mean of each unit's posterior mean over the images, and the sum of squared distances to it, (Z,).
    """

    reconstruction: Tensor
    kl: Tensor
    unit_kls: Tensor
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, reconstruction: Tensor, mean: Tensor, logvar: Tensor) -> _BatchScore:
        units, mean = kl_per_unit(mean, logvar).double(), mean.double()
        squares = mean.var(0, correction=0) * len(mean)
        return cls(reconstruction.double(), units.sum(1), units.sum(0), mean.mean(0), squares)
