"""Collect the errors of a decoder's data for the HTML page: by size, and for images by pixel, with the images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vae_export.contract import Array

#: Edges of the histogram's bins: powers of ten of the distance to float64. Zero counts below the first edge.
HISTOGRAM_EDGES = np.linspace(-12, 0, 97)
#: Number of images that are shown.
SHOWN = 8


@dataclass(frozen=True)
class ErrorMap:
    """The errors of one decoder on one target, over all probes.

    Attributes:
        worst: the largest distance to float64.
        exported, eager: numbers of errors of the file and of PyTorch between `HISTOGRAM_EDGES`; the last count is that
            of zeros.
        images: the errors in pictures; None for data that is no image.
    """

    worst: float
    exported: Array
    eager: Array
    images: ImageErrors | None = None


@dataclass(frozen=True)
class ImageErrors:
    """The errors of a decoder's images.

    Attributes:
        pixel_error: largest distance to float64 of each pixel, (C, H, W).
        originals, pytorch, decoded: real images, and the images that PyTorch and the file decode from their latents,
            (M, C, H, W), M up to `SHOWN`.
    """

    pixel_error: Array
    originals: Array
    pytorch: Array
    decoded: Array


class ErrorMapBuilder:
    """Accumulates the error map of a decoder over several runs, which may have different sizes."""

    def __init__(self) -> None:
        self._worst = 0.0
        #: The largest error of each pixel, by the size of the image.
        self._pixel_errors: dict[tuple[int, ...], Array] = {}
        self._exported = np.zeros(len(HISTOGRAM_EDGES), np.int64)
        self._eager = np.zeros(len(HISTOGRAM_EDGES), np.int64)
        self._shown: tuple[Array, Array, Array] | None = None

    def add(self, decoded: Array, eager: Array, expected: Array) -> None:
        """Add one run of the decoder.

        Args:
            decoded: finite data of the file, (N, *item).
            eager: data of PyTorch for the same latents, of the same shape.
            expected: data of PyTorch in float64 for the same latents, of the same shape.
        """
        error = np.abs(decoded - expected)
        worst = error.max(0)
        self._worst = max(self._worst, float(worst.max()))
        self._pixel_errors[worst.shape] = np.maximum(self._pixel_errors.get(worst.shape, worst), worst)
        self._exported += _histogram(error)
        self._eager += _histogram(np.abs(eager - expected))

    def show(self, originals: Array, eager: Array, decoded: Array) -> None:
        """Choose the images that the page shows: the first `SHOWN` of each argument.

        Args:
            originals: real images, (M, C, H, W).
            eager: PyTorch's images from the latents of the real images, of the same shape.
            decoded: the file's images from the same latents, of the same shape.
        """
        self._shown = originals[:SHOWN], eager[:SHOWN], decoded[:SHOWN]

    def build(self) -> ErrorMap | None:
        """Return the error map, with pictures if images were chosen; None if no run was added."""
        if not self._pixel_errors:
            return None
        images = None
        if self._shown is not None:
            images = ImageErrors(self._pixel_errors[self._shown[-1].shape[1:]], *self._shown)
        return ErrorMap(self._worst, self._exported, self._eager, images)


def _histogram(error: Array) -> Array:
    counted = error[error > 0]
    counts, _ = np.histogram(np.clip(np.log10(counted), HISTOGRAM_EDGES[0], HISTOGRAM_EDGES[-1]), HISTOGRAM_EDGES)
    return np.append(counts, error.size - counted.size)
