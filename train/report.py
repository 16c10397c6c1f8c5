"""What a person sees of a training: a bar on a terminal, a plain line an epoch everywhere. All on stderr."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor

from train.doctor import Watcher
from train.evaluate import Score
from train.loop import Epoch, diverged
from train.options import Protocol
from vae_export.cli.console import message, progress

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Seconds between two looks at the loss: each makes an accelerator wait.
_INTERVAL = 0.25


class Report:
    def __init__(
        self,
        bar: Progress,
        task: TaskID,
        *,
        epochs: int,
        steps: int,
        batch_size: int,
        protocol: Protocol,
        silent: bool = False,
    ) -> None:
        self._silent = silent
        self._bar, self._task, self._protocol = bar, task, protocol
        self._epochs, self._steps, self._batch_size = epochs, steps, batch_size
        self._looked = self._started = time.perf_counter()
        self._watcher = Watcher()

    def step(self, epoch: int, step: int, total: Tensor) -> None:
        """After a step; `total` is the sum of the epoch's losses. Raises `InputError` when it is not finite."""
        now = time.perf_counter()
        if step == 1:
            self._started = now
        if now - self._looked < _INTERVAL:
            return
        self._looked = now
        mean = total.item() / step
        if not math.isfinite(mean):
            raise diverged(epoch, mean)
        speed = (step - 1) * self._batch_size / max(now - self._started, 1e-9)
        self._bar.update(
            self._task,
            description=f"epoch {epoch}/{self._epochs}",
            completed=(epoch - 1) * self._steps + step,
            note=f"{mean:.1f} nats  {speed:,.0f} images/s",
        )

    def epoch(self, epoch: Epoch, validation: Score, *, best: bool) -> None:
        line = (
            f"epoch {epoch.number:>{len(str(self._epochs))}}/{self._epochs}  "
            f"validation -ELBO {validation.negative_elbo:.2f} nats/image, {self._protocol} "
            f"(reconstruction {validation.reconstruction:.2f} + KL {validation.kl:.2f}), "
            f"{validation.active_units} active units, {epoch.images_per_second:,.0f} images/s"
            + (", saved" if best else "")
        )
        self._say(line)
        if (note := self._watcher.after(epoch.number, validation)) is not None:
            self._say(f"note: {note}")
        self._bar.update(self._task, completed=epoch.number * self._steps)

    def _say(self, line: str) -> None:
        if self._silent:
            return
        if self._bar.disable:
            message(line)
        else:  # above the bar, which a plain write would tear
            self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def reporting(
    *, epochs: int, steps: int, batch_size: int, protocol: Protocol, silent: bool = False
) -> Iterator[Report]:
    """`silent`: for a process that is not the first of those that train together."""
    with progress() as bar:
        bar.disable |= silent
        task = bar.add_task(f"epoch 1/{epochs}", total=epochs * steps, note="")
        yield Report(bar, task, epochs=epochs, steps=steps, batch_size=batch_size, protocol=protocol, silent=silent)
