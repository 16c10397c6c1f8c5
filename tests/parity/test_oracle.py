"""Sensitivity of outputs to perturbed weights and inputs."""

from __future__ import annotations

import numpy as np

from vae_export.parity.oracle import Sensitivity


def test_mean_sensitivity_takes_the_larger_of_both_directions() -> None:
    sensitivity = Sensitivity()
    sensitivity.add(np.array([[1.0, 0.0], [0.0, 0.0]]), 0, (1, 2))
    sensitivity.add(np.array([[0.0, 3.0], [0.0, 0.0]]), 1, (1, 2))
    assert (sensitivity.worst, sensitivity.mean) == (3.0, 2.0)  # the mean of the first row alone is 2, of both rows 1
    sensitivity.add(np.array([[0.0, 0.0], [np.nan, 0.0]]), 2, (1,))
    sensitivity.add(np.array([[0.0, 0.0], [0.0, 0.0]]), 3, (1,))
    assert (sensitivity.worst, sensitivity.mean) == (np.inf, 2.0)
