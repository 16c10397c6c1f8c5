"""Show a training on stderr: a bar on a terminal, a line per epoch, and notes on options and collapsed units."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from train.advice import expectation
from train.config import DataOptions
from train.data.datasets import Dataset, load
from train.results import ScoreKind, pixels_name
from train.scoring import Score
from train.trainer import EpochResult, divergence_error
from vae_export.cli.console import message, progress, wrapped
from vae_export.likelihood import MAX_LEVEL
from vae_export.models import VAEConfig

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Epochs after which inactive units count as collapsed.
_COLLAPSE_EPOCHS = 5
#: Share of black and white pixels above which images count as binary.
_BINARY_SHARE = 0.999


def load_with_progress(options: DataOptions) -> Dataset:
    """Load a data set; say on stderr what is downloaded or skipped, with a bar while a folder of images is read."""
    if options.name != "folder":
        return load(options, report=message)
    lines: list[str] = []
    with progress() as bar:
        task = bar.add_task("reading images", total=None, note="")

        def show(done: int, images: int) -> None:
            bar.update(task, completed=done, total=images)

        dataset = load(options, report=lines.append, progress=show)
    for line in lines:  # a plain write would break the bar
        message(line)
    return dataset


def notes_before_training(config: VAEConfig, dataset: Dataset) -> Iterator[str]:
    """Yield one line for each problem that the options and the images foretell."""
    if config.family == "blog":
        yield (
            "ReLU heads: posterior means are never below 0, standard deviations never below 1; "
            "--family mlp has linear heads"
        )
    if config.family == "resnet" and (note := expectation(len(dataset.train))) is not None:
        yield note
    pixels = dataset.train[:1000]
    binary = ((pixels == 0) | (pixels == MAX_LEVEL)).to(torch.float32).mean().item() > _BINARY_SHARE
    drawn = dataset.protocol != "grey"
    if config.likelihood.name == "bernoulli" and not drawn and not binary:
        yield (
            f"{pixels_name('grey', dataset.image_shape)} pixels under a Bernoulli: scores are cross-entropies, not "
            "likelihoods; for likelihoods use --data-protocol dynamic or "
            f"--likelihood discretised-logistic{'-colour' if dataset.image_shape[0] == 3 else ''}"
        )
    if config.likelihood.name != "bernoulli" and (drawn or binary):
        unbounded = config.likelihood.name == "gaussian"
        why = "their density is unbounded" if unbounded else "this likelihood is for grey levels"
        yield f"binary pixels under {config.likelihood.name}: {why}; use --likelihood bernoulli"


class CollapseMonitor:
    """Notes once that most latent units have collapsed. Some always do if there are more than the images need."""

    def __init__(self) -> None:
        self._has_noted = False

    def note_after(self, epoch: int, score: Score) -> str | None:
        """Return a note on the score of the validation images after an epoch, or None."""
        units, active = len(score.unit_variances), score.active_units
        if self._has_noted or epoch < _COLLAPSE_EPOCHS or 4 * active >= units:
            return None
        self._has_noted = True
        inactive = f"{units - active} of {units} latent units are inactive"
        return f"epoch {epoch}: {inactive}; try --kl-warmup 5, --free-bits 0.1 or a smaller --latent-size"


#: Seconds between two reads of the loss, since each makes an accelerator wait.
_READ_INTERVAL = 0.25


class TrainingProgress:
    """Prints the progress of a training; made by `show_progress`."""

    def __init__(
        self,
        bar: Progress,
        task: TaskID,
        *,
        epochs: int,
        steps: int,
        batch_size: int,
        kind: ScoreKind,
        silent: bool = False,
    ) -> None:
        self._silent = silent
        self._bar, self._task, self._kind = bar, task, kind
        self._epochs, self._steps, self._batch_size = epochs, steps, batch_size
        self._last_read = self._started = time.perf_counter()
        self._collapse_monitor = CollapseMonitor()
        self._has_heading = False
        self._speed = ""

    def step(self, epoch: int, step: int, total: Tensor) -> None:
        """Show a step.

        Args:
            epoch: the number of the epoch, from 1.
            step: the number of the step in the epoch, from 1.
            total: the sum of the epoch's losses so far, a scalar in nats; it is read once in a while only.

        Raises:
            InputError: the loss is not finite.
        """
        now = time.perf_counter()
        if step == 1:
            self._started = now
        if now - self._last_read < _READ_INTERVAL:
            return
        self._last_read = now
        mean = total.item() / step
        if not math.isfinite(mean):
            raise divergence_error(epoch, mean)
        if step > 1:  # the first step of an epoch has no time yet: the speed of the epoch before stays
            self._speed = f"  {(step - 1) * self._batch_size / max(now - self._started, 1e-9):,.0f} images/s"
        self._bar.update(
            self._task,
            description=f"epoch {epoch}/{self._epochs}",
            completed=(epoch - 1) * self._steps + step,
            note=f"{mean:.1f} nats{self._speed}",
        )

    def epoch(self, epoch: EpochResult, validation: Score, *, best: bool) -> None:
        """Print the scores after an epoch, in nats per image, within 80 columns.

        Args:
            epoch: the result of the epoch.
            validation: the score of the validation images.
            best: whether this score is the best so far and the weights were saved.
        """
        if not self._has_heading:
            self._has_heading = True
            self._say(f"validation, in nats per image ({self._kind.pixels}): -ELBO = reconstruction + KL")
        number = f"{epoch.number:>{len(str(self._epochs))}}/{self._epochs}"
        has_levels = self._kind.has_levels
        digits = 2 if validation.negative_elbo < 10_000 else 0 if has_levels else 1
        bound, reconstruction, kl = (
            f"{nats:.{digits}f}" for nats in (validation.negative_elbo, validation.reconstruction, validation.kl)
        )
        if has_levels:  # nats of so many pixels say little
            line = f"epoch {number}  {self._kind.bits_per_dim(validation.negative_elbo):.3f} bits/dim  "
            line += f"-ELBO {bound} = {reconstruction} + KL {kl}, {validation.active_units} active"
        else:
            line = f"epoch {number}  -ELBO {bound} = {reconstruction} + KL {kl}, {validation.active_units} active units"
        line += f", {epoch.images_per_second:,.0f}/s" + (", saved" if best else "")
        self._say(line)
        if (note := self._collapse_monitor.note_after(epoch.number, validation)) is not None:
            self._say(f"note: {note}")
        self._bar.update(self._task, completed=epoch.number * self._steps)

    def _say(self, line: str) -> None:
        if self._silent:
            return
        if self._bar.disable:
            message(line)
        else:  # a plain write would break the bar
            self._bar.console.print(wrapped(line), highlight=False, markup=False, soft_wrap=True)


@contextmanager
def show_progress(
    *, epochs: int, steps: int, batch_size: int, kind: ScoreKind, silent: bool = False
) -> Iterator[TrainingProgress]:
    """Show a bar while the block runs.

    Args:
        epochs: the number of epochs.
        steps: the number of steps in each epoch.
        batch_size: the number of images in each step, for the speed.
        kind: the pixels and the likelihood that scores are of.
        silent: whether to show nothing: for all processes but the first of those that train together.

    Yields:
        The receiver of steps and epochs.
    """
    with progress() as bar:
        bar.disable |= silent
        task = bar.add_task(f"epoch 1/{epochs}", total=epochs * steps, note="")
        yield TrainingProgress(bar, task, epochs=epochs, steps=steps, batch_size=batch_size, kind=kind, silent=silent)
