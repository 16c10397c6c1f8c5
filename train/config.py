"""The options of a training, in frozen dataclasses that check their values.

The number of epochs, the batch size and the learning rate are options of `train.recipes`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from train.recipes import Recipe, RecipeOptions, check_range, default_recipe
from vae_export.errors import ModelError, UsageError
from vae_export.likelihood import SCALE, Likelihood, LikelihoodName
from vae_export.models.config import Activation, Family, VAEConfig, usual_latent_size

DatasetName = Literal["mnist", "fashion-mnist", "kmnist", "digits", "folder"]
DATASETS: tuple[DatasetName, ...] = get_args(DatasetName)
#: The name of images that `train.fit` was given.
ArrayName = Literal["array"]

#: Whether pixels are grey levels or binary samples of them; see `train.data.datasets`.
DataProtocol = Literal["grey", "dynamic", "static"]
DATA_PROTOCOLS: tuple[DataProtocol, ...] = get_args(DataProtocol)

#: Whether the images of a folder are held in memory or on the disk.
InMemory = Literal["auto", "yes", "no"]

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
PrecisionOption = Literal["auto", "float32", "bfloat16"]

#: The folder of downloads, below the working folder.
DATA_FOLDER = Path("data")
#: More threads than this do not make the steps of these small networks faster.
MAX_DEFAULT_THREADS = 4
#: Default side of square images, in pixels.
IMAGE_SIZE = 28
#: The largest side.
LARGEST_IMAGE = 512


@dataclass(frozen=True)
class DataOptions:
    """The images to train on.

    Attributes:
        name: the data set; "array" for images that are in memory.
        folder: the folder of its files; for "folder", of the images themselves. None means `data/`.
        image_size: side in pixels to which the images of "folder" are resized; None for 64, or 32 or 28 where they are
            smaller. Not for other data sets.
        download: whether to download what is missing.
        skip_unreadable: whether to leave out images of "folder" that cannot be read.
        protocol: whether a model is given grey levels or binary samples of them.
        in_memory: whether the pixels of "folder" are held in memory ("yes") or in a temporary file ("no"); "auto" takes
            memory where they fit.
    """

    name: DatasetName | ArrayName = "mnist"
    folder: Path | None = None
    image_size: int | None = None
    download: bool = True
    protocol: DataProtocol = "grey"
    skip_unreadable: bool = False
    in_memory: InMemory = "auto"

    def __post_init__(self) -> None:
        if self.name not in (*DATASETS, *get_args(ArrayName)):
            raise UsageError("unknown data set", expected=" | ".join(DATASETS), got=self.name)
        if self.protocol not in DATA_PROTOCOLS:
            raise UsageError("unknown data protocol", expected=" | ".join(DATA_PROTOCOLS), got=self.protocol)
        if self.name == "folder":
            if self.folder is None:
                raise UsageError(
                    "no folder", where="--dataset folder", do="say where the images are: --data-dir FOLDER"
                )
            check_range("image size", self.image_size, 1, LARGEST_IMAGE)
            if self.in_memory not in get_args(InMemory):
                raise UsageError("bad --in-memory", expected=" | ".join(get_args(InMemory)), got=self.in_memory)
        elif self.image_size is not None:
            raise UsageError("--image-size is for --dataset folder", got=f"--dataset {self.name}")
        elif self.in_memory == "no":
            raise UsageError("--in-memory no is for --dataset folder", got=f"--dataset {self.name}")
        elif self.skip_unreadable:
            raise UsageError("--skip-unreadable is for --dataset folder", got=f"--dataset {self.name}")
        elif self.name == "digits" and self.folder is not None:
            do = "for your own pictures pass --dataset folder; digits come with scikit-learn"
            raise UsageError("--data-dir is not for --dataset digits", got=self.folder, do=do)


@dataclass(frozen=True)
class NetworkOptions:
    """The network and its likelihood.

    Attributes:
        family: kind of network, see `VAEConfig`.
        latent_size: number of latent units; None for `usual_latent_size`.
        hidden_size: width of the fully connected layers.
        activation: function between layers; None for the default of `VAEConfig`.
        likelihood: p(x|z), see `vae_export.likelihood`.
        scale: standard deviation of "gaussian-fixed", for pixels in [0, 1], None for 0.1. Not for other likelihoods.
    """

    family: Family = "mlp"
    latent_size: int | None = None
    hidden_size: int = 400
    activation: Activation | None = None
    likelihood: LikelihoodName = "bernoulli"
    scale: float | None = None

    def __post_init__(self) -> None:
        check_range("latent size", self.latent_size, 1, 65_536)
        check_range("hidden size", self.hidden_size, 1, 16384)
        if self.scale is not None and self.likelihood != "gaussian-fixed":
            raise UsageError("--scale is for --likelihood gaussian-fixed", got=f"--likelihood {self.likelihood}")
        self.config((1, LARGEST_IMAGE, LARGEST_IMAGE))  # fails before the images are read if no size fits

    def config(self, image_shape: tuple[int, int, int]) -> VAEConfig:
        """Return the network for images (C, H, W). Raises `UsageError` if the family does not support them."""
        name = self.likelihood
        if name == "discretised-logistic-colour" and image_shape[0] != 3:
            name = "discretised-logistic"  # what it is without colours
        try:
            scale = (SCALE if self.scale is None else self.scale) if self.likelihood == "gaussian-fixed" else 1.0
            likelihood = Likelihood(name, scale)
        except ModelError as error:
            raise UsageError(error.what, expected=error.expected, got=error.got) from error
        latent_size = usual_latent_size(self.family, image_shape) if self.latent_size is None else self.latent_size
        activation = {} if self.activation is None else {"activation": self.activation}
        return VAEConfig(self.family, image_shape, latent_size, self.hidden_size, likelihood=likelihood, **activation)


@dataclass(frozen=True)
class ObjectiveOptions:
    """The differences between the training loss and the bound. Reported scores are of the bound itself.

    Attributes:
        beta: weight of the KL term (Higgins et al. 2017).
        kl_warmup: epochs over which that weight rises from 0 (Bowman et al., arXiv:1511.06349; Sønderby et al.,
            arXiv:1602.02282), so that units do not collapse before the decoder can use them.
        free_bits: KL per unit, in nats and in the mean over a batch, that is not penalised (Kingma et al.,
            arXiv:1606.04934, appendix C.8).
    """

    beta: float = 1.0
    kl_warmup: float = 0.0
    free_bits: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("beta", self.beta), ("KL warm-up", self.kl_warmup), ("free bits", self.free_bits)):
            if not 0 <= value < math.inf:
                raise UsageError(f"bad {name}", expected="a number from 0 up", got=value)

    def kl_weight(self, epochs: float) -> float:
        """Return the weight of the KL term after a number of epochs, which may be fractional."""
        return self.beta * (min(1.0, epochs / self.kl_warmup) if self.kl_warmup else 1.0)

    def to_json(self) -> dict[str, Any]:
        """Return the options as they are stored in checkpoints and training states."""
        return {"beta": self.beta, "kl_warmup_epochs": self.kl_warmup, "free_bits": self.free_bits}


@dataclass(frozen=True)
class TrainOptions:
    """All options of a training.

    Attributes:
        data: the images.
        network: the network and its likelihood.
        objective: the loss.
        recipe: options that replace parts of the family's own recipe.
        seed: the seed of weights, order, noise, dropout and dynamic binarisation. The splits do not depend on it.
        device: auto, cpu, cuda or mps.
        precision: precision of matrix products and convolutions in training. "auto" is bfloat16 if the family's recipe
            allows it, the device has instructions for it, and it is faster. Scores are always computed in float32.
        threads: number of CPU threads. None for one or all of torch's, whichever is faster; see `train.autotune`.
        preset: name of the preset that the options come from, for the record.
        compiled: whether the loss is compiled by torch.compile.
    """

    data: DataOptions = field(default_factory=DataOptions)
    network: NetworkOptions = field(default_factory=NetworkOptions)
    objective: ObjectiveOptions = field(default_factory=ObjectiveOptions)
    recipe: RecipeOptions = field(default_factory=RecipeOptions)
    seed: int = 0
    device: DeviceName = "auto"
    precision: PrecisionOption = "auto"
    threads: int | None = None
    preset: str | None = None
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.precision not in get_args(PrecisionOption):
            raise UsageError("unknown precision", expected=" | ".join(get_args(PrecisionOption)), got=self.precision)
        check_range("seed", self.seed, 0, 2**62)
        check_range("threads", self.threads, 1, 1024)
        if self.recipe.whiten and self.network.family in ("blog", "pyramid"):
            raise UsageError(f"--whiten does not suit family {self.network.family}", do="pass --no-whiten")
        self.recipe_for(1)  # fails before any work if the family's recipe has no such option

    def recipe_for(self, images: int) -> Recipe:
        """Return the recipe for a number of training images."""
        return self.recipe.apply_to(default_recipe(self.network.family, images, self.recipe.batch_size))
