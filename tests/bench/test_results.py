"""The plan of a benchmark and the file of its results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.conftest import read
from vae_export.bench.results import BenchPlan, Timings
from vae_export.errors import UsageError


def test_timings_lose_nothing_when_written(timings: Timings, tmp_path: Path) -> None:
    path = tmp_path / "timings.json"
    disturbed = replace(timings.results[0], disturbed_rounds=2)
    for written in (timings, replace(timings, results=(disturbed, *timings.results[1:]))):
        written.write(path)
        assert read(json.loads(path.read_bytes())) == written


def test_undisturbed_timings_have_the_keys_of_former_versions(timings: Timings) -> None:
    quiet = replace(timings, results=tuple(replace(result, disturbed_rounds=0) for result in timings.results))
    (figure, *_) = json.loads(quiet.text)["figures"]
    assert list(figure) == [
        "part", "side", "batch", "threads", "calls", "p50_seconds", "p90_seconds", "p99_seconds", "memory_bytes",
        "speedup", "reached", "rows_per_second",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "bad",
    [
        {"batches": (0,)},
        {"batches": (1 << 21,)},
        {"batches": ()},
        {"batches": (8, 8)},
        {"threads": (0,)},
        {"threads": (4097,)},
        {"rounds": 0},
        {"rounds": -1},
        {"parts": ()},
        {"parts": ("head",)},
    ],
    ids=str,
)
def test_bad_plan_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        BenchPlan(**bad)  # type: ignore[arg-type]
