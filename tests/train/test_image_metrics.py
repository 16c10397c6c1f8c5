"""Reconstructions and samples are measured as the definitions say, with known answers."""

from __future__ import annotations

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.required import skip_or_fail
from train import image_metrics
from train.image_metrics import measure_images
from vae_export.frechet import frechet_distance

GENERATOR = torch.Generator().manual_seed(0)
PIXELS = torch.randint(0, 256, (120, 1, 12, 12), dtype=torch.uint8, generator=GENERATOR)
OTHERS = torch.randint(0, 256, (70, 1, 12, 12), dtype=torch.uint8, generator=GENERATOR)


class Fake:
    """Its latent is the first pixel and its decoder makes grey images of that level."""

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        first = image[:, 0, 0, :1]
        return first, torch.zeros_like(first)

    def decode(self, latent: Tensor) -> Tensor:
        return latent.clamp(0, 1)[:, :, None, None].expand(-1, 1, 12, 12)

    def reconstruction_nll(self, latent: Tensor, image: Tensor) -> Tensor:
        raise NotImplementedError


class Exact(Fake):
    """Its latent is the image."""

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return image.flatten(1), torch.zeros(len(image), 144)

    def decode(self, latent: Tensor) -> Tensor:
        return latent.reshape(-1, 1, 12, 12)


def test_distance_with_thousands_of_units_is_that_of_fewer_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_metrics, "_FRECHET_VALUES", 2 * 50)
    found, fewer = measure_images(Fake(), PIXELS, OTHERS), measure_images(Fake(), PIXELS[:50], OTHERS[:50])
    assert found.frechet_distance == fewer.frechet_distance
    assert found.frechet_distance_of_images == fewer.frechet_distance_of_images
    assert found.psnr != fewer.psnr


def test_psnr_is_the_mean_over_images() -> None:
    reports: list[int] = []
    found = measure_images(Fake(), PIXELS, OTHERS, report=reports.append)
    image = PIXELS.double().numpy() / 255
    errors = np.square(image - image[:, :, :1, :1]).mean((1, 2, 3))
    assert found.psnr == pytest.approx(np.mean(-10 * np.log10(errors)), rel=1e-5)
    assert reports == [100, 120]


def test_exact_reconstructions_have_100_db() -> None:
    found = measure_images(Exact(), PIXELS, OTHERS)
    assert found.psnr == pytest.approx(100)
    assert found.ssim in (None, pytest.approx(1))


def test_samples_unlike_the_images_are_further_than_other_images() -> None:
    found = measure_images(Fake(), PIXELS, OTHERS)
    first = PIXELS[:70, 0, 0, :1].double().numpy() / 255
    held = OTHERS[:, 0, 0, :1].double().numpy() / 255
    both = [np.concatenate((part, np.zeros_like(part)), 1) for part in (first, held)]
    assert found.frechet_distance_of_images == pytest.approx(frechet_distance(*both), rel=1e-4)
    assert found.frechet_distance > 5 * found.frechet_distance_of_images  # half of the samples are black


def test_ssim_is_that_of_the_paper() -> None:
    if find_spec("skimage") is None:
        skip_or_fail("scikit-image", "pip install '.[train]'")
    from scipy.ndimage import gaussian_filter

    found = measure_images(Fake(), PIXELS[:3], OTHERS)
    assert found.ssim is not None
    expected = []
    for pixels in PIXELS[:3, 0]:
        x = pixels.double().numpy() / 255
        y = np.full_like(x, x[0, 0])

        def blurred(image: np.ndarray) -> np.ndarray:
            return gaussian_filter(image, 1.5, truncate=3.5)[5:-5, 5:-5]

        means = blurred(x), blurred(y)
        variances = blurred(x * x) - means[0] ** 2, blurred(y * y) - means[1] ** 2
        covariance, c1, c2 = blurred(x * y) - means[0] * means[1], 0.01**2, 0.03**2
        numerator = (2 * means[0] * means[1] + c1) * (2 * covariance + c2)
        expected.append((numerator / (means[0] ** 2 + means[1] ** 2 + c1) / (sum(variances) + c2)).mean())
    assert found.ssim == pytest.approx(math.fsum(expected) / 3, abs=1e-5)


def test_small_images_have_no_ssim() -> None:
    class Small(Fake):
        def decode(self, latent: Tensor) -> Tensor:
            return super().decode(latent)[..., :8, :8]

    found = measure_images(Small(), PIXELS[..., :8, :8], OTHERS[..., :8, :8])
    assert found.ssim is None
    assert set(found.to_json()) == {"reconstruction_psnr_db", "frechet_distance", "frechet_distance_of_images"}
