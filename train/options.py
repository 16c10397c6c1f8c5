"""What to train, on what and for how long: the options of `cli.py train`, checked when they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from vae_export.errors import UsageError
from vae_export.models.config import Family, VAEConfig

DatasetName = Literal["mnist", "fashion-mnist", "kmnist", "digits", "folder"]
DATASETS: tuple[DatasetName, ...] = get_args(DatasetName)

Precision = Literal["auto", "float32", "bfloat16"]

#: Where downloads go, below the working folder.
DATA = Path("data")
#: More threads than these do not make the small steps of these networks faster.
MAX_DEFAULT_THREADS = 4
#: Side of a square image, in pixels, where the option decides about it.
IMAGE_SIZE = 28


@dataclass(frozen=True)
class DataOptions:
    """Attributes:
    name: which data set.
    folder: where its files lie; for `folder`, the images themselves. None: `data/`.
    image_size: side in pixels that the images of `folder` are brought to, None for 28; not for the others.
    download: fetch what is not there.
    """

    name: DatasetName = "mnist"
    folder: Path | None = None
    image_size: int | None = None
    download: bool = True

    def __post_init__(self) -> None:
        if self.name not in DATASETS:
            raise UsageError("unknown data set", expected=" | ".join(DATASETS), got=self.name)
        if self.name == "folder":
            if self.folder is None:
                raise UsageError(
                    "no folder", where="--dataset folder", do="say where the images are: --data-dir FOLDER"
                )
            _within("image size", self.image_size, 1, 512)
        elif self.image_size is not None:
            raise UsageError("--image-size is for --dataset folder", got=f"--dataset {self.name}")


@dataclass(frozen=True)
class Recipe:
    """How a family is trained unless options say otherwise.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step.
        learning_rate: of Adam; the peak of it where it follows one cycle (Smith & Topin, arXiv:1708.07120).
        one_cycle: whether it does, or stays what it is.
        bfloat16: whether precision `auto` takes bfloat16 products where the device has them.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    one_cycle: bool
    bfloat16: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "learning_rate_schedule": "one cycle" if self.one_cycle else "constant",
            "optimizer": "Adam",
        }


#: `post` is trained as the post does it; the others as measured best in a minute or two on two cores. Convolutions in
#: bfloat16 gain little there, and are twenty times slower as soon as something else runs on one of the cores.
RECIPES: dict[Family, Recipe] = {
    "mlp": Recipe(epochs=20, batch_size=256, learning_rate=3e-3, one_cycle=True, bfloat16=True),
    "post": Recipe(epochs=10, batch_size=128, learning_rate=1e-3, one_cycle=False, bfloat16=False),
    "conv": Recipe(epochs=10, batch_size=256, learning_rate=3e-3, one_cycle=True, bfloat16=False),
}
#: Those are for sets like MNIST. Of fewer images than this, batches are smaller and epochs more, to make some steps.
SMALL_SET, SMALL_BATCH, SMALL_STEPS = 10_000, 64, 2_000


@dataclass(frozen=True)
class TrainOptions:
    """Attributes:
    data: what to train on.
    family, latent_size, hidden_size: the network, see `VAEConfig`.
    epochs, batch_size, learning_rate: None takes the family's recipe.
    beta: weight of the KL term in the loss (Higgins et al. 2017); never in a reported figure.
    seed: of weights, order, noise and dropout. The splits do not depend on it.
    device: auto, cpu, cuda or mps.
    precision: of products in training: float32, bfloat16, or auto, which is bfloat16 where the family's recipe
        takes it and the device has instructions for it. Scores are always computed in float32.
    threads: of the CPU. None: as many as torch takes by itself, up to `MAX_DEFAULT_THREADS`.
    """

    data: DataOptions = field(default_factory=DataOptions)
    family: Family = "mlp"
    latent_size: int = 20
    hidden_size: int = 400
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    beta: float = 1.0
    seed: int = 0
    device: str = "auto"
    precision: Precision = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        self.config((1, IMAGE_SIZE, IMAGE_SIZE))  # checks the family
        if self.precision not in get_args(Precision):
            raise UsageError("unknown precision", expected=" | ".join(get_args(Precision)), got=self.precision)
        _within("latent size", self.latent_size, 1, 4096)
        _within("hidden size", self.hidden_size, 1, 16384)
        _within("epochs", self.epochs, 1, 100_000)
        _within("batch size", self.batch_size, 1, 65_536)
        _within("seed", self.seed, 0, 2**63 - 1)
        _within("threads", self.threads, 1, 1024)
        if self.learning_rate is not None and not 0 < self.learning_rate <= 1:
            raise UsageError("bad learning rate", expected="above 0, up to 1", got=self.learning_rate)
        if not 0 <= self.beta < math.inf:
            raise UsageError("bad beta", expected="a number from 0 up", got=self.beta)

    def recipe(self, images: int) -> Recipe:
        """The family's recipe for that many training images, with what was asked for in its place."""
        usual = RECIPES[self.family]
        small = images < SMALL_SET
        batch_size = self.batch_size or (min(usual.batch_size, SMALL_BATCH) if small else usual.batch_size)
        enough = math.ceil(SMALL_STEPS / max(1, images // batch_size)) if small else 0
        return Recipe(
            self.epochs or max(usual.epochs, enough),
            batch_size,
            self.learning_rate or usual.learning_rate,
            usual.one_cycle,
            usual.bfloat16,
        )

    def config(self, image_shape: tuple[int, int, int]) -> VAEConfig:
        return VAEConfig(self.family, image_shape, self.latent_size, self.hidden_size)


def _within(name: str, value: int | None, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise UsageError(f"bad {name}", expected=f"{low:,} to {high:,}", got=value)
