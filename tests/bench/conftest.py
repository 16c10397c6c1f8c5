"""One short measurement of the small `mlp` export, which the tests of this folder share."""

from __future__ import annotations

import pytest

from tests.conftest import Exported
from vae_export.artifact.certificate import read_certificate
from vae_export.bench.benchmark import bench
from vae_export.bench.results import BenchPlan, Timings

TARGETS = ["runtime/CPUExecutionProvider", "onnx/CPUExecutionProvider", "torchscript/cpu"]
PLAN = BenchPlan(batches=(1, 8), threads=(1,), rounds=3, seconds=0.001)


@pytest.fixture(scope="session")
def timings(mlp: Exported) -> Timings:
    assert mlp.checkpoint is not None
    record = read_certificate(mlp.artifact.certificate)
    return bench(mlp.artifact, mlp.checkpoint, record, PLAN, targets=TARGETS)
