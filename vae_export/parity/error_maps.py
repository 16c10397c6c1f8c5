"""Collect the errors of a decoder's images for the HTML page: by pixel, by size, and with the images themselves."""

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
        pixel_error: largest distance to float64 of each pixel, (C, H, W).
        exported, eager: numbers of pixel errors of the file and of PyTorch between `HISTOGRAM_EDGES`; the last count
            is that of zeros.
        originals, pytorch, decoded: real images, and the images that PyTorch and the file decode from their latents,
            (SHOWN, C, H, W).
    """

    pixel_error: Array
    exported: Array
    eager: Array
    originals: Array
    pytorch: Array
    decoded: Array


class ErrorMapBuilder:
    """Accumulates the error map of a decoder over several runs."""

    def __init__(self) -> None:
        self._pixel_error: Array | None = None
        self._exported = np.zeros(len(HISTOGRAM_EDGES), np.int64)
        self._eager = np.zeros(len(HISTOGRAM_EDGES), np.int64)
        self._shown: tuple[Array, Array, Array] | None = None

    def add(self, decoded: Array, eager: Array, expected: Array) -> None:
        """Add one run of the decoder.

        Args:
            decoded: finite images of the file, (N, C, H, W).
            eager: images of PyTorch for the same latents, of the same shape.
            expected: images of PyTorch in float64 for the same latents, of the same shape.
        """
        error = np.abs(decoded - expected)
        worst = error.max(0)
        self._pixel_error = worst if self._pixel_error is None else np.maximum(self._pixel_error, worst)
        self._exported += _histogram(error)
        self._eager += _histogram(np.abs(eager - expected))

    def show(self, originals: Array, eager: Array, decoded: Array) -> None:
        """Choose the images that the page shows: the first `SHOWN` of each argument.

        Args:
            originals: real images, (M, C, H, W), M ≥ SHOWN.
            eager: PyTorch's images from the latents of the real images, of the same shape.
            decoded: the file's images from the same latents, of the same shape.
        """
        self._shown = originals[:SHOWN], eager[:SHOWN], decoded[:SHOWN]

    def build(self) -> ErrorMap | None:
        """Return the error map, or None if no run was added or no images were chosen."""
        if self._pixel_error is None or self._shown is None:
            return None
        return ErrorMap(self._pixel_error, self._exported, self._eager, *self._shown)


def _histogram(error: Array) -> Array:
    counted = error[error > 0]
    counts, _ = np.histogram(np.clip(np.log10(counted), HISTOGRAM_EDGES[0], HISTOGRAM_EDGES[-1]), HISTOGRAM_EDGES)
    return np.append(counts, error.size - counted.size)
