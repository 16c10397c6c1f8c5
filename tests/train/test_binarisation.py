"""Data protocols: grey levels, and binary pixels sampled once or in every epoch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.config import DATA_PROTOCOLS, DataProtocol, ObjectiveOptions
from train.data.datasets import Dataset, apply_protocol, binarised, draw_binary, evaluated_pixels
from train.loss import LossTerms
from train.recipes import RECIPES, Recipe
from train.trainer import Trainer
from vae_export.models import VAE, VAEConfig

SPLITS = ("train", "validation", "test")
GREY = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
DATASET = Dataset("noise", GREY[:40], GREY[40:50], GREY[50:])


def is_binary(pixels: torch.Tensor) -> bool:
    return bool(((pixels == 0) | (pixels == 255)).all())


@pytest.mark.parametrize(
    ("protocol", "binary"), [("grey", ()), ("dynamic", ("validation", "test")), ("static", SPLITS)]
)
def test_protocol_binarises_its_splits_once(protocol: DataProtocol, binary: tuple[str, ...]) -> None:
    dataset = apply_protocol(DATASET, protocol)
    assert dataset.to_json()["protocol"] == protocol
    for split in SPLITS:
        assert is_binary(dataset.split(split)) == (split in binary)
        assert is_binary(evaluated_pixels(dataset, split)) == (protocol != "grey")
        assert torch.equal(evaluated_pixels(dataset, split), evaluated_pixels(apply_protocol(DATASET, protocol), split))


@pytest.mark.parametrize("protocol", DATA_PROTOCOLS)
def test_first_images_are_those_of_the_whole_split(protocol: DataProtocol) -> None:
    dataset = apply_protocol(DATASET, protocol)
    assert torch.equal(evaluated_pixels(dataset, "train", most=7), evaluated_pixels(dataset, "train")[:7])


def test_splits_have_seeds_of_their_own() -> None:
    same = torch.full((10, 1, 8, 8), 128, dtype=torch.uint8)
    assert not torch.equal(binarised(same, "validation"), binarised(same, "test"))


@settings(max_examples=20)
@given(st.integers(0, 255))
def test_grey_level_is_the_probability_of_a_one(level: int) -> None:
    pixels = torch.full((20_000,), level, dtype=torch.uint8)
    ones = draw_binary(pixels, torch.Generator().manual_seed(level)).mean().item()
    p = level / 255
    assert abs(ones - p) <= 5 * (p * (1 - p) / 20_000) ** 0.5  # none at 0, all at 255


def seen(protocol: DataProtocol, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> list[torch.Tensor]:
    """Return the images of two epochs of one batch, sorted by their sums."""
    images: list[torch.Tensor] = []
    real = LossTerms.forward

    def watched(terms: LossTerms, image: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images.append(image.clone())
        return real(terms, image, noise)

    monkeypatch.setattr(LossTerms, "forward", watched)
    torch.manual_seed(3)
    model = VAE(VAEConfig("mlp", (1, 8, 8), 2, 4))
    recipe = Recipe(**(vars(RECIPES["mlp"]) | {"epochs": 2, "batch_size": 40}))
    trainer = Trainer(
        model, apply_protocol(DATASET, protocol).train, recipe, ObjectiveOptions(), protocol=protocol, seed=seed
    )
    torch.manual_seed(4)
    assert len(list(trainer.train_epochs(lambda *_: None))) == 2
    monkeypatch.setattr(LossTerms, "forward", real)
    return [image[image.flatten(1).sum(1).argsort()] for image in images]


def test_dynamic_pixels_change_by_epoch_and_repeat_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = seen("dynamic", monkeypatch)
    again, _ = seen("dynamic", monkeypatch)
    other, _ = seen("dynamic", monkeypatch, seed=1)
    assert is_binary(first * 255)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("protocol", ["grey", "static"])
def test_grey_and_static_pixels_repeat_in_every_epoch(protocol: DataProtocol, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = seen(protocol, monkeypatch)
    assert torch.equal(first.sum((1, 2, 3)), second.sum((1, 2, 3)))
    assert is_binary(first * 255) == (protocol == "static")
