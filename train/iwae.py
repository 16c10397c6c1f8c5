"""-log p(x), estimated by importance weighting: what figures of different models are compared in.

With K latents z drawn from q(z|x), the bound of Burda et al. (arXiv:1509.00519, equation 8):

    NLL_K(x) = -log mean over K of  p(x|z) p(z) / q(z|x)

It falls towards -log p(x) as K grows; published figures take K = 5,000. Memory does not grow with K: the logarithm of
the sum is carried from one block of latents to the next.

Nearly all of the time goes into decoding: 50 million images for all of MNIST's test images. So blocks are small enough
for a core's cache, and threads take whole images instead of sharing the sums of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from train.loss import to_unit_range
from train.scoring import ScoredModel
from vae_export.models import reparameterize

#: Latents that are decoded at once, and at most so many that their images have no more than these numbers: family
#: `residual` decodes a quarter more a second than with 2,048, `mlp` as many.
_ROWS, _NUMBERS = 256, 256 * 784
_NOISE_SEED = 1509_00519


@dataclass(frozen=True)
class NllEstimate:
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


def importance_weighted_nll(
    model: ScoredModel,
    pixels: Tensor,
    samples: int,
    *,
    workers: int = 1,
    report: Callable[[int], None] = lambda _images: None,
) -> NllEstimate:
    """NLL_K of pixels uint8 (N, C, H, W), K = `samples` ≥ 1.

    The noise is the same for every model, and depends on an image's place alone: figures of the first images are parts
    of those of all, and do not depend on `workers`. The global random state is not touched.

    Args:
        workers: threads that score images, each on its own; more than one for a model that computes on the CPU.
        report: is told how many images are done.
    """
    rows = max(1, min(_ROWS, _NUMBERS // pixels[0].numel()))
    at_once = max(1, rows // samples)

    def scored(start: int) -> Tensor:
        noise = torch.Generator().manual_seed(_NOISE_SEED + start)
        return _nll(
            model,
            to_unit_range(pixels[start : start + at_once]),
            samples,
            noise,
            at_once=at_once,
            block=rows // at_once,
        )

    found: list[Tensor] = []
    done = 0
    with _spread(workers) as spread:
        for part in spread(scored, range(0, len(pixels), at_once)):
            found.append(part)
            done += len(part)
            report(done)
    nll = torch.cat(found)
    return NllEstimate(nll.mean().item(), nll.std(correction=0).item() / math.sqrt(len(nll)), samples)


@contextmanager
def _spread(workers: int) -> Iterator[Callable[[Callable[[int], Tensor], range], Iterator[Tensor]]]:
    """A `map` whose calls are made by so many threads; torch gives none of them others to help.

    Every worker says so itself: the number is OpenMP's, which keeps one for each thread. One that was set in the main
    thread reaches a worker's matrix products only after it ran some other parallel operator, and until then two
    workers may sum in different orders.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if workers == 1:
            yield map
            return
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(before)


def _nll(
    model: ScoredModel, image: Tensor, samples: int, noise: torch.Generator, *, at_once: int, block: int
) -> Tensor:
    """Of images (N, C, H, W), N up to `at_once`, with `block` latents of each decoded at once → (N,), float64."""
    mean, logvar = model.encode(image)
    total = torch.full((len(image),), -math.inf, dtype=torch.float64)
    for start in range(0, samples, block):
        count = min(block, samples - start)
        # For as many images as there may be: those of a last, smaller part get what they get where others follow.
        draw = torch.randn(count, at_once, *mean.shape[1:], generator=noise)[:, : len(image)]
        latent = reparameterize(mean, logvar, draw)
        reconstruction = model.reconstruction_nll(latent.flatten(0, 1), image.repeat(count, 1, 1, 1)).reshape(
            count, len(image)
        )
        # log p(z) - log q(z|x): the constants of the two normals cancel.
        ratio = 0.5 * (draw.double().square() + logvar - latent.double().square()).sum(-1)
        total = torch.logaddexp(total, torch.logsumexp(ratio - reconstruction, 0))
    return math.log(samples) - total
