"""Percentiles and spreads, and the plan's limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vae_export.bench.results import BenchPlan
from vae_export.bench.statistics import Spread, percentile
from vae_export.errors import UsageError


@given(st.lists(st.integers(1, 10**9), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_the_least_value_that_covers_its_share(values: list[int], share: float) -> None:
    found = round(percentile(values, share) * 1e9)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1))
def test_a_spread_encloses_its_median(values: list[float]) -> None:
    spread = Spread.of(values)
    assert min(values) <= spread.low <= spread.median <= spread.high <= max(values)


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
def test_a_plan_that_makes_no_sense_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        BenchPlan(**bad)  # type: ignore[arg-type]
