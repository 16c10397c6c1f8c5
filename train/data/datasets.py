"""Data sets by name: loaded as uint8, split once with a fixed seed, and binarised as their protocol says.

The splits do not depend on the seed of a training, so that two trainings are scored on the same images. Batches are
indexed from these tensors: decoding and transforming image by image costs more than a step of a small network.

The data protocol says which pixels a model is given. Scores under two protocols are not comparable.

    grey     grey levels in [0, 1]. Their cross-entropy under a Bernoulli is not a likelihood, which would need binary
             pixels.
    dynamic  Each pixel is 1 with its grey level as the probability, sampled anew in every epoch (Burda et al.,
             arXiv:1509.00519).
    static   The same, sampled once with a fixed seed. These are not the pixels of Larochelle's binarised MNIST, which
             most papers on static binarisation use: scores come close to theirs but are not comparable.

Both binary protocols sample the validation and test images once, with fixed seeds, so that scores depend on the model
alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train.config import DATA_FOLDER, IMAGE_SIZE, DataOptions, DataProtocol
from train.data.image_folder import read_folder
from train.data.mnist import read_mnist
from train.data.pixel_file import reordered
from vae_export.contract import Array
from vae_export.errors import DataError, UsageError
from vae_export.likelihood import MAX_LEVEL

_SPLIT_SEED = 1


@dataclass(frozen=True)
class Dataset:
    """The images of a training.

    Attributes:
        name: name of the data set.
        train, validation, test: uint8 (N, C, H, W) with N ≥ 1, after `apply_protocol`.
        protocol: the data protocol.
        reading: how many images of a folder were cropped, resized and skipped; empty for other data sets.
        in_memory: whether the images are in memory; else they are mapped from a file, and are not copied to a GPU.
    """

    name: str
    train: Tensor
    validation: Tensor
    test: Tensor
    protocol: DataProtocol = "grey"
    reading: Mapping[str, int] = field(default_factory=dict)
    in_memory: bool = True

    def __post_init__(self) -> None:
        for split in ("train", "validation", "test"):
            if not len(self.split(split)):
                got, do = f"none left for {split}", "add some: twelve are enough"
                expected = "one or more for each split"
                raise DataError("too few images", where=self.name, expected=expected, got=got, do=do)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return (C, H, W)."""
        channels, height, width = self.train.shape[1:]
        return channels, height, width

    def split(self, name: str) -> Tensor:
        """Return the images of `train`, `validation` or `test`."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    @cached_property
    def sha256(self) -> str:
        """Return the digest of all images, which identifies the data set."""
        digest = hashlib.sha256()
        for pixels in (self.train, self.validation, self.test):
            digest.update(np.ascontiguousarray(pixels.numpy()).data)
        return digest.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the provenance that is stored with a checkpoint."""
        sizes = {split: len(self.split(split)) for split in ("train", "validation", "test")}
        return {
            "name": self.name,
            "protocol": self.protocol,
            "image_shape": list(self.image_shape),
            "images": sizes,
            "sha256": self.sha256,
            **({"reading": dict(self.reading)} if self.reading else {}),
        }


#: Seeds of what is sampled once, one for each split, so that no split depends on the size of another.
_BINARISATION_SEEDS = {"train": 1509_00519, "validation": 1509_00520, "test": 1509_00521}
#: Images that are sampled at a time. It changes the memory that this takes, and not the samples.
_CHUNK = 4096


def apply_protocol(dataset: Dataset, protocol: DataProtocol) -> Dataset:
    """Binarise, to 0 and 255, the splits that `protocol` samples once; the others stay grey.

    Raises:
        UsageError: all splits are to be sampled, which is done in memory, and they are on the disk.
    """
    if protocol == "static" and not dataset.in_memory:
        do = "pass --in-memory yes, a smaller --image-size, or --data-protocol dynamic"
        raise UsageError("static binary pixels are held in memory", got="images on the disk", do=do)
    once = {"grey": (), "dynamic": ("validation", "test"), "static": ("train", "validation", "test")}[protocol]
    drawn: dict[str, Any] = {split: binarised(dataset.split(split), split) for split in once}
    return replace(dataset, protocol=protocol, **drawn)


def evaluated_pixels(dataset: Dataset, split: str, *, most: int | None = None) -> Tensor:
    """Return the pixels that a split is scored on.

    Args:
        dataset: the images.
        split: "train", "validation" or "test".
        most: the number of images to return, the first of the split; None returns all.

    Returns:
        uint8 (N, C, H, W); binary, with a fixed seed, unless the protocol is grey.
    """
    pixels = dataset.split(split)[:most]
    return binarised(pixels, split) if dataset.protocol == "dynamic" and split == "train" else pixels


def binarised(pixels: Tensor, split: str) -> Tensor:
    """Sample pixels, uint8 (N, C, H, W), of a split once: 0 or 255, with the seed of that split."""
    generator = torch.Generator().manual_seed(_BINARISATION_SEEDS[split])
    return torch.cat(
        [draw_binary(chunk, generator).mul_(MAX_LEVEL).to(torch.uint8) for chunk in torch.split(pixels, _CHUNK)]
    )


def draw_binary(pixels: Tensor, generator: torch.Generator, *, selected: slice = slice(None)) -> Tensor:
    """Sample binary pixels: each is 1 with probability level / 255, else 0.

    Args:
        pixels: grey levels, uint8 (N, C, H, W).
        generator: random numbers, on the device of the pixels.
        selected: the images to return. Random numbers are drawn for all of them.

    Returns:
        The selected images, float32 (M, C, H, W).
    """
    levels = torch.rand(pixels.shape, generator=generator, device=pixels.device)[selected].mul_(MAX_LEVEL)
    return (levels < pixels[selected]).to(torch.float32)


def load(
    options: DataOptions,
    *,
    report: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Dataset:
    """Read or download a data set, split it and apply its protocol.

    Args:
        options: the data set, its folder and its protocol.
        report: called with a line before a download, or on the images of a folder.
        progress: called with the number of images read and of all images, while a folder is read.

    Returns:
        Training, validation and test images.

    Raises:
        DataError: files are missing or damaged, or there are too few images.
        StorageError: a download or an unpacked file cannot be written.
    """
    match options.name:
        case "digits":
            dataset = split_in_three("digits", _digits())
        case "folder":
            folder, skip = options.folder or DATA_FOLDER, options.skip_unreadable
            read = read_folder(
                folder,
                options.image_size,
                skip_unreadable=skip,
                in_memory=options.in_memory,
                report=report,
                progress=progress,
            )
            report(f"{folder}: {read.describe()}")
            split = split_in_three("folder", read.pixels, in_memory=read.in_memory)
            dataset = replace(split, reading=read.to_json())
        case name:
            folder = options.folder or DATA_FOLDER
            images, test = read_mnist(name, folder, download=options.download, report=report)
            order = _split_order(len(images))
            held_out = len(images) // 12  # 5,000 of MNIST's 60,000
            dataset = Dataset(name, images[order[held_out:]], images[order[:held_out]], test)
    return apply_protocol(dataset, options.protocol)


def split_in_three(name: str, images: Tensor, *, in_memory: bool = True) -> Dataset:
    """Hold out a tenth of the images for validation and a tenth for testing; copy them, in memory or on the disk."""
    order, tenth = _split_order(len(images)), len(images) // 10
    validation, test, train = order[:tenth], order[tenth : 2 * tenth], order[2 * tenth :]
    copied = Tensor.__getitem__ if in_memory else reordered
    return Dataset(name, copied(images, train), copied(images, validation), copied(images, test), in_memory=in_memory)


def _split_order(count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(_SPLIT_SEED))


def _digits() -> Tensor:
    """Return scikit-learn's 1,797 handwritten digits, enlarged from 8x8 pixels: uint8 (1797, 1, 28, 28)."""
    small = torch.from_numpy(_read_digits()).unsqueeze(1) / 16
    large = torch.nn.functional.interpolate(small, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=False)
    return (large * MAX_LEVEL).round().to(torch.uint8)


def _read_digits() -> Array:
    """Return scikit-learn's digits, float64 (1797, 8, 8) of 0 to 16.

    They are read from its file, because importing scikit-learn takes a second of each training; where a version has no
    such file, by its own function.
    """
    package = find_spec("sklearn")
    if package is not None and package.origin is not None:
        path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if path.exists():
            return np.loadtxt(path, delimiter=",")[:, :-1].reshape(-1, 8, 8)
    from sklearn.datasets import load_digits

    return np.asarray(load_digits().images)
