"""Exports take seconds: each family is exported once in a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests import sample_models
from tests.conftest import locked_waiting
from tests.parity.small_exports import Subject, checkpoint, exported
from vae_export.models.config import Family

#: Deterministic examples without a deadline, because test machines may be busy.
examples = settings(deadline=None, derandomize=True, max_examples=100, database=None)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Use one PyTorch thread, because test workers run in parallel."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def subject(shared: Path) -> Callable[..., Subject]:
    """`subject(family, seed)`: a network and its export to ONNX, or to every quick format for `mlp` with seed 0."""
    made: dict[tuple[Family, int], Subject] = {}

    def get(family: Family = "mlp", seed: int = 0) -> Subject:
        if (family, seed) not in made:
            formats = sample_models.QUICK if (family, seed) == ("mlp", 0) else ("onnx",)
            folder = shared / f"parity-{family}-{seed}"
            with locked_waiting(shared / f"lock-{folder.name}"):
                made[family, seed] = exported(checkpoint(family, seed), folder, formats)
        return made[family, seed]

    return get


@pytest.fixture(scope="session")
def mlp(subject: Callable[..., Subject]) -> Subject:
    return subject("mlp")
