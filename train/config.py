"""What to train and on what: the options of `cli.py train`, grouped, and checked when they are made.

How long and how fast is in `train.recipes`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from train.recipes import Recipe, RecipeOptions, check_range, default_recipe
from vae_export.errors import ModelError, UsageError
from vae_export.likelihood import SCALE, Likelihood, LikelihoodName
from vae_export.models.config import Activation, Family, VAEConfig

DatasetName = Literal["mnist", "fashion-mnist", "kmnist", "digits", "folder"]
DATASETS: tuple[DatasetName, ...] = get_args(DatasetName)

#: What becomes of grey levels before a model sees them; see `train.data.datasets`.
DataProtocol = Literal["grey", "dynamic", "static"]
DATA_PROTOCOLS: tuple[DataProtocol, ...] = get_args(DataProtocol)

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
PrecisionOption = Literal["auto", "float32", "bfloat16"]

#: Where downloads go, below the working folder.
DATA_FOLDER = Path("data")
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
    protocol: what becomes of grey levels before a model sees them.
    """

    name: DatasetName = "mnist"
    folder: Path | None = None
    image_size: int | None = None
    download: bool = True
    protocol: DataProtocol = "grey"

    def __post_init__(self) -> None:
        if self.name not in DATASETS:
            raise UsageError("unknown data set", expected=" | ".join(DATASETS), got=self.name)
        if self.protocol not in DATA_PROTOCOLS:
            raise UsageError("unknown data protocol", expected=" | ".join(DATA_PROTOCOLS), got=self.protocol)
        if self.name == "folder":
            if self.folder is None:
                raise UsageError(
                    "no folder", where="--dataset folder", do="say where the images are: --data-dir FOLDER"
                )
            check_range("image size", self.image_size, 1, 512)
        elif self.image_size is not None:
            raise UsageError("--image-size is for --dataset folder", got=f"--dataset {self.name}")


@dataclass(frozen=True)
class NetworkOptions:
    """Attributes:
    family, latent_size, hidden_size, activation: see `VAEConfig`.
    likelihood: p(x|z), see `vae_export.likelihood`.
    scale: deviation of `gaussian-fixed`, for pixels in [0, 1]; None for 0.1; not for the others.
    """

    family: Family = "mlp"
    latent_size: int = 20
    hidden_size: int = 400
    activation: Activation | None = None
    likelihood: LikelihoodName = "bernoulli"
    scale: float | None = None

    def __post_init__(self) -> None:
        check_range("latent size", self.latent_size, 1, 4096)
        check_range("hidden size", self.hidden_size, 1, 16384)
        if self.scale is not None and self.likelihood != "gaussian-fixed":
            raise UsageError("--scale is for --likelihood gaussian-fixed", got=f"--likelihood {self.likelihood}")
        self.config((1, IMAGE_SIZE, IMAGE_SIZE))

    def config(self, image_shape: tuple[int, int, int]) -> VAEConfig:
        """For images of this shape; raises `UsageError` where the family cannot have it."""
        try:
            scale = (SCALE if self.scale is None else self.scale) if self.likelihood == "gaussian-fixed" else 1.0
            likelihood = Likelihood(self.likelihood, scale)
        except ModelError as error:
            raise UsageError(error.what, expected=error.expected, got=error.got) from error
        activation = {} if self.activation is None else {"activation": self.activation}
        return VAEConfig(
            self.family, image_shape, self.latent_size, self.hidden_size, likelihood=likelihood, **activation
        )


@dataclass(frozen=True)
class ObjectiveOptions:
    """What training minimises beside the bound itself. None of it is ever in a reported figure.

    Attributes:
        beta: weight of the KL term (Higgins et al. 2017).
        kl_warmup: epochs in which that weight grows from 0 (Bowman et al., arXiv:1511.06349; Sønderby et al.,
            arXiv:1602.02282), so that units are not given up before the decoder can use them.
        free_bits: nats that each unit's KL, in the mean over a batch, may have for nothing (Kingma et al.,
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
        """Weight of the KL term after so many epochs."""
        return self.beta * (min(1.0, epochs / self.kl_warmup) if self.kl_warmup else 1.0)

    def to_json(self) -> dict[str, Any]:
        return {"beta": self.beta, "kl_warmup_epochs": self.kl_warmup, "free_bits": self.free_bits}


@dataclass(frozen=True)
class TrainOptions:
    """Attributes:
    data, network, objective: what to train.
    recipe: how; what is None there is as the family's own recipe has it.
    seed: of weights, order, noise, dropout and dynamic binarisation. The splits do not depend on it.
    device: auto, cpu, cuda or mps.
    precision: of products in training: float32, bfloat16, or auto, which is bfloat16 where the family's recipe
        takes it, the device has instructions for it, and they are quicker. Scores are always computed in float32.
    threads: of the CPU. None: one or `MAX_DEFAULT_THREADS`, whichever is quicker; see `train.autotune`.
    preset: where the options come from, for the record.
    compiled: by torch.compile.
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
        self.recipe_for(1)  # before any work: the family's recipe may have no such option

    def recipe_for(self, images: int) -> Recipe:
        """How to train on that many images."""
        return self.recipe.apply_to(default_recipe(self.network.family, images, self.recipe.batch_size))
