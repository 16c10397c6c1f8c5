"""-log p(x), estimated by importance weighting: what figures of different models are compared in.

With K latents z drawn from q(z|x), the bound of Burda et al. (arXiv:1509.00519, equation 8):

    NLL_K(x) = -log mean over K of  p(x|z) p(z) / q(z|x)

It falls towards -log p(x) as K grows; published figures take K = 5,000. Memory does not grow with K: the logarithm of
the sum is carried from one block of latents to the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from train.objective import to_unit
from train.scored import Scored
from vae_export.models import reparameterize

#: Latents that are decoded at once, and at most so many that their images have no more than these numbers.
_ROWS, _NUMBERS = 2048, 2048 * 784
_NOISE_SEED = 1509_00519


@dataclass(frozen=True)
class Evidence:
    """Attributes:
    nll: mean over images, in nats.
    standard_error: of that mean, over images.
    samples: K.
    """

    nll: float
    standard_error: float
    samples: int

    def to_json(self) -> dict[str, Any]:
        return {"nats_per_image": self.nll, "standard_error": self.standard_error, "importance_samples": self.samples}


def importance_weighted(
    model: Scored, pixels: Tensor, samples: int, *, report: Callable[[int], None] = lambda _images: None
) -> Evidence:
    """NLL_K of pixels uint8 (N, C, H, W), K = `samples` ≥ 1; `report` is told how many images are done.

    The noise is the same for every model. The global random state is not touched.
    """
    noise = torch.Generator().manual_seed(_NOISE_SEED)
    rows = max(1, min(_ROWS, _NUMBERS // pixels[0].numel()))
    at_once = max(1, rows // samples)
    found = []
    for start in range(0, len(pixels), at_once):
        image = to_unit(pixels[start : start + at_once])
        found.append(_nll(model, image, samples, rows, noise))
        report(start + len(image))
    nll = torch.cat(found)
    return Evidence(nll.mean().item(), nll.std(correction=0).item() / math.sqrt(len(nll)), samples)


def _nll(model: Scored, image: Tensor, samples: int, rows: int, noise: torch.Generator) -> Tensor:
    """Of images (N, C, H, W), N up to `rows`, which are decoded at once → (N,), float64."""
    mean, logvar = model.encode(image)
    total = torch.full((len(image),), -math.inf, dtype=torch.float64)
    block = rows // len(image)
    for start in range(0, samples, block):
        count = min(block, samples - start)
        draw = torch.randn(count, *mean.shape, generator=noise)
        latent = reparameterize(mean, logvar, draw)
        misfit = model.misfit(latent.flatten(0, 1), image.repeat(count, 1, 1, 1)).reshape(count, len(image))
        # log p(z) - log q(z|x): the constants of the two normals cancel.
        ratio = 0.5 * (draw.double().square() + logvar - latent.double().square()).sum(-1)
        total = torch.logaddexp(total, torch.logsumexp(ratio - misfit, 0))
    return math.log(samples) - total
