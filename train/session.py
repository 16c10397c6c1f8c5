"""A training in its run folder: the best checkpoint, the metrics, the state to go on from, and what happens on Ctrl-C.

The best checkpoint is chosen by the validation images, epoch by epoch; the test images are measured and never decide.
The checkpoint before it stays at `Run.previous_checkpoint`. Equal options, data, versions, threads and precision (which
are measured, unless they are options) give equal bytes on a CPU, whether or not the training was stopped and resumed in
between: nothing about the time or the machine is in a checkpoint.

An epoch's end is written in one order: checkpoint, line of metrics, state. Whatever is said to have been done is on the
disk by then; what a kill leaves undone is done again, to the same bytes.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch

from train.config import TrainOptions
from train.data.datasets import Dataset, as_evaluated
from train.distributed import Processes
from train.init import initialise
from train.progress import TrainingProgress
from train.recipes import rate_at
from train.results import meaning
from train.resume import (
    Saved,
    State,
    changed_surroundings,
    check_same_training,
    recovery_hint,
    save_state,
    settings,
    surroundings,
)
from train.scoring import InPyTorch, Score, evaluate
from train.signals import Stop, Stopped, deferred_stop
from train.trainer import Epoch, Trainer, diverged, multiplies_bfloat16
from vae_export._version import __version__
from vae_export.errors import CheckpointError, Interrupted
from vae_export.io.atomic import append_line, write_atomic, write_generation
from vae_export.models import VAE
from vae_export.models.checkpoint import Checkpoint, checkpoint_bytes, load_checkpoint
from vae_export.runs import Run

if TYPE_CHECKING:
    from train.tensorboard import Events

#: Test images that travel in the checkpoint: as many as say what a file of fewer bits costs in nats.
EXAMPLE_IMAGES = 256
#: Seconds of training within an epoch that a kill or a power cut may cost.
_AT_RISK = 120.0
#: Steps after which processes ask each other whether to stop.
_MEETING = 8


class TrainingSession:
    """One training. Make it inside `claimed`, call `train` once; or inside `reclaimed`, and call `resume` first.

    Args:
        arguments: of the command, for the state to repeat; JSON-able.
        processes: that train together. Each has a session; the first one's writes.
    """

    def __init__(
        self,
        options: TrainOptions,
        run: Run,
        dataset: Dataset,
        device: torch.device,
        arguments: Mapping[str, Any] | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.options, self.run, self.dataset, self.device = options, run, dataset, device
        self.processes = processes or Processes()
        self.saved: Saved | None = None
        self.events: Events | None = None
        self.epochs = 0  # scored and on record
        self._data, self._arguments = dataset.to_json(), dict(arguments or {})
        self._changes: tuple[str, ...] = ()
        self._kept_at = time.monotonic()  # when there last was a state on the disk, or nothing to lose
        self.recipe = options.recipe_for(len(dataset.train))
        self.precision = options.precision
        if self.precision == "auto":
            fast = self.recipe.bfloat16 and multiplies_bfloat16(device)
            self.precision = "bfloat16" if fast else "float32"
        torch.manual_seed(options.seed)
        model = VAE(options.network.config(dataset.image_shape))
        initialise(model, dataset.train)
        # Twice as fast in family `conv` on a CPU; torch's type hints do not know the argument.
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trainer = Trainer(
            model,
            dataset.train,
            self.recipe,
            options.objective,
            protocol=dataset.protocol,
            seed=options.seed,
            bfloat16=self.precision == "bfloat16",
            compiling=options.compiled,
            processes=self.processes,
        )

    @property
    def is_done(self) -> bool:
        return self.epochs >= self.recipe.epochs

    def resume(self, state: State) -> list[str]:
        """Be where the training was whose state this is; what changes rounding since then, a few words each.

        Raises:
            UsageError, DataError: with these options or images it would be another training.
            CheckpointError, IntegrityError: the state does not fit, or the checkpoint that it speaks of is damaged.
        """
        check_same_training(state.settings, self._settings(), where=self.run.folder, epochs=state.epochs)
        if state.saved is not None:
            self.processes.first(lambda: load_checkpoint(self.run.checkpoint).config)
        try:
            count = int(state.surroundings.get("processes", 1))
            self.trainer.restore(state.tensors, position=state.position, seconds=state.seconds, processes=count)
        except CheckpointError as error:
            where, do = self.run.training_state, recovery_hint(self.run)
            raise CheckpointError(error.what, where=where, got=error.got, do=do) from error
        self.epochs, self.saved = state.epochs, state.saved
        changes = list(changed_surroundings(state.surroundings, self._surroundings()))
        self._changes = state.changes + tuple(f"{change} at step {state.position}" for change in changes)
        if self.processes.is_first and self.run.metrics.exists():
            lines = self.run.metrics.read_bytes().splitlines(keepends=True)
            if len(lines) > self.epochs:
                write_atomic(self.run.metrics, b"".join(lines[: self.epochs]))
        return changes

    def train(self, report: TrainingProgress) -> Saved:
        """Train to the end and return what was saved.

        Raises:
            InputError: the loss is not finite. The checkpoint of the best epoch until then stays.
            Interrupted, Terminated: on Ctrl-C or SIGTERM, after the step at hand was done and the state saved.
            StorageError: disk full, for example. The last checkpoint and the last state stay.
        """
        with deferred_stop() as stop:

            def watch(epoch: int, step: int, total: torch.Tensor) -> None:
                meeting = self.processes.alone or self.trainer.position % _MEETING == 0
                due = meeting and self._meet(stop)
                report.step(epoch, step, total)
                if due:
                    self._keep()

            try:
                for epoch in self.trainer.epochs(watch, after=self.epochs):
                    self._finish(epoch, report, stop)
                    self._meet(stop)
            except Stopped:
                kind, said = stop.kind or Interrupted, self._rescue()
                raise kind(self.processes.first(lambda: said)) from None  # once it is saved, and not before
        if self.saved is None:
            raise diverged(self.epochs, math.nan)
        return self.saved

    def _meet(self, stop: Stop) -> bool:
        """Stop, all processes after the same step, where one of them was asked to; else whether state is to be kept."""
        code, due = self.processes.most(stop.code, int(time.monotonic() - self._kept_at > _AT_RISK))
        stop.join(code)
        return bool(due)

    def _finish(self, epoch: Epoch, report: TrainingProgress, stop: Stop) -> None:
        """Measure, save if best, log, keep the state."""
        with stop.at_once() if self.processes.alone else nullcontext():
            # As many training images as validation images: a full pass would cost a tenth of the epoch, for the gap.
            train = self._score("train", most=len(self.dataset.validation))
            validation, test = self._score("validation"), self._score("test")
        if not all(score.is_finite for score in (train, validation, test)):
            raise diverged(epoch.number, validation.negative_elbo)
        self.epochs = epoch.number
        best = self.saved is None or validation.negative_elbo < self.saved.validation.negative_elbo
        if best:
            self.saved = self._save(validation, test)
        line = {
            "epoch": epoch.number,
            "protocol": self.dataset.protocol,
            "likelihood": self.trainer.model.config.likelihood.name,
            "train": train.to_json(),
            "validation": validation.to_json(),
            "test": test.to_json(),
            "loss": epoch.loss,
            "precision": self.precision,
            **({"threads": torch.get_num_threads()} if self.device.type == "cpu" else {}),
            **self._shared(),
            "learning_rate": rate_at(self.recipe, epoch.number * self.trainer.steps - 1, self.trainer.steps)[0],
            "seconds": round(epoch.seconds, 3),
            "images_per_second": round(epoch.images_per_second, 1),
        }
        if self.processes.is_first:
            append_line(self.run.metrics, json.dumps(line))
        if self.events is not None:
            self.events.epoch(line, self.trainer.scored, validation)
        self._keep()
        report.epoch(epoch, validation, best=best)

    def _score(self, split: str, *, most: int | None = None) -> Score:
        """Of the weights at hand, on a split or its first images."""
        pixels = as_evaluated(self.dataset, split, most=most)
        return evaluate(InPyTorch(self.trainer.scored), pixels, processes=self.processes)

    def _rescue(self) -> str:
        """Keep the state, and say in a few words what is where.

        Within the first epoch the weights at hand become a checkpoint too: better than none. The first whole epoch
        replaces it, whatever its score, as if it had never been.
        """
        self._keep()
        saved, again = self.saved, f"go on with --resume --out {self.run.folder}"
        if saved is None:
            validation = self._score("validation")
            if not validation.is_finite:
                raise diverged(1, validation.negative_elbo)
            saved = self._save(validation, self._score("test"))
        score = f"validation -ELBO {saved.validation.negative_elbo:.2f} nats per image, {self.dataset.protocol}"
        return f"after {self.trainer.position} steps, the best checkpoint is {self.run.checkpoint} ({score}); {again}"

    def _keep(self) -> None:
        """Save the state of this step. Raises `InputError` instead of keeping numbers that are not finite."""
        tensors = self.trainer.tensors()
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise diverged(self.epochs + 1, math.nan)
        state = State(
            self._arguments | {"precision": self.precision},
            self._settings(),
            self._surroundings(),
            self._changes,
            self.trainer.position,
            self.trainer.seconds,
            self.epochs,
            self.saved,
            tensors,
        )
        if self.processes.is_first:
            save_state(state, self.run)
        self._kept_at = time.monotonic()

    def _save(self, validation: Score, test: Score) -> Saved:
        """Make the weights at hand the run's checkpoint."""
        saved, model = Saved(self.epochs, self.trainer.position, validation, test), self.trainer.scored
        checkpoint = Checkpoint(
            config=model.config,
            weights={name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()},
            examples=self.dataset.test[:EXAMPLE_IMAGES].clone(),
            provenance=self._provenance() | saved.to_json(),
        )
        if self.processes.is_first:
            write_generation(self.run.checkpoint, checkpoint_bytes(checkpoint), previous=self.run.previous_checkpoint)
        return saved

    def _training(self) -> dict[str, Any]:
        """How, as far as the weights are a function of it."""
        asked = self.recipe.to_json() | self.options.objective.to_json()
        return asked | {"seed": self.options.seed, "precision": self.precision}

    def _settings(self) -> dict[str, Any]:
        return settings(self.trainer.model.config, self._data, self._training())

    def _surroundings(self) -> dict[str, Any]:
        return surroundings(self.device, compiled=self.options.compiled, processes=self.processes.count)

    def _shared(self) -> dict[str, Any]:
        """What of the surroundings is not as usual."""
        compiled = {"compiled": True} if self.options.compiled else {}
        return compiled | ({} if self.processes.alone else {"processes": self.processes.count})

    def _provenance(self) -> dict[str, Any]:
        training = self._training() | {"device": self.device.type} | self._shared()
        if self.device.type == "cpu":
            training["threads"] = torch.get_num_threads()  # sums are split among them, and rounded accordingly
        if self._changes:
            training["changed_on_resume"] = list(self._changes)
        likelihood = self.trainer.model.config.likelihood
        return {
            "data": self._data | {"note": f"figures: {meaning(self.dataset.protocol, likelihood)}"},
            "likelihood": likelihood.to_json(),
            **({"preset": self.options.preset} if self.options.preset else {}),
            "training": training,
            "versions": {
                "vae-export": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }
