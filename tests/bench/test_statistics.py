"""Percentiles, spreads, and times and ratios that disturbed rounds do not change."""

from __future__ import annotations

from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vae_export.bench.statistics import RoundFit, Spread, percentile, undisturbed_rounds

EAGER, FILE, OTHER = "eager", "file", "other"


@given(st.lists(st.integers(1, 10**9), min_size=1), st.floats(0.01, 1))
def test_percentile_is_the_least_value_that_covers_its_share(values: list[int], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1))
def test_spread_encloses_its_median(values: list[float]) -> None:
    spread = Spread.of(values)
    assert min(values) <= spread.low <= spread.median <= spread.high <= max(values)
    assert Spread(2, 1, 3).around(4) == Spread(4, 1, 4)


def test_machine_that_becomes_slower_changes_neither_times_nor_ratios() -> None:
    fit = RoundFit({EAGER: [2.0, 2.0, 3.0, 3.0], FILE: [1.0, 1.0, 1.5, 1.5]})
    assert fit.kept(EAGER) == fit.kept(FILE) == [0, 1, 2, 3]
    assert fit.ratio(EAGER, FILE) == Spread(2.0, 2.0, 2.0)
    assert (fit.time(EAGER), fit.time(FILE)) == pytest.approx((2.0, 1.0))
    assert fit.slowness(3) / fit.slowness(0) == pytest.approx(1.5)


def test_majority_of_disturbed_rounds_changes_nothing() -> None:
    """714 and 551 µs, and a ratio of 49.65: what a loaded machine gave before such rounds were left out."""
    eager, file = [714e-6, 27.4e-3, 29.1e-3], [551e-6, 552e-6, 553e-6]
    assert median(a / b for a, b in zip(eager, file, strict=True)) == pytest.approx(49.6, abs=0.1)
    assert undisturbed_rounds(eager) == [0]
    fit = RoundFit({EAGER: eager, FILE: file})
    assert fit.ratio(EAGER, FILE).median == pytest.approx(714 / 551, rel=0.01)


def test_measurement_that_fits_neither_its_subject_nor_its_round_is_left_out() -> None:
    """It takes 1.6 times as long, which is less than twice, while the others were as fast as ever."""
    fit = RoundFit({EAGER: [4.0, 4.0, 6.4, 4.0], FILE: [1.0, 1.0, 1.0, 1.0], OTHER: [2.0, 2.0, 2.0, 2.0]})
    assert fit.kept(EAGER) == [0, 1, 3]
    assert fit.kept(FILE) == [0, 1, 2, 3]
    assert fit.ratio(EAGER, FILE) == Spread(4.0, 4.0, 4.0)


def test_rounds_that_are_all_disturbed_for_one_still_give_a_ratio() -> None:
    fit = RoundFit({EAGER: [1.0, 9.0, 1.0], FILE: [9.0, 2.0, 9.0]})
    assert set(fit.kept(EAGER)) & set(fit.kept(FILE)) == set()
    assert fit.ratio(EAGER, FILE) == Spread(0.5, 0.5, 0.5)


@given(st.lists(st.tuples(*[st.floats(1e-6, 1)] * 3), min_size=1, max_size=20))
def test_ratio_is_that_of_the_stated_times(rounds: list[tuple[float, float, float]]) -> None:
    one, two, three = (list(times) for times in zip(*rounds, strict=True))
    fit = RoundFit({EAGER: one, FILE: two, OTHER: three})
    spread = fit.ratio(EAGER, FILE)
    assert spread.median == fit.time(EAGER) / fit.time(FILE)
    assert spread.low <= spread.median <= spread.high
    assert fit.time(EAGER) >= min(one)
    assert fit.ratio(FILE, FILE) == Spread(1.0, 1.0, 1.0)
    assert set(fit.kept(OTHER)) <= set(undisturbed_rounds(three))
    assert fit.kept(OTHER)


@given(st.floats(1.0, 1.9), st.lists(st.floats(1.0, 1.2), min_size=4, max_size=12))
def test_load_that_all_share_leaves_the_ratio_alone(slow: float, noise: list[float]) -> None:
    """Half of the rounds are slower for all; the ratio is exact, because only the round differs."""
    rounds = [slow**index * factor for index, factor in zip([0, 1] * len(noise), noise, strict=False)]
    fit = RoundFit({EAGER: [3 * r for r in rounds], FILE: rounds, OTHER: [2 * r for r in rounds]})
    assert fit.ratio(EAGER, FILE).median == pytest.approx(3)
