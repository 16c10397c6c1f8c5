"""Learning rates follow their schedules."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from train.config import NetworkOptions, TrainOptions
from train.recipes import RECIPES, RecipeOptions, learning_rate_at
from vae_export.errors import UsageError


@pytest.mark.parametrize("ratio", [0.3, 0.05, 0.97])
@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (1, 2), (1, 10), (3, 7), (20, 214)])
def test_one_cycle_matches_pytorch(epochs: int, steps: int, ratio: float) -> None:
    recipe = replace(RECIPES["mlp"], epochs=epochs, warmup_ratio=ratio)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], recipe.learning_rate)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=epochs * steps, pct_start=ratio
    )
    for step in range(epochs * steps):
        group = optimizer.param_groups[0]
        assert learning_rate_at(recipe, step, steps) == pytest.approx((group["lr"], group["betas"][0]), rel=1e-9)
        optimizer.step()
        if step + 1 < epochs * steps:
            theirs.step()


def test_one_cycle_with_a_warmup_of_one_step_starts_at_the_peak() -> None:
    """PyTorch's scheduler divides by zero there."""
    recipe = replace(RECIPES["mlp"], epochs=1, warmup_ratio=0.1)
    assert learning_rate_at(recipe, 0, 10)[0] == recipe.learning_rate


def test_warmup_ratio_is_refused_without_one_cycle() -> None:
    with pytest.raises(UsageError, match="--warmup-ratio is for schedule one-cycle; got constant"):
        TrainOptions(network=NetworkOptions("blog"), recipe=RecipeOptions(warmup_ratio=0.1))
    with pytest.raises(UsageError, match="got stages"):
        RecipeOptions(warmup_ratio=0.1, stages=((1, 1e-3),)).apply_to(RECIPES["mlp"])


def test_constant_rate_is_constant() -> None:
    assert {learning_rate_at(RECIPES["blog"], step, 10) for step in range(100)} == {(1e-3, 0.9)}


def test_stages_change_the_rate_at_their_epochs() -> None:
    recipe = replace(RECIPES["mlp"], schedule="stages", stages=((1, 1e-3), (3, 5e-4)), epochs=4)
    assert [learning_rate_at(recipe, step, 2)[0] for step in range(8)] == [1e-3] * 2 + [5e-4] * 6
