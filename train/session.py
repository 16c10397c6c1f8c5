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
from train.data.datasets import Dataset, evaluated_pixels
from train.distributed import Processes
from train.init import initialise
from train.progress import TrainingProgress
from train.recipes import learning_rate_at
from train.results import describe_figures
from train.resume import (
    SavedCheckpoint,
    TrainingState,
    changed_surroundings,
    check_same_training,
    recovery_hint,
    save_state,
    settings,
    surroundings,
)
from train.scoring import PyTorchModel, Score, evaluate_model
from train.signals import StopReached, StopRequest, deferred_stop
from train.trainer import EpochResult, Trainer, divergence_error, has_bfloat16_instructions
from vae_export._version import __version__
from vae_export.errors import CheckpointError, Interrupted
from vae_export.io.atomic import append_line, write_atomic, write_generation
from vae_export.models import VAE
from vae_export.models.checkpoint import Checkpoint, checkpoint_bytes, load_checkpoint
from vae_export.runs import Run

if TYPE_CHECKING:
    from train.tensorboard import EventLog

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
        self.saved: SavedCheckpoint | None = None
        self.events: EventLog | None = None
        self.epochs = 0  # scored and on record
        self._data, self._arguments = dataset.to_json(), dict(arguments or {})
        self._changes: tuple[str, ...] = ()
        self._kept_at = time.monotonic()  # when there last was a state on the disk, or nothing to lose
        self.recipe = options.recipe_for(len(dataset.train))
        self.precision = options.precision
        if self.precision == "auto":
            fast = self.recipe.bfloat16 and has_bfloat16_instructions(device)
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

    def resume(self, state: TrainingState) -> list[str]:
        """Be where the training was whose state this is; what changes rounding since then, a few words each.

        Raises:
            UsageError, DataError: with these options or images it would be another training.
            CheckpointError, IntegrityError: the state does not fit, or the checkpoint that it speaks of is damaged.
        """
        check_same_training(state.settings, self._settings(), where=self.run.folder, epochs=state.epochs)
        if state.saved is not None:
            self.processes.on_first(lambda: load_checkpoint(self.run.checkpoint).config)
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

    def train(self, report: TrainingProgress) -> SavedCheckpoint:
        """Train to the end and return what was saved.

        Raises:
            InputError: the loss is not finite. The checkpoint of the best epoch until then stays.
            Interrupted, Terminated: on Ctrl-C or SIGTERM, after the step at hand was done and the state saved.
            StorageError: disk full, for example. The last checkpoint and the last state stay.
        """
        with deferred_stop() as stop:

            def watch(epoch: int, step: int, total: torch.Tensor) -> None:
                meeting = self.processes.is_single or self.trainer.steps_done % _MEETING == 0
                due = meeting and self._stop_if_any_was_asked(stop)
                report.step(epoch, step, total)
                if due:
                    self._save_state()

            try:
                for epoch in self.trainer.train_epochs(watch, after=self.epochs):
                    self._end_epoch(epoch, report, stop)
                    self._stop_if_any_was_asked(stop)
            except StopReached:
                kind, said = stop.kind or Interrupted, self._save_on_interrupt()
                raise kind(self.processes.on_first(lambda: said)) from None  # once it is saved, and not before
        if self.saved is None:
            raise divergence_error(self.epochs, math.nan)
        return self.saved

    def _stop_if_any_was_asked(self, stop: StopRequest) -> bool:
        """Stop, all processes after the same step, where one of them was asked to; else whether state is to be kept."""
        code, due = self.processes.maximum(stop.code, int(time.monotonic() - self._kept_at > _AT_RISK))
        stop.adopt(code)
        return bool(due)

    def _end_epoch(self, epoch: EpochResult, report: TrainingProgress, stop: StopRequest) -> None:
        """Measure, save if best, log, keep the state."""
        with stop.interruptible() if self.processes.is_single else nullcontext():
            # As many training images as validation images: a full pass would cost a tenth of the epoch, for the gap.
            train = self._score("train", most=len(self.dataset.validation))
            validation, test = self._score("validation"), self._score("test")
        if not all(score.is_finite for score in (train, validation, test)):
            raise divergence_error(epoch.number, validation.negative_elbo)
        self.epochs = epoch.number
        best = self.saved is None or validation.negative_elbo < self.saved.validation.negative_elbo
        if best:
            self.saved = self._save_checkpoint(validation, test)
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
            "learning_rate": learning_rate_at(
                self.recipe, epoch.number * self.trainer.steps_per_epoch - 1, self.trainer.steps_per_epoch
            )[0],
            "seconds": round(epoch.seconds, 3),
            "images_per_second": round(epoch.images_per_second, 1),
        }
        if self.processes.is_first:
            append_line(self.run.metrics, json.dumps(line))
        if self.events is not None:
            self.events.epoch(line, self.trainer.scored_model, validation)
        self._save_state()
        report.epoch(epoch, validation, best=best)

    def _score(self, split: str, *, most: int | None = None) -> Score:
        """Of the weights at hand, on a split or its first images."""
        pixels = evaluated_pixels(self.dataset, split, most=most)
        return evaluate_model(PyTorchModel(self.trainer.scored_model), pixels, processes=self.processes)

    def _save_on_interrupt(self) -> str:
        """Keep the state, and say in a few words what is where.

        Within the first epoch the weights at hand become a checkpoint too: better than none. The first whole epoch
        replaces it, whatever its score, as if it had never been.
        """
        self._save_state()
        saved, again = self.saved, f"go on with --resume --out {self.run.folder}"
        if saved is None:
            validation = self._score("validation")
            if not validation.is_finite:
                raise divergence_error(1, validation.negative_elbo)
            saved = self._save_checkpoint(validation, self._score("test"))
        score = f"validation -ELBO {saved.validation.negative_elbo:.2f} nats per image, {self.dataset.protocol}"
        return f"after {self.trainer.steps_done} steps, the best checkpoint is {self.run.checkpoint} ({score}); {again}"

    def _save_state(self) -> None:
        """Save the state of this step. Raises `InputError` instead of keeping numbers that are not finite."""
        tensors = self.trainer.state_tensors()
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise divergence_error(self.epochs + 1, math.nan)
        state = TrainingState(
            self._arguments | {"precision": self.precision},
            self._settings(),
            self._surroundings(),
            self._changes,
            self.trainer.steps_done,
            self.trainer.seconds,
            self.epochs,
            self.saved,
            tensors,
        )
        if self.processes.is_first:
            save_state(state, self.run)
        self._kept_at = time.monotonic()

    def _save_checkpoint(self, validation: Score, test: Score) -> SavedCheckpoint:
        """Make the weights at hand the run's checkpoint."""
        saved, model = (
            SavedCheckpoint(self.epochs, self.trainer.steps_done, validation, test),
            self.trainer.scored_model,
        )
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
        return compiled | ({} if self.processes.is_single else {"processes": self.processes.count})

    def _provenance(self) -> dict[str, Any]:
        training = self._training() | {"device": self.device.type} | self._shared()
        if self.device.type == "cpu":
            training["threads"] = torch.get_num_threads()  # sums are split among them, and rounded accordingly
        if self._changes:
            training["changed_on_resume"] = list(self._changes)
        likelihood = self.trainer.model.config.likelihood
        return {
            "data": self._data | {"note": f"figures: {describe_figures(self.dataset.protocol, likelihood)}"},
            "likelihood": likelihood.to_json(),
            **({"preset": self.options.preset} if self.options.preset else {}),
            "training": training,
            "versions": {
                "vae-export": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }
