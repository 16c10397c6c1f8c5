"""A checkpoint small enough to be damaged in every bit."""

from __future__ import annotations

import pytest

from tests import sample_models
from vae_export import Checkpoint, save_checkpoint

SMALL = (1, 4, 4)


@pytest.fixture(scope="session")
def small() -> Checkpoint:
    return sample_models.checkpoint("mlp", SMALL)


@pytest.fixture(scope="session")
def small_bytes(small: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("small") / "checkpoint.safetensors"
    save_checkpoint(small, path)
    return path.read_bytes()
