"""A bundle and latents as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def bundle(packed: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "small.zip"
    path.write_bytes(packed)
    return path


@pytest.fixture
def latents(tmp_path: Path) -> Path:
    path = tmp_path / "latents.npy"
    np.save(path, np.random.default_rng(0).standard_normal((53, 4)).astype(np.float32))
    return path
