"""One short benchmark of the small `mlp` export, which the tests of this folder share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Exported, made_once
from vae_export.artifact.certificate import read_certificate
from vae_export.bench.benchmark import bench
from vae_export.bench.results import TIMINGS, BenchPlan, BenchResult, SubjectSummary, Timings
from vae_export.bench.roofline import Peak, ProductTime, Roofline
from vae_export.bench.statistics import Spread

TARGETS = ["runtime/CPUExecutionProvider", "onnx/CPUExecutionProvider", "torchscript/cpu"]
PLAN = BenchPlan(batches=(1, 8), threads=(1,), rounds=3, seconds=0.001)


@pytest.fixture(scope="session")
def timings(mlp: Exported, shared: Path) -> Timings:
    def make(folder: Path) -> None:
        assert mlp.checkpoint is not None
        certificate = read_certificate(mlp.artifact.certificate)
        bench(mlp.artifact, mlp.checkpoint, certificate, PLAN, targets=TARGETS).write(folder / TIMINGS)

    return read(json.loads((made_once(shared / "timings", make) / TIMINGS).read_bytes()))


def read(document: dict[str, Any]) -> Timings:
    def result(entry: dict[str, Any]) -> BenchResult:
        del entry["rows_per_second"]
        speedup, reached = (entry.pop(name) for name in ("speedup", "reached"))
        roofline_share = None if reached is None else Spread(**reached)
        return BenchResult(subject=entry.pop("side"), speedup=Spread(**speedup), roofline_share=roofline_share, **entry)

    def limit(entry: dict[str, Any]) -> Roofline:
        products = tuple(ProductTime(**product) for product in entry.pop("products"))
        return Roofline(**entry, products=products)

    return Timings(
        files=document["files"],
        plan=document["plan"],
        machine=document["machine"],
        subjects=tuple(SubjectSummary(name=entry.pop("side"), **entry) for entry in document["sides"]),
        rooflines=tuple(limit(entry) for entry in document["limits"]),
        peaks=tuple(Peak(**entry) for entry in document["peaks"]),
        results=tuple(result(entry) for entry in document["figures"]),
        unusable=document["unusable"],
    )
