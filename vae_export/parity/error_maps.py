"""What a person wants to see of a decoder: where its errors lie, how large they are, and the pictures themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vae_export.contract import Array

#: Powers of ten of the distance to float64, for the histogram; what is exact falls below the first.
HISTOGRAM_EDGES = np.linspace(-12, 0, 97)
#: Images that are shown.
SHOWN = 8


@dataclass(frozen=True)
class ErrorMap:
    """Of one decoder on one target, over all probes.

    Attributes:
        pixel_error: (C, H, W), the largest distance to float64 of each pixel.
        exported, eager: pixel errors between `HISTOGRAM_EDGES`, of the file and of PyTorch; the last counts zeros.
        originals, pytorch, decoded: (SHOWN, C, H, W): real images, and what PyTorch and the file make of their latents.
    """

    pixel_error: Array
    exported: Array
    eager: Array
    originals: Array
    pytorch: Array
    decoded: Array


class ErrorMapBuilder:
    """Adds up one run after the other."""

    def __init__(self) -> None:
        self._pixel_error: Array | None = None
        self._exported = np.zeros(len(HISTOGRAM_EDGES), np.int64)
        self._eager = np.zeros(len(HISTOGRAM_EDGES), np.int64)
        self._shown: tuple[Array, Array, Array] | None = None

    def add(self, decoded: Array, eager: Array, exact: Array) -> None:
        """Images of one run, each (N, C, H, W), finite."""
        error = np.abs(decoded - exact)
        worst = error.max(0)
        self._pixel_error = worst if self._pixel_error is None else np.maximum(self._pixel_error, worst)
        self._exported += _histogram(error)
        self._eager += _histogram(np.abs(eager - exact))

    def show(self, originals: Array, eager: Array, decoded: Array) -> None:
        """The images that the page shows, each (M, C, H, W), M ≥ SHOWN."""
        self._shown = originals[:SHOWN], eager[:SHOWN], decoded[:SHOWN]

    def build(self) -> ErrorMap | None:
        """None until something was added and shown."""
        if self._pixel_error is None or self._shown is None:
            return None
        return ErrorMap(self._pixel_error, self._exported, self._eager, *self._shown)


def _histogram(error: Array) -> Array:
    counted = error[error > 0]
    counts, _ = np.histogram(np.clip(np.log10(counted), HISTOGRAM_EDGES[0], HISTOGRAM_EDGES[-1]), HISTOGRAM_EDGES)
    return np.append(counts, error.size - counted.size)
