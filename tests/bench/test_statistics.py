"""Percentiles, spreads, and ratios that disturbed rounds do not change."""

from __future__ import annotations

from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vae_export.bench.statistics import Spread, paired_ratio, percentile, robust_median, undisturbed_rounds


@given(st.lists(st.integers(1, 10**9), min_size=1), st.floats(0.01, 1))
def test_percentile_is_the_least_value_that_covers_its_share(values: list[int], share: float) -> None:
    found = round(percentile(values, share) * 1e9)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1))
def test_spread_encloses_its_median(values: list[float]) -> None:
    spread = Spread.of(values)
    assert min(values) <= spread.low <= spread.median <= spread.high <= max(values)


def test_ratio_is_taken_within_rounds() -> None:
    """A machine that becomes slower by half changes neither."""
    slow, fast = [2.0, 2.0, 3.0, 3.0], [1.0, 1.0, 1.5, 1.5]
    assert undisturbed_rounds(slow, fast) == [0, 1, 2, 3]
    assert paired_ratio(slow, fast) == Spread(2.0, 2.0, 2.0)


def test_majority_of_disturbed_rounds_changes_nothing() -> None:
    """714 and 551 µs, and a ratio of 49.65: what a loaded machine gave before such rounds were left out."""
    eager, file = [714e-6, 27.4e-3, 29.1e-3], [551e-6, 552e-6, 553e-6]
    assert median(a / b for a, b in zip(eager, file, strict=True)) == pytest.approx(49.6, abs=0.1)
    assert undisturbed_rounds(eager, file) == [0]
    assert paired_ratio(eager, file).median == pytest.approx(robust_median(eager) / 551e-6)


def test_rounds_that_are_all_disturbed_for_one_still_give_a_ratio() -> None:
    one, other = [1.0, 9.0, 1.0], [9.0, 2.0, 9.0]
    assert undisturbed_rounds(one, other) == []
    assert paired_ratio(one, other) == Spread(0.5, 0.5, 0.5)


@given(st.lists(st.tuples(st.floats(1e-6, 1), st.floats(1e-6, 1)), min_size=1, max_size=20))
def test_ratio_lies_near_that_of_the_medians(rounds: list[tuple[float, float]]) -> None:
    """Within the factor that a round may be slower than the fastest one, for each of the two."""
    one, other = (list(times) for times in zip(*rounds, strict=True))
    apart = paired_ratio(one, other).median / (robust_median(one) / robust_median(other))
    assert 1 / 4 <= apart <= 4
