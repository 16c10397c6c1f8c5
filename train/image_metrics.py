"""Measure the images that a model makes: reconstructions by PSNR and SSIM, samples by a Fréchet distance.

Scores in nats judge the whole distribution and mean little to an eye; these figures judge what is seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from train.loss import to_unit_range
from train.scoring import ScoredModel
from vae_export.frechet import frechet_distance
from vae_export.system.extras import missing

#: Side of the window of SSIM: a Gaussian of 1.5 pixels, cut at 3.5 deviations. Smaller images have no SSIM.
_SSIM_WINDOW = 11
#: Images whose SSIM is computed: the mean of so many is known to a hundredth, and each takes milliseconds.
_SSIM_IMAGES = 500
#: Images and samples that distances are computed from.
_FRECHET_IMAGES = 10_000
#: Most numbers in the features of so many images: with thousands of latent units, fewer images are compared.
_FRECHET_VALUES = 1 << 23
#: Images that are encoded or decoded at once.
_BATCH = 100
_SAMPLE_SEED = 0
#: The mean squared error below which a reconstruction counts as exact: a PSNR of 100 dB.
_EXACT = 1e-10


@dataclass(frozen=True)
class ImageMetrics:
    """Distances between a model's images and real ones.

    Attributes:
        psnr: peak signal-to-noise ratio of reconstructions from the posterior mean, in dB; mean over the images.
        ssim: structural similarity of the first 500 of them (Wang et al. 2004), 1 for equal images; None for images
            whose shorter side has fewer than 11 pixels, and without scikit-image.
        frechet_distance: distance of as many images and samples of the prior, in the encoder's features; 0 is best.
        frechet_distance_of_images: the same between those images and as many others: the best that can be had.
    """

    psnr: float
    ssim: float | None
    frechet_distance: float
    frechet_distance_of_images: float

    def to_json(self) -> dict[str, float]:
        """Return the figures as evaluations store them."""
        figures = {"reconstruction_psnr_db": self.psnr, "reconstruction_ssim": self.ssim}
        figures |= {
            "frechet_distance": self.frechet_distance,
            "frechet_distance_of_images": self.frechet_distance_of_images,
        }
        return {name: value for name, value in figures.items() if value is not None}


def measure_images(
    model: ScoredModel, pixels: Tensor, others: Tensor, *, report: Callable[[int], None] = lambda _: None
) -> ImageMetrics:
    """Compare reconstructions with images, and samples with images.

    Args:
        model: the model.
        pixels: uint8 (N, C, H, W), N ≥ 2.
        others: other images of the same data set, uint8 (M, C, H, W), M ≥ 2.
        report: called with the number of images of `pixels` that are done.

    Returns:
        The figures. Distances are those of min(N, M, 10,000) images, or fewer with thousands of latent units.
    """
    psnr: list[Tensor] = []
    ssim: list[float] = []
    real: list[Tensor] = []
    for batch in pixels.split(_BATCH):
        image = to_unit_range(batch)
        mean, logvar = model.encode(image)
        size = mean.shape[1]
        count = min(len(pixels), len(others), _FRECHET_IMAGES, max(2, _FRECHET_VALUES // (2 * size)))
        if sum(map(len, real)) < count:
            real.append(torch.cat((mean, logvar), 1))
        reconstruction = model.decode(mean)
        psnr.append(_psnr(reconstruction, image))
        ssim += _ssim(reconstruction[: _SSIM_IMAGES - len(ssim)], image)
        report(sum(map(len, psnr)))
    noise = torch.randn(count, size, generator=torch.Generator().manual_seed(_SAMPLE_SEED))
    samples = [_features(model, model.decode(latent)) for latent in noise.split(_BATCH)]
    apart = [_features(model, to_unit_range(batch)) for batch in others[:count].split(_BATCH)]
    known, drawn, held = (torch.cat(parts)[:count].double().numpy() for parts in (real, samples, apart))
    return ImageMetrics(
        psnr=torch.cat(psnr).double().mean().item(),
        ssim=math.fsum(ssim) / len(ssim) if ssim else None,
        frechet_distance=frechet_distance(known, drawn),
        frechet_distance_of_images=frechet_distance(known, held),
    )


def _features(model: ScoredModel, image: Tensor) -> Tensor:
    """Return what the encoder says of images: mean and logvar side by side, (N, 2Z).

    A sample that lacks detail is often given the mean of a real image, but seldom its variance.
    """
    return torch.cat(model.encode(image), 1)


def _psnr(reconstruction: Tensor, image: Tensor) -> Tensor:
    """Return 10 log10(1 / MSE) of each image, (N,)."""
    return -10 * (reconstruction - image).square().flatten(1).mean(1).clamp(min=_EXACT).log10()


def _ssim(reconstruction: Tensor, image: Tensor) -> list[float]:
    """Return the structural similarity of each reconstruction, with the window and constants of Wang et al."""
    if min(image.shape[2:]) < _SSIM_WINDOW or missing("train", "skimage") is not None:
        return []
    from skimage.metrics import structural_similarity

    options: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    pairs = zip(reconstruction.numpy(), image.numpy(), strict=False)  # there may be fewer reconstructions
    return [float(structural_similarity(a, b, data_range=1.0, channel_axis=0, **options)) for a, b in pairs]
