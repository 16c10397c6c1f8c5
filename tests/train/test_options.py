"""Options that make no sense are refused when they are made: before any file is read or written."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from train.options import RECIPES, DataOptions, TrainOptions
from vae_export.errors import UsageError


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"epochs": -1},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": -1.0},
        {"learning_rate": math.nan},
        {"learning_rate": math.inf},
        {"beta": -1.0},
        {"beta": math.nan},
        {"beta": math.inf},
        {"latent_size": 0},
        {"hidden_size": -4},
        {"hidden_size": 10**9},
        {"seed": -1},
        {"threads": 0},
        {"family": "gan"},
        {"precision": "float8"},
    ],
)
def test_training_options_out_of_range_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        TrainOptions(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "imagenet"},
        {"name": "folder"},
        {"name": "folder", "folder": Path("x"), "image_size": 0},
        {"name": "folder", "folder": Path("x"), "image_size": 100_000},
        {"name": "digits", "image_size": 32},
    ],
)
def test_data_options_that_do_not_fit_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        DataOptions(**bad)  # type: ignore[arg-type]


def test_a_recipe_is_the_familys_unless_asked_otherwise() -> None:
    assert TrainOptions(family="post").recipe(55_000) == RECIPES["post"]
    asked = TrainOptions(family="mlp", epochs=3, batch_size=7, learning_rate=0.5).recipe(55_000)
    assert (asked.epochs, asked.batch_size, asked.learning_rate) == (3, 7, 0.5)


def test_small_sets_get_smaller_batches_and_enough_steps() -> None:
    small = TrainOptions().recipe(1439)
    assert small.batch_size == 64
    assert small.epochs * (1439 // 64) >= 2000
    assert TrainOptions(epochs=2).recipe(1439).epochs == 2
