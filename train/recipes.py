"""Recipes: epochs, batch size and learning rate of each family, the options that replace parts of them, and presets.

The learning rate is a function of the step, so there is no scheduler to save. The schedules are

constant   always the same rate
one-cycle  up from 1/25 of the peak in a share of the steps, the recipe's `warmup_ratio`, then down to nearly 0, along
           cosines, while Adam's first beta goes from 0.95 to 0.85 and back (Smith & Topin, arXiv:1708.07120; the
           numbers are those of torch.optim.lr_scheduler.OneCycleLR). A training that is resumed for more epochs
           follows a new cycle over all that remain.
stages     a number of epochs at each of several rates
"""

from __future__ import annotations

import itertools
import math
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from vae_export.errors import InputError, UsageError, unknown_choice
from vae_export.models.config import Family

Schedule = Literal["constant", "one-cycle", "stages"]
#: Number of epochs and learning rate of each stage.
Stages: TypeAlias = tuple[tuple[int, float], ...]

#: With fewer images than SMALL_SET, batches are smaller and epochs more than for data sets like MNIST, so that there
#: are at least SMALL_STEPS steps.
SMALL_SET, SMALL_BATCH, SMALL_STEPS = 10_000, 64, 2_000
#: Adam's default epsilon.
EPSILON = 1e-8


@dataclass(frozen=True)
class Recipe:
    """The length and the learning rates of a training.

    Attributes:
        epochs: passes over the training images.
        batch_size: images per step.
        learning_rate: Adam's; its peak for schedule "one-cycle".
        schedule: the learning rate as a function of the step, see the module's docstring.
        bfloat16: whether precision "auto" may choose bfloat16.
        stages: the stages of schedule "stages".
        epsilon: Adam's.
        weight_average: decay per step of the average of the weights (Polyak averaging), which is scored and saved; 0
            for none.
        warmup_ratio: share of the steps in which the rate of "one-cycle" rises.
        flip: whether each image is mirrored at random.
        shift: the most pixels by which each image is moved at random, up or down and to a side; what comes in at the
            edge is mirrored there.
        clip_norm: largest norm of the gradient over all weights, of the loss in nats per value of a pixel, so that it
            does not depend on the image size; longer gradients are shortened to it (Pascanu et al., arXiv:1211.5063).
            0 for none.
        whiten: whether the network that is scored and saved has whitened latents (`train.whitening`).
        cycle_start: steps that were done when the last cycle of "one-cycle" began.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    schedule: Schedule
    bfloat16: bool
    stages: Stages = ()
    epsilon: float = EPSILON
    weight_average: float = 0.0
    warmup_ratio: float = 0.3
    flip: bool = False
    shift: int = 0
    clip_norm: float = 0.0
    whiten: bool = False
    cycle_start: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as it is stored in checkpoints and training states."""
        added = "flip", "shift", "clip_norm", "whiten", "cycle_start"
        unusual = {name: getattr(self, name) for name in added if getattr(self, name)}
        return {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "learning_rate_schedule": self.schedule,
            "warmup_ratio": self.warmup_ratio,
            "stages": [list(stage) for stage in self.stages],
            "optimizer": "Adam",
            "epsilon": self.epsilon,
            "weight_average": self.weight_average,
            **unusual,
        }


#: `blog` is trained as in the blog post; the others as measured best in a minute or two on two cores. While the
#: learning rate is high, the average of the last hundred steps' weights is three to four nats better than the weights
#: themselves; at the end of the cycle both agree. So the rate of `mlp` peaks early, and fewer epochs are as good.
#: Convolutions in bfloat16 gain little on two cores, and are twenty times slower as soon as another program runs.
RECIPES: dict[Family, Recipe] = {
    "mlp": Recipe(
        14, 128, learning_rate=3e-3, schedule="one-cycle", bfloat16=True, weight_average=0.99, warmup_ratio=0.1
    ),
    "blog": Recipe(epochs=10, batch_size=128, learning_rate=1e-3, schedule="constant", bfloat16=False),
    "conv": Recipe(epochs=10, batch_size=256, learning_rate=3e-3, schedule="one-cycle", bfloat16=False),
    "residual": Recipe(epochs=12, batch_size=128, learning_rate=2e-3, schedule="one-cycle", bfloat16=True),
    "resnet": Recipe(
        30, 64, learning_rate=1e-3, schedule="one-cycle", bfloat16=False, weight_average=0.995, warmup_ratio=0.1
    ),
    "pyramid": Recipe(
        20, 16, learning_rate=2e-3, schedule="one-cycle", bfloat16=False, weight_average=0.995, warmup_ratio=0.1
    ),
}


@dataclass(frozen=True)
class RecipeOptions:
    """Values that replace those of a recipe; None keeps them. The names are those of `Recipe`.

    `stages` define epochs and rates; `epochs` then ends them early.
    """

    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    stages: Stages | None = None
    epsilon: float | None = None
    weight_average: float | None = None
    warmup_ratio: float | None = None
    flip: bool | None = None
    shift: int | None = None
    clip_norm: float | None = None
    whiten: bool | None = None

    def __post_init__(self) -> None:
        check_range("epochs", self.epochs, 1, 100_000)
        check_range("batch size", self.batch_size, 1, 65_536)
        check_range("shift", self.shift, 0, 1024)
        rates = [self.learning_rate, *(rate for _, rate in self.stages or ())]
        for rate in rates:
            if rate is not None and not 0 < rate <= 1:
                raise UsageError("bad learning rate", expected="above 0, up to 1", got=rate)
        if self.stages is not None:
            if not self.stages or self.learning_rate is not None:
                raise UsageError("stages have rates of their own", do="pass --stages or --learning-rate")
            for epochs, _ in self.stages:
                check_range("epochs of a stage", epochs, 1, 100_000)
        if self.epsilon is not None and not 0 < self.epsilon <= 1:
            raise UsageError("bad epsilon", expected="above 0, up to 1", got=self.epsilon)
        if self.weight_average is not None and not 0 <= self.weight_average < 1:
            raise UsageError("bad weight average", expected="from 0, below 1", got=self.weight_average)
        if self.clip_norm is not None and not 0 <= self.clip_norm < math.inf:
            raise UsageError("bad clip norm", expected="a number from 0 up", got=self.clip_norm)
        if self.warmup_ratio is not None and not 0 < self.warmup_ratio < 1:
            raise UsageError("bad warm-up ratio", expected="above 0, below 1", got=self.warmup_ratio)

    def apply_to(self, usual: Recipe) -> Recipe:
        """Return a recipe with these values in place of its own. Raises `UsageError` if they do not fit it."""
        asked: dict[str, Any] = {name: value for name, value in vars(self).items() if value is not None}
        if self.stages is not None:
            asked["schedule"], asked["learning_rate"] = "stages", max(rate for _, rate in self.stages)
            asked["epochs"] = self.epochs or sum(epochs for epochs, _ in self.stages)
        recipe = replace(usual, **asked)
        if self.warmup_ratio is not None and recipe.schedule != "one-cycle":
            raise UsageError("--warmup-ratio is for schedule one-cycle", got=recipe.schedule)
        return recipe


def default_recipe(family: Family, images: int, batch_size: int | None) -> Recipe:
    """Return the recipe of a family. For fewer images than `SMALL_SET`, it has smaller batches and more epochs.

    Args:
        family: the family of the network.
        images: the number of training images.
        batch_size: the requested batch size, from which the epochs of a small set follow; None if there is none.

    Returns:
        The recipe.
    """
    usual = RECIPES[family]
    if images >= SMALL_SET:
        return usual
    batch = batch_size or min(usual.batch_size, SMALL_BATCH)
    enough = math.ceil(SMALL_STEPS / max(1, images // batch))
    return replace(usual, batch_size=batch, epochs=max(usual.epochs, enough))


def parse_stages(text: str) -> Stages:
    """Parse stages such as "1:1e-3,3:7.2e-4" to ((1, 0.001), (3, 0.00072)). Raises `UsageError`."""
    try:
        pairs = [stage.split(":") for stage in text.split(",")]
        return tuple((int(epochs), float(rate)) for epochs, rate in pairs)
    except ValueError as error:
        raise UsageError("stages cannot be read", expected="EPOCHS:RATE,EPOCHS:RATE,…", got=text) from error


def check_range(name: str, value: int | None, low: int, high: int) -> None:
    """Check a number of the user's.

    Args:
        name: the name of the number, for the message.
        value: the number; None is accepted.
        low, high: the smallest and the largest allowed number.

    Raises:
        UsageError: the number is out of range.
    """
    if value is not None and not low <= value <= high:
        raise UsageError(f"bad {name}", expected=f"{low:,} to {high:,}", got=value)


_START, _END = 1 / 25, 1 / 25 / 1e4
_BETA_LOW, _BETA_HIGH = 0.85, 0.95
#: Adam's first beta for the other schedules.
_BETA = 0.9


def learning_rate_at(recipe: Recipe, step: int, steps_per_epoch: int) -> tuple[float, float]:
    """Return the learning rate and Adam's first beta of a step.

    Args:
        recipe: the recipe.
        step: the number of the step, counted from 0 over all epochs.
        steps_per_epoch: the number of steps in each epoch.

    Returns:
        The learning rate and beta.
    """
    if recipe.schedule == "one-cycle":
        start = recipe.cycle_start
        steps = recipe.epochs * steps_per_epoch - start
        return _one_cycle(recipe.learning_rate, recipe.warmup_ratio, step - start, steps)
    if recipe.schedule == "stages":
        epoch = step // steps_per_epoch
        ends = itertools.accumulate(epochs for epochs, _ in recipe.stages)
        rates = (rate for end, (_, rate) in zip(ends, recipe.stages, strict=True) if epoch < end)
        return next(rates, recipe.stages[-1][1]), _BETA
    return recipe.learning_rate, _BETA


def _one_cycle(peak: float, rise: float, step: int, steps: int) -> tuple[float, float]:
    turn = rise * steps - 1
    if step < turn:
        done = step / turn
        return _cosine(_START * peak, peak, done), _cosine(_BETA_HIGH, _BETA_LOW, done)
    done = (step - turn) / (steps - 1 - turn)
    return _cosine(peak, _END * peak, done), _cosine(_BETA_LOW, _BETA_HIGH, done)


def _cosine(start: float, end: float, done: float) -> float:
    """Return a value that goes from `start` to `end` as `done` goes from 0 to 1."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * done))


#: A TOML file for each preset: `summary`, one line for --list-presets, and `[options]`, the long names of the options
#: of `cli.py train` without the dashes in front.
PRESET_FOLDER = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class Preset:
    """Options of `cli.py train` under a name.

    Attributes:
        name: name of the preset's file.
        summary: one line.
        options: values by the long names of the options.
    """

    name: str
    summary: str
    options: dict[str, Any]


def preset_names() -> list[str]:
    """Return the names of all presets, sorted."""
    return sorted(path.stem for path in PRESET_FOLDER.glob("*.toml"))


def read_preset(name: str) -> Preset:
    """Read a preset by its name. Raises `UsageError` if there is none, `InputError` if its file is not valid."""
    path = PRESET_FOLDER / f"{name}.toml"
    if name not in preset_names():
        raise unknown_choice("preset", preset_names(), name)
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError("preset cannot be read", where=path, got=str(error)) from error
    options, summary = data.get("options"), data.get("summary")
    if set(data) != {"options", "summary"} or not isinstance(options, dict) or not isinstance(summary, str):
        raise InputError("preset cannot be read", where=path, expected="summary and [options]", got=sorted(data))
    return Preset(name, summary, options)
