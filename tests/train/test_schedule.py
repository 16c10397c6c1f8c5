"""The learning rate as a function of the step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from train.recipes import RECIPES
from train.schedule import rate_at


@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (1, 2), (1, 10), (3, 7), (20, 214)])
def test_one_cycle_is_torchs_own(epochs: int, steps: int) -> None:
    recipe = replace(RECIPES["mlp"], epochs=epochs)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], recipe.learning_rate)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=epochs * steps)
    for step in range(epochs * steps):
        group = optimizer.param_groups[0]
        assert rate_at(recipe, step, steps) == pytest.approx((group["lr"], group["betas"][0]), rel=1e-9)
        optimizer.step()
        if step + 1 < epochs * steps:
            theirs.step()


def test_a_constant_rate_stays() -> None:
    assert {rate_at(RECIPES["post"], step, 10) for step in range(100)} == {(1e-3, 0.9)}


def test_stages_follow_each_other_at_their_epochs() -> None:
    recipe = replace(RECIPES["mlp"], schedule="stages", stages=((1, 1e-3), (3, 5e-4)), epochs=4)
    assert [rate_at(recipe, step, 2)[0] for step in range(8)] == [1e-3] * 2 + [5e-4] * 6
