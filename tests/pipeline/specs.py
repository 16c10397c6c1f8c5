"""Specifications of the inputs for which the tests read files, and latents that fit one of them."""

from __future__ import annotations

import numpy as np

from vae_export.contract import Contract

CONTRACT = Contract((1, 6, 5), (4,))
LATENT = CONTRACT.spec("decoder").inputs[0]
IMAGE = CONTRACT.spec("encoder").inputs[0]
COLOUR = Contract((3, 6, 5), (4,), (-1.0, 1.0)).spec("encoder").inputs[0]


def latents(rows: int = 23) -> np.ndarray:
    return np.random.default_rng(rows).standard_normal((rows, 4)).astype(np.float32)
