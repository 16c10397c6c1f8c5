"""The Fréchet distance between two sets of features, each taken as a Gaussian."""

from __future__ import annotations

import math

import numpy as np

from vae_export.likelihood import Array


def frechet_distance(first: Array, second: Array) -> float:
    """Compute the Fréchet distance between Gaussians that are fitted to two sets of features.

    It is |m₁ − m₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½), as in Heusel et al., arXiv:1706.08500, section 2.

    Args:
        first, second: features, float64 (N, D), N ≥ 2.

    Returns:
        The distance, 0 for equal means and covariances.
    """
    # The covariances are AᵀA and BᵀB, so that the square roots of the eigenvalues of their product are the singular
    # values of A Bᵀ. Those of the factors R of A = QR are the same, and R has at most D rows.
    apart = np.square(first.mean(0) - second.mean(0)).sum()
    roots = [(features - features.mean(0)) / math.sqrt(len(features) - 1) for features in (first, second)]
    traces = sum(np.square(root).sum() for root in roots)
    small = [np.asarray(np.linalg.qr(root, mode="r")) for root in roots]
    return float(max(0.0, apart + traces - 2 * np.linalg.svd(small[0] @ small[1].T, compute_uv=False).sum()))
