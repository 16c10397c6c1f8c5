"""Data protocols: what becomes of grey levels before a model sees them. Figures of two protocols never compare.

    grey     the levels themselves, in [0, 1]. Under a Bernoulli their cross-entropy is no likelihood: that would need
             binary pixels
    dynamic  each pixel is 1 with its level as the probability, drawn anew each epoch (Burda et al., arXiv:1509.00519)
    static   drawn once, with a fixed seed of ours. Not Larochelle's file of binarised MNIST, with which most papers
             of static binarisation are about: figures come close to theirs and are not of the same pixels

Validation and test images are drawn once under both binary protocols, with fixed seeds, so that scores differ by the
model alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from train.options import Protocol

if TYPE_CHECKING:
    from train.data import Dataset

#: Of what is drawn once. A generator is its own for each split, so that no split depends on another's size.
_SEEDS = {"train": 1509_00519, "validation": 1509_00520, "test": 1509_00521}
#: Images drawn at a time; another number would take more or less memory, and draw the same.
_CHUNK = 4096


def prepared(dataset: Dataset, protocol: Protocol) -> Dataset:
    """The data set that a training holds: what is drawn once is drawn, as uint8 of 0 and 255; the rest stays grey."""
    once = {"grey": (), "dynamic": ("validation", "test"), "static": ("train", "validation", "test")}[protocol]
    drawn: dict[str, Any] = {split: binarised(dataset.split(split), split) for split in once}
    return replace(dataset, protocol=protocol, **drawn)


def as_evaluated(dataset: Dataset, split: str, *, most: int | None = None) -> Tensor:
    """The pixels uint8 that a split is scored on, all or its first ones."""
    pixels = dataset.split(split)[:most]
    return binarised(pixels, split) if dataset.protocol == "dynamic" and split == "train" else pixels


def binarised(pixels: Tensor, split: str) -> Tensor:
    """Pixels uint8 of a split as they are evaluated: 0 or 255, the same each time."""
    generator = torch.Generator().manual_seed(_SEEDS[split])
    return torch.cat([draw(part, generator).mul_(255).to(torch.uint8) for part in torch.split(pixels, _CHUNK)])


def draw(pixels: Tensor, generator: torch.Generator, *, part: slice = slice(None)) -> Tensor:
    """Each pixel 1 with probability level / 255, else 0: float32, on the device of pixels uint8 and generator.

    Draws for all of pixels, and returns those of `part`.
    """
    levels = torch.rand(pixels.shape, generator=generator, device=pixels.device)[part].mul_(255)
    return (levels < pixels[part]).to(torch.float32)
