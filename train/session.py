"""A training in its run folder: the lock, the best checkpoint, the metrics, and what happens on Ctrl-C.

The best checkpoint is chosen by the validation images; the test images are measured and never decide. The checkpoint
before it stays at `Run.previous_checkpoint`. Equal options, data, threads and versions give equal bytes on a CPU:
nothing about the time or the machine is in a checkpoint.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from train.data import Dataset
from train.evaluate import Score, evaluate
from train.loop import Epoch, diverged, epochs, multiplies_bfloat16, steps_per_epoch
from train.options import TrainOptions
from train.report import Report
from train.weights import initialise
from vae_export import __version__
from vae_export.checkpoint import Checkpoint, save_checkpoint
from vae_export.errors import Interrupted, OutputExistsError, Terminated, UsageError
from vae_export.files import PARTIAL, check_writable, locked, storage_errors, sweep
from vae_export.models import VAE
from vae_export.runs import Run

#: Test images that travel in the checkpoint.
EXAMPLES = 64


@dataclass(frozen=True)
class Saved:
    """What is in the run's checkpoint.

    Attributes:
        epoch: epochs that were completed before it was written.
        steps: steps of the optimizer.
    """

    epoch: int
    steps: int
    validation: Score
    test: Score

    def to_json(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "steps": self.steps,
            "scores": {"validation": self.validation.to_json(), "test": self.test.to_json()},
        }


def check_out(run: Run, *, force: bool) -> None:
    """Refuse a folder that is in use, that holds a run (without `force`), or that holds anything else.

    Called before data is read, so that a refusal costs nothing. Raises `StorageError`, `OutputExistsError`,
    `UsageError`.
    """
    if not os.path.lexists(run.folder):
        return
    if not run.folder.is_dir():
        raise UsageError("not a folder", where=run.folder, do="choose another --out")
    if (run.folder / ".lock").exists():
        with locked(run.folder):
            pass
    ours = run.checkpoint.exists() or run.previous_checkpoint.exists()
    left = {".lock", run.state.name, run.metrics.name}  # by a training that ended before there was anything to keep
    if not ours and {entry.name for entry in run.folder.iterdir()} <= left:
        return
    if not force:
        raise OutputExistsError(run.folder)
    if not ours:
        raise UsageError("not a run, so --force will not replace it", where=run.folder, do="choose another --out")


@contextmanager
def claimed(run: Run, *, force: bool) -> Iterator[None]:
    """Hold the run folder, cleared of an earlier training.

    Its checkpoint stays as the previous one, until the new training has two of its own. Its export goes: it must
    not lie beside a checkpoint that it was not made from.
    """
    check_out(run, force=force)
    with locked(run.folder):
        check_writable(run.folder)
        sweep(run.folder)
        with storage_errors(run.folder):
            run.state.mkdir(exist_ok=True)
            sweep(run.state)
            if run.checkpoint.exists():
                os.replace(run.checkpoint, run.previous_checkpoint)
            for folder in (run.export, run.pictures):
                if folder.exists():
                    shutil.rmtree(folder)
            run.metrics.write_bytes(b"")
        yield


class Session:
    """One training. Make it inside `claimed`, call `train` once."""

    def __init__(self, options: TrainOptions, run: Run, dataset: Dataset, device: torch.device) -> None:
        self.options, self.run, self.dataset, self.device = options, run, dataset, device
        self.saved: Saved | None = None
        self._data = dataset.to_json()
        self.recipe = options.recipe(len(dataset.train))
        self.steps_per_epoch = steps_per_epoch(len(dataset.train), self.recipe.batch_size)
        self.precision = options.precision
        if self.precision == "auto":
            fast = self.recipe.bfloat16 and multiplies_bfloat16(device)
            self.precision = "bfloat16" if fast else "float32"
        self._epoch, self._step = 0, 0  # completed epochs; steps since then
        torch.manual_seed(options.seed)
        self.model = VAE(options.config(dataset.image_shape))
        initialise(self.model, dataset.train)
        # Twice as fast in family `conv` on a CPU; torch's type hints do not know the argument.
        self.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def train(self, report: Report) -> Saved:
        """Train to the end and return what was saved.

        Raises:
            InputError: the loss is not finite. The checkpoint of the best epoch until then stays.
            Interrupted, Terminated: on Ctrl-C or SIGTERM, after the weights at hand were saved if they are the best.
            StorageError: disk full, for example. The last checkpoint stays.
        """

        def watch(epoch: int, step: int, total: torch.Tensor) -> None:
            self._step = step
            report.step(epoch, step, total)

        try:
            for epoch in epochs(
                self.model,
                self.dataset.train,
                self.recipe,
                beta=self.options.beta,
                watch=watch,
                bfloat16=self.precision == "bfloat16",
            ):
                self._epoch, self._step = epoch.number, 0
                self._finish(epoch, report)
        except KeyboardInterrupt as stop:
            kind = Terminated if isinstance(stop, Terminated) else Interrupted
            raise kind(self._rescue()) from None
        if self.saved is None:
            raise diverged(self._epoch, math.nan)
        return self.saved

    def _finish(self, epoch: Epoch, report: Report) -> None:
        """Measure, save if best, log."""
        # As many training images as validation images: a full pass would cost a tenth of the epoch, to show the gap.
        few = self.dataset.train[: len(self.dataset.validation)]
        train, validation, test = (
            evaluate(self.model, part) for part in (few, self.dataset.validation, self.dataset.test)
        )
        if not all(score.is_finite for score in (train, validation, test)):
            raise diverged(epoch.number, validation.negative_elbo)
        best = self._offer(validation, test)
        line = {
            "epoch": epoch.number,
            "train": train.to_json(),
            "validation": validation.to_json(),
            "test": test.to_json(),
            "seconds": round(epoch.seconds, 3),
            "images_per_second": round(epoch.images_per_second, 1),
        }
        with storage_errors(self.run.metrics), open(self.run.metrics, "ab", buffering=0) as file:
            file.write((json.dumps(line) + "\n").encode())  # one write: no torn line, wherever the process is stopped
        report.epoch(epoch, validation, best=best)

    def _rescue(self) -> str:
        """Save the weights at hand if they are the best, and say in a few words what is where."""
        steps = self._epoch * self.steps_per_epoch + self._step
        if self._step:
            validation = evaluate(self.model, self.dataset.validation)
            if self._is_best(validation):
                self._offer(validation, evaluate(self.model, self.dataset.test))
        if self.saved is None:
            return f"after {steps} steps, nothing to save yet"
        score = f"validation -ELBO {self.saved.validation.negative_elbo:.2f} nats per image"
        return f"after {steps} steps, the best checkpoint is {self.run.checkpoint} ({score})"

    def _is_best(self, validation: Score) -> bool:
        if not validation.is_finite:
            return False
        return self.saved is None or validation.negative_elbo < self.saved.validation.negative_elbo

    def _offer(self, validation: Score, test: Score) -> bool:
        """Save the weights if they are the best so far on the validation images."""
        if not self._is_best(validation):
            return False
        saved = Saved(self._epoch, self._epoch * self.steps_per_epoch + self._step, validation, test)
        checkpoint = Checkpoint(
            config=self.model.config,
            weights={name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()},
            examples=self.dataset.test[:EXAMPLES].clone(),
            provenance=self._provenance() | saved.to_json(),
        )
        self._keep_previous()
        save_checkpoint(checkpoint, self.run.checkpoint)
        self.saved = saved
        return True

    def _keep_previous(self) -> None:
        """Let the checkpoint that is about to be replaced stay under a second name, at no instant without either."""
        if not self.run.checkpoint.exists():
            return
        link = self.run.state / f"{PARTIAL}{self.run.checkpoint.name}"
        with storage_errors(link):
            link.unlink(missing_ok=True)
            try:
                os.link(self.run.checkpoint, link)
            except OSError:  # a file system without hard links
                shutil.copyfile(self.run.checkpoint, link)
            os.replace(link, self.run.previous_checkpoint)
            link.unlink(missing_ok=True)  # a rename between two names of one file does nothing (POSIX)

    def _provenance(self) -> dict[str, Any]:
        training = self.recipe.to_json() | {"beta": self.options.beta, "seed": self.options.seed}
        training |= {"device": self.device.type, "precision": self.precision}
        if self.device.type == "cpu":
            training["threads"] = torch.get_num_threads()  # sums are split among them, and rounded accordingly
        return {
            "data": self._data,
            "training": training,
            "versions": {
                "vae-export": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }
