"""The data sets by name, held in memory as uint8 and split once and for all.

Splits do not depend on the user's seed: scores of two trainings are of the same images. Epochs index these tensors;
decoding and transforming image by image costs more than a step of a small network.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train.options import DATA, IMAGE_SIZE, DataOptions, Protocol
from train.protocol import prepared
from vae_export.errors import DataError

_SPLIT_SEED = 1


@dataclass(frozen=True)
class Dataset:
    """Three sets of images, each uint8 (N, C, H, W), N ≥ 1; see `train.protocol` for what the protocol made of them."""

    name: str
    train: Tensor
    validation: Tensor
    test: Tensor
    protocol: Protocol = "grey"

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


def load(options: DataOptions) -> Dataset:
    """Read, or download, what `options` names, under its protocol. Raises `DataError`, `StorageError`."""
    return prepared(_grey(options), options.protocol)


def _grey(options: DataOptions) -> Dataset:
    match options.name:
        case "digits":
            return _split_in_three("digits", _digits())
        case "folder":
            from train.folder import read_folder

            images = read_folder(options.folder or DATA, options.image_size or IMAGE_SIZE)
            return _split_in_three("folder", images)
        case _:
            from train.idx import read_idx

            images, test = read_idx(options.name, options.folder or DATA, download=options.download)
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
