"""The data sets by name, held in memory as uint8 and split once and for all.

Splits do not depend on the user's seed: scores of two trainings are of the same images. Epochs index these tensors;
decoding and transforming image by image costs more than a step of a small network.

A protocol says what a model sees of grey levels. Figures of two protocols never compare.

    grey     the levels themselves, in [0, 1]. Under a Bernoulli their cross-entropy is no likelihood: that would need
             binary pixels
    dynamic  each pixel is 1 with its level as the probability, drawn anew each epoch (Burda et al., arXiv:1509.00519)
    static   drawn once, with a fixed seed of ours. Not Larochelle's file of binarised MNIST, with which most papers
             of static binarisation are about: figures come close to theirs and are not of the same pixels

Validation and test images are drawn once under both binary protocols, with fixed seeds, so that scores differ by the
model alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train.config import DATA_FOLDER, IMAGE_SIZE, DataOptions, DataProtocol
from vae_export.errors import DataError

_SPLIT_SEED = 1


@dataclass(frozen=True)
class Dataset:
    """Three sets of images, each uint8 (N, C, H, W), N ≥ 1, as their protocol makes them."""

    name: str
    train: Tensor
    validation: Tensor
    test: Tensor
    protocol: DataProtocol = "grey"

    def __post_init__(self) -> None:
        for split in ("train", "validation", "test"):
            if not len(self.split(split)):
                expected, got, do = (
                    "one or more for each split",
                    f"none left for {split}",
                    "add some: twelve are enough",
                )
                raise DataError("too few images", where=self.name, expected=expected, got=got, do=do)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        channels, height, width = self.train.shape[1:]
        return channels, height, width

    def split(self, name: str) -> Tensor:
        """`train`, `validation` or `test`."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    @cached_property
    def sha256(self) -> str:
        """By which the same images are known again."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            digest.update(np.ascontiguousarray(part.numpy()).data)
        return digest.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Provenance: the name, the split, and the digest."""
        sizes = {split: len(self.split(split)) for split in ("train", "validation", "test")}
        return {
            "name": self.name,
            "protocol": self.protocol,
            "image_shape": list(self.image_shape),
            "images": sizes,
            "sha256": self.sha256,
        }


#: Of what is drawn once. A generator is its own for each split, so that no split depends on another's size.
_BINARISATION_SEEDS = {"train": 1509_00519, "validation": 1509_00520, "test": 1509_00521}
#: Images drawn at a time; another number would take more or less memory, and draw the same.
_CHUNK = 4096


def apply_protocol(dataset: Dataset, protocol: DataProtocol) -> Dataset:
    """The data set that a training holds: what is drawn once is drawn, as uint8 of 0 and 255; the rest stays grey."""
    once = {"grey": (), "dynamic": ("validation", "test"), "static": ("train", "validation", "test")}[protocol]
    drawn: dict[str, Any] = {split: binarised(dataset.split(split), split) for split in once}
    return replace(dataset, protocol=protocol, **drawn)


def evaluated_pixels(dataset: Dataset, split: str, *, most: int | None = None) -> Tensor:
    """The pixels uint8 that a split is scored on, all or its first ones."""
    pixels = dataset.split(split)[:most]
    return binarised(pixels, split) if dataset.protocol == "dynamic" and split == "train" else pixels


def binarised(pixels: Tensor, split: str) -> Tensor:
    """Pixels uint8 of a split as they are evaluated: 0 or 255, the same each time."""
    generator = torch.Generator().manual_seed(_BINARISATION_SEEDS[split])
    return torch.cat([draw_binary(part, generator).mul_(255).to(torch.uint8) for part in torch.split(pixels, _CHUNK)])


def draw_binary(pixels: Tensor, generator: torch.Generator, *, part: slice = slice(None)) -> Tensor:
    """Each pixel 1 with probability level / 255, else 0: float32, on the device of pixels uint8 and generator.

    Draws for all of pixels, and returns those of `part`.
    """
    levels = torch.rand(pixels.shape, generator=generator, device=pixels.device)[part].mul_(255)
    return (levels < pixels[part]).to(torch.float32)


def load(options: DataOptions) -> Dataset:
    """Read, or download, what `options` names, under its protocol. Raises `DataError`, `StorageError`."""
    return apply_protocol(_grey(options), options.protocol)


def _grey(options: DataOptions) -> Dataset:
    match options.name:
        case "digits":
            return _split_in_three("digits", _digits())
        case "folder":
            from train.data.image_folder import read_folder

            images = read_folder(options.folder or DATA_FOLDER, options.image_size or IMAGE_SIZE)
            return _split_in_three("folder", images)
        case _:
            from train.data.mnist import read_idx

            images, test = read_idx(options.name, options.folder or DATA_FOLDER, download=options.download)
            order = _order(len(images))
            held_out = len(images) // 12  # 5,000 of MNIST's 60,000
            return Dataset(options.name, images[order[held_out:]], images[order[:held_out]], test)


def _split_in_three(name: str, images: Tensor) -> Dataset:
    """A tenth each for validation and test."""
    order, tenth = _order(len(images)), len(images) // 10
    validation, test, train = order[:tenth], order[tenth : 2 * tenth], order[2 * tenth :]
    return Dataset(name, images[train], images[validation], images[test])


def _order(count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(_SPLIT_SEED))


def _digits() -> Tensor:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels in 17 grey levels, as uint8 (1797, 1, 28, 28)."""
    from sklearn.datasets import load_digits

    small = torch.from_numpy(load_digits().images).unsqueeze(1) / 16
    large = torch.nn.functional.interpolate(small, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=False)
    return (large * 255).round().to(torch.uint8)
