"""The small `mlp` export, opened as an application opens it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import Exported
from vae_export import Model, load


@pytest.fixture(scope="session")
def model(mlp: Exported) -> Model:
    return load(mlp.folder)


def latents(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 4), dtype=np.float32)
