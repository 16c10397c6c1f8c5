"""Invalid options are refused when they are made, before any file is read or written."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from train.config import DataOptions, NetworkOptions, ObjectiveOptions, TrainOptions
from train.recipes import RECIPES, Recipe, RecipeOptions, parse_stages
from vae_export.errors import UsageError
from vae_export.models.config import Family


@pytest.mark.parametrize(
    ("group", "bad"),
    [
        (RecipeOptions, {"epochs": 0}),
        (RecipeOptions, {"epochs": -1}),
        (RecipeOptions, {"batch_size": 0}),
        (RecipeOptions, {"learning_rate": 0.0}),
        (RecipeOptions, {"learning_rate": -1.0}),
        (RecipeOptions, {"learning_rate": math.nan}),
        (RecipeOptions, {"learning_rate": math.inf}),
        (RecipeOptions, {"epsilon": 0.0}),
        (RecipeOptions, {"weight_average": 1.0}),
        (RecipeOptions, {"weight_average": math.nan}),
        (RecipeOptions, {"shift": -1}),
        (RecipeOptions, {"clip_norm": -1.0}),
        (RecipeOptions, {"clip_norm": math.inf}),
        (RecipeOptions, {"stages": ()}),
        (RecipeOptions, {"stages": ((0, 1e-3),)}),
        (RecipeOptions, {"stages": ((1, 2.0),)}),
        (RecipeOptions, {"stages": ((1, 1e-3),), "learning_rate": 1e-3}),
        (ObjectiveOptions, {"beta": -1.0}),
        (ObjectiveOptions, {"beta": math.nan}),
        (ObjectiveOptions, {"beta": math.inf}),
        (ObjectiveOptions, {"kl_warmup": -1.0}),
        (ObjectiveOptions, {"free_bits": math.nan}),
        (NetworkOptions, {"latent_size": 0}),
        (NetworkOptions, {"hidden_size": -4}),
        (NetworkOptions, {"hidden_size": 10**9}),
        (NetworkOptions, {"family": "gan"}),
        (NetworkOptions, {"activation": "sine"}),
        (NetworkOptions, {"family": "blog", "activation": "tanh"}),
        (NetworkOptions, {"family": "blog", "likelihood": "gaussian"}),
        (NetworkOptions, {"likelihood": "cauchy"}),
        (NetworkOptions, {"scale": 0.1}),
        (NetworkOptions, {"likelihood": "gaussian-fixed", "scale": 0.0}),
        (NetworkOptions, {"likelihood": "gaussian-fixed", "scale": math.nan}),
        (TrainOptions, {"seed": -1}),
        (TrainOptions, {"threads": 0}),
        (TrainOptions, {"precision": "float8"}),
        (DataOptions, {"protocol": "larochelle"}),
    ],
)
def test_training_options_out_of_range_are_refused(group: type, bad: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        group(**bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "imagenet"},
        {"name": "folder"},
        {"name": "folder", "folder": Path("x"), "image_size": 0},
        {"name": "folder", "folder": Path("x"), "image_size": 100_000},
        {"name": "digits", "image_size": 32},
        {"name": "digits", "skip_unreadable": True},
        {"name": "digits", "folder": Path("pictures")},
    ],
)
def test_data_options_that_do_not_fit_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        DataOptions(**bad)  # type: ignore[arg-type]


def recipe(family: Family = "mlp", images: int = 55_000, **asked: object) -> Recipe:
    return TrainOptions(network=NetworkOptions(family), recipe=RecipeOptions(**asked)).recipe_for(images)  # type: ignore[arg-type]


def test_options_override_the_recipe_of_the_family() -> None:
    assert recipe("blog") == RECIPES["blog"]
    asked = recipe("mlp", epochs=3, batch_size=7, learning_rate=0.5)
    assert (asked.epochs, asked.batch_size, asked.learning_rate) == (3, 7, 0.5)


def test_small_data_sets_get_smaller_batches_and_more_epochs() -> None:
    small = recipe(images=1439)
    assert small.batch_size == 64
    assert small.epochs * (1439 // 64) >= 2000
    assert recipe(images=1439, epochs=2).epochs == 2


def test_stages_define_epochs_and_rates_and_can_end_early() -> None:
    stages = parse_stages("1:1e-3,3:7.2e-4")
    assert stages == ((1, 0.001), (3, 0.00072))
    whole, cut = recipe(stages=stages), recipe(stages=stages, epochs=2)
    assert (whole.schedule, whole.epochs, cut.epochs) == ("stages", 4, 2)


@pytest.mark.parametrize("text", ["", "1", "1:", "a:1e-3", "1:1e-3,", "1:1e-3:2", "1.5:1e-3"])
def test_malformed_stages_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="stages cannot be read"):
        parse_stages(text)


def test_kl_weight_rises_to_beta() -> None:
    objective = ObjectiveOptions(beta=2.0, kl_warmup=4.0)
    assert [objective.kl_weight(epochs) for epochs in (0, 1, 4, 9)] == [0, 0.5, 2, 2]
    assert ObjectiveOptions(beta=2.0).kl_weight(0) == 2
