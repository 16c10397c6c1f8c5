"""A training in its run folder: from a data set to the best checkpoint, with metrics and a state to resume from.

The best checkpoint is chosen by the validation images, epoch by epoch; the test images are scored and never decide.
Equal options, data, versions, threads and precision give equal bytes on a CPU, whether or not the training was stopped
and resumed in between: no time and no path is in a checkpoint.

The end of an epoch is written in this order: checkpoint, line of metrics, state. An epoch that was reported is on the
disk; what a kill leaves undone is done again, to the same bytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from train.config import TrainOptions
from train.data.datasets import Dataset, evaluated_pixels
from train.distributed import Processes
from train.initial_weights import initial_model
from train.progress import TrainingProgress
from train.provenance import TrainingProvenance
from train.recipes import Recipe, learning_rate_at
from train.results import pixels_name
from train.resume import (
    SavedCheckpoint,
    TrainingState,
    check_same_training,
    continued_recipe,
    environment_changes,
    recovery_hint,
)
from train.run_folder import RunWriter
from train.scoring import PyTorchModel, Score, evaluate_model
from train.signals import StopReached, StopRequest, deferred_stop
from train.trainer import EpochResult, Trainer, divergence_error, has_bfloat16_instructions
from train.whitening import MOST_IMAGES, whitened
from vae_export.errors import CheckpointError, Interrupted
from vae_export.models import VAE
from vae_export.models.checkpoint import Checkpoint, load_checkpoint
from vae_export.runs import Run

if TYPE_CHECKING:
    from train.tensorboard import EventLog

#: Test images that are stored in the checkpoint: enough to measure what a file of fewer bits costs in nats.
EXAMPLE_IMAGES = 256
#: Seconds of training within an epoch that a kill or a power cut may cost.
_STATE_INTERVAL = 120.0
#: Steps after which processes ask each other whether to stop.
_SYNC_STEPS = 8


class TrainingSession:
    """One training. Call `train` once, inside `new_run`; or inside `resumed_run`, after `resume`.

    Args:
        options: the options of the training.
        run: the run folder, held by `new_run` or `resumed_run`.
        dataset: the images.
        device: the device that computes the steps.
        arguments: the arguments of the command, JSON-able; the state keeps them, and a resume repeats them.
        processes: the processes that train together. Each has a session, and that of the first one writes the files.

    Attributes:
        recipe: number of epochs, batch size and learning rates.
        epochs: number of epochs that are scored and recorded.
        saved: the content of the run's checkpoint; None before the end of the first epoch.
        events: event files for TensorBoard, if any are wanted.
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
        self.run, self.dataset = run, dataset
        self.processes = processes or Processes()
        self.recipe = options.recipe_for(len(dataset.train))
        if options.precision == "auto":
            fast = self.recipe.bfloat16 and has_bfloat16_instructions(device)
            options = replace(options, precision="bfloat16" if fast else "float32")
        model = initial_model(options.network.config(dataset.image_shape), dataset.train, options.seed)
        # Twice as fast in family `conv` on a CPU; torch's type hints do not know the argument.
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trainer = Trainer(
            model,
            dataset.train,
            self.recipe,
            options.objective,
            in_memory=dataset.in_memory,
            protocol=dataset.protocol,
            seed=options.seed,
            bfloat16=options.precision == "bfloat16",
            compiling=options.compiled,
            processes=self.processes,
        )
        self.epochs = 0
        self.saved: SavedCheckpoint | None = None
        self.events: EventLog | None = None
        self._provenance = TrainingProvenance(options, self.recipe, model.config, dataset, device, self.processes.count)
        self._writer = RunWriter(run, enabled=self.processes.is_first)
        self._arguments = dict(arguments or {}) | {"precision": options.precision}
        self._environment_changes: tuple[str, ...] = ()
        self._state_time = time.monotonic()  # of the last state on the disk, or when there was nothing to lose

    @property
    def is_done(self) -> bool:
        """Whether all epochs of the recipe are done."""
        return self.epochs >= self.recipe.epochs

    def resume(self, state: TrainingState) -> list[str]:
        """Continue from a state.

        Returns:
            The changes of the environment since then, in a few words each; they change rounding only.

        Raises:
            UsageError, DataError: the options or the images differ from those of the state.
            CheckpointError, IntegrityError: the state does not fit, or the checkpoint that it names is damaged.
        """
        self._use_recipe(continued_recipe(self.recipe, state))
        provenance = self._provenance
        check_same_training(state.settings, provenance.settings(), where=self.run.folder, epochs=state.epochs)
        if state.saved is not None:
            self.processes.on_first(lambda: load_checkpoint(self.run.checkpoint).config)
        try:
            count = int(state.environment.get("processes", 1))
            self.trainer.restore(state.tensors, steps_done=state.steps_done, seconds=state.seconds, processes=count)
        except CheckpointError as error:
            where, do = self.run.training_state, recovery_hint(self.run)
            raise CheckpointError(error.what, where=where, got=error.got, do=do) from error
        self.epochs, self.saved = state.epochs, state.saved
        changes = environment_changes(state.environment, provenance.environment())
        self._environment_changes = state.changes + tuple(f"{change} at step {state.steps_done}" for change in changes)
        self._writer = RunWriter(self.run, enabled=self.processes.is_first, continues=True)
        self._writer.truncate_metrics(self.epochs)
        return changes

    def _use_recipe(self, recipe: Recipe) -> None:
        """Change the learning rate of the steps to come."""
        self.recipe = self.trainer.recipe = recipe
        self._provenance = replace(self._provenance, recipe=recipe)

    def train(self, report: TrainingProgress) -> SavedCheckpoint:
        """Train to the last epoch.

        Returns:
            What is in the run's checkpoint then.

        Raises:
            InputError: the loss is not finite. The checkpoint of the best epoch until then stays.
            Interrupted, Terminated: Ctrl-C or SIGTERM came. The current step was completed, and the state is saved.
            StorageError: a file cannot be written, as on a full disk. The last checkpoint and the last state stay.
        """
        with deferred_stop() as stop:

            def after_step(epoch: int, step: int, total: torch.Tensor) -> None:
                in_sync = self.processes.is_single or self.trainer.steps_done % _SYNC_STEPS == 0
                state_is_due = in_sync and self._check_stop(stop)
                report.step(epoch, step, total)
                if state_is_due:
                    self._save_state()

            try:
                for epoch in self.trainer.train_epochs(after_step, after=self.epochs):
                    self._end_epoch(epoch, report, stop)
                    self._check_stop(stop)
            except StopReached:
                kind, message = stop.kind or Interrupted, self._save_on_stop()
                raise kind(self.processes.on_first(lambda: message)) from None
        if self.saved is None:
            raise divergence_error(self.epochs, math.nan)
        return self.saved

    def _check_stop(self, stop: StopRequest) -> bool:
        """Stop all processes after the same step if one of them was asked to; else return whether a state is due."""
        overdue = time.monotonic() - self._state_time > _STATE_INTERVAL
        code, state_is_due = self.processes.maximum(stop.code, int(overdue))
        stop.adopt(code)
        return bool(state_is_due)

    def _end_epoch(self, epoch: EpochResult, report: TrainingProgress, stop: StopRequest) -> None:
        """Score the weights, save them if they are the best so far, record the epoch and save the state."""
        with stop.interruptible() if self.processes.is_single else nullcontext():
            model = self._scored_model()
            # As many training images as validation images: to score all would cost a tenth of the epoch.
            train = self._score(model, "train", most=len(self.dataset.validation))
            validation, test = self._score(model, "validation"), self._score(model, "test")
        if not all(score.is_finite for score in (train, validation, test)):
            raise divergence_error(epoch.number, validation.negative_elbo)
        self.epochs = epoch.number
        best = self.saved is None or validation.negative_elbo < self.saved.validation.negative_elbo
        if best:
            self.saved = self._save_checkpoint(model, validation, test)
        line = self._metrics_line(epoch, train, validation, test)
        self._writer.append_metrics(line)
        if self.events is not None:
            self.events.epoch(line, model, validation)
        self._save_state()
        report.epoch(epoch, validation, best=best)

    def _metrics_line(self, epoch: EpochResult, train: Score, validation: Score, test: Score) -> dict[str, Any]:
        steps = self.trainer.steps_per_epoch
        return {
            "epoch": epoch.number,
            "protocol": self.dataset.protocol,
            "likelihood": self.trainer.model.config.likelihood.name,
            "train": train.to_json(),
            "validation": validation.to_json(),
            "test": test.to_json(),
            "loss": epoch.loss,
            **self._provenance.for_metrics(),
            "learning_rate": learning_rate_at(self.recipe, epoch.number * steps - 1, steps)[0],
            "seconds": round(epoch.seconds, 3),
            "images_per_second": round(epoch.images_per_second, 1),
        }

    def _scored_model(self) -> VAE:
        """Return the network that is scored and saved now; training goes on with weights that are not whitened."""
        if not self.recipe.whiten:
            return self.trainer.scored_model
        return whitened(self.trainer.scored_model, evaluated_pixels(self.dataset, "train", most=MOST_IMAGES))

    def _score(self, model: VAE, split: str, *, most: int | None = None) -> Score:
        """Score a network on a split or its first images."""
        pixels = evaluated_pixels(self.dataset, split, most=most)
        return evaluate_model(PyTorchModel(model), pixels, processes=self.processes)

    def _save_on_stop(self) -> str:
        """Save the state; return a message with the paths.

        Within the first epoch the current weights become a checkpoint too, since there is none yet. The end of the
        first epoch replaces it, whatever its score, so that a resumed training ends in the same bytes.
        """
        saved = self.saved
        if saved is None:
            model = self._scored_model()
            validation = self._score(model, "validation")
            if not validation.is_finite:
                raise divergence_error(1, validation.negative_elbo)
            saved = self._save_checkpoint(model, validation, self._score(model, "test"))
        self._save_state()  # after the checkpoint, which makes room for it in the folder of an earlier run
        pixels = pixels_name(self.dataset.protocol, self.dataset.image_shape)
        score = f"validation -ELBO {saved.validation.negative_elbo:.2f} nats per image, {pixels}"
        best = f"the best checkpoint is {self.run.checkpoint} ({score})"
        return f"after {self.trainer.steps_done} steps, {best}; continue with --resume --out {self.run.folder}"

    def _save_state(self) -> None:
        """Save the state after this step. Raises `InputError` for numbers that are not finite, and saves nothing."""
        tensors = self.trainer.state_tensors()
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise divergence_error(self.epochs + 1, math.nan)
        state = TrainingState(
            arguments=self._arguments,
            settings=self._provenance.settings(),
            environment=self._provenance.environment(),
            changes=self._environment_changes,
            steps_done=self.trainer.steps_done,
            seconds=self.trainer.seconds,
            epochs=self.epochs,
            saved=self.saved,
            tensors=tensors,
        )
        self._writer.write_state(state)
        self._state_time = time.monotonic()

    def _save_checkpoint(self, model: VAE, validation: Score, test: Score) -> SavedCheckpoint:
        """Make the weights of a network the run's checkpoint."""
        saved = SavedCheckpoint(self.epochs, self.trainer.steps_done, validation, test)
        checkpoint = Checkpoint(
            config=model.config,
            weights={name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()},
            examples=self.dataset.test[:EXAMPLE_IMAGES].clone(),
            provenance=self._provenance.for_checkpoint(self._environment_changes) | saved.to_json(),
        )
        self._writer.write_checkpoint(checkpoint)
        if self.saved is None and self._provenance.options.data.name != "array":
            self._writer.write_data(self._provenance.options.data, self.dataset.sha256)
        return saved
