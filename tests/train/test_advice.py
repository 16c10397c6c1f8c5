"""What is said before and after a training of photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from train.advice import expectation, next_step
from train.recipes import Recipe


def lines(validation: list[float], train: float) -> list[dict[str, Any]]:
    key = "negative_elbo_nats_per_image"
    return [{"validation": {key: value}, "train": {key: train}} for value in validation]


def test_few_pictures_are_noted() -> None:
    assert expectation(50_000) is None
    assert "3,200 pictures are few" in str(expectation(3_200))


@pytest.mark.parametrize(
    ("validation", "train", "changed", "said"),
    [
        ([100.0] * 10, 90.0, False, "use more pictures or --shift 4 or --flip"),
        ([100.0] * 10, 90.0, True, "use more pictures"),
        ([110.0] * 9 + [100.0], 99.9, False, "--resume --epochs 20 --out run"),
        ([110.0] * 9 + [100.0], 90.0, False, "--resume --epochs 20 --out run"),
        ([100.0] * 10, 99.9, False, "larger --latent-size"),
        ([100.0], 99.9, False, "--resume --epochs 20 --out run"),
        ([-100.0] * 9 + [-110.0], -110.1, False, "--resume --epochs 20 --out run"),  # a density
    ],
)
def test_advice_follows_from_the_curves(validation: list[float], train: float, changed: bool, said: str) -> None:
    recipe = Recipe(10, 16, 1e-3, "constant", bfloat16=False, flip=changed, shift=4 if changed else 0)
    found = next_step(lines(validation, train), recipe, Path("run"))
    assert found.endswith(said) if changed else said in found
