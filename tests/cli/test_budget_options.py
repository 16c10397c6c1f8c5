"""Budgets in nats, in shares of the -ELBO and in bits per dimension become one limit in nats."""

from __future__ import annotations

import math
from typing import Any

import pytest

from vae_export.cli.options import BudgetOptions
from vae_export.contract import Contract
from vae_export.errors import UsageError

PHOTO = Contract((3, 64, 64), (8,))
TRAINED: dict[str, Any] = {"training": {"scores": {"test": {"negative_elbo_nats_per_image": -50_000.0}}}}


@pytest.mark.parametrize(
    ("asked", "nats"),
    [
        ({"max_nats": "0.5"}, 0.5),
        ({"max_nats": "0.1%"}, 50.0),
        ({"max_bits_per_dim": 0.001}, 0.001 * 3 * 64 * 64 * math.log(2)),
        ({"max_nats": "0.1 %", "max_bits_per_dim": 1.0}, 50.0),  # the smaller of both
        ({"max_grey_levels": 1.0}, None),
    ],
    ids=str,
)
def test_limits_become_nats(asked: dict[str, Any], nats: float | None) -> None:
    budget = BudgetOptions(**asked).budget(PHOTO, TRAINED)
    assert budget is not None
    assert budget.max_nats == (None if nats is None else pytest.approx(nats))


def test_no_limit_is_no_budget() -> None:
    assert BudgetOptions().budget(PHOTO, {}) is None


def test_share_without_a_recorded_score_is_refused() -> None:
    with pytest.raises(UsageError, match="--max-bits-per-dim"):
        BudgetOptions(max_nats="1%").budget(PHOTO, {})


@pytest.mark.parametrize(
    "asked", [{"max_nats": "few"}, {"max_nats": "-1"}, {"max_nats": "nan"}, {"max_bits_per_dim": math.inf}], ids=str
)
def test_bad_numbers_are_refused_at_once(asked: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="bad max-"):
        BudgetOptions(**asked)
