"""A model as its scores see it: a posterior for each image, and how badly a latent explains an image.

The same figures are asked of a checkpoint in PyTorch and of its exported ONNX files, so that the two can be compared.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from train.objective import reconstruction, reconstruction_of
from vae_export.likelihood import Likelihood
from vae_export.models import VAE
from vae_export.runtime import Model


class Scored(Protocol):
    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image (N, C, H, W) in [0, 1] → mean, logvar of q(z|x), each (N, Z), on the CPU."""

    def misfit(self, latent: Tensor, image: Tensor) -> Tensor:
        """-log p(x|z) in nats, of latent (N, Z) and image (N, C, H, W) → (N,), on the CPU."""


class InPyTorch:
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

    def misfit(self, latent: Tensor, image: Tensor) -> Tensor:
        with self._evaluating():
            raw = self._model.decoder.raw(latent.to(self._device))
            return reconstruction(self._model.config.likelihood, raw, image.to(self._device)).cpu()

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


class Exported:
    """The encoder and decoder of an export, run by ONNX Runtime."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._likelihood = model.contract.likelihood or Likelihood.usual(model.contract.image_range)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self._model.encode(image.contiguous().numpy())
        return torch.from_numpy(mean), torch.from_numpy(logvar)

    def misfit(self, latent: Tensor, image: Tensor) -> Tensor:
        outputs = self._model.run("decoder", latent=latent.contiguous().numpy()).values()
        return reconstruction_of(self._likelihood, tuple(map(torch.from_numpy, outputs)), image)
