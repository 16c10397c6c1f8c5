"""One short benchmark of the small `mlp` export, which the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Exported, made_once
from vae_export.artifact.certificate import read_certificate
from vae_export.bench.benchmark import bench
from vae_export.bench.results import TIMINGS, BenchPlan, Timings, read_timings

TARGETS = ["runtime/CPUExecutionProvider", "onnx/CPUExecutionProvider", "torchscript/cpu"]
PLAN = BenchPlan(batches=(1, 8), threads=(1,), rounds=3, seconds=0.001)


@pytest.fixture(scope="session")
def timings(mlp: Exported, shared: Path) -> Timings:
    def make(folder: Path) -> None:
        assert mlp.checkpoint is not None
        certificate = read_certificate(mlp.artifact.certificate)
        bench(mlp.artifact, mlp.checkpoint, certificate, PLAN, targets=TARGETS).write(folder / TIMINGS)

    return read_timings(made_once(shared / "timings", make) / TIMINGS)
