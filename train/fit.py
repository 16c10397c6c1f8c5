"""Train a VAE in one call: `fit` for arrays in a notebook, and the steps of `cli.py train`, which are the same.

from train.fit import fit

fitted = fit(images, epochs=5, latent_size=32)   # uint8 (N, H, W, C)
fitted.checkpoint.model(), fitted.test.negative_elbo
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from train import pictures
from train.autotune import AutotuneResult, autotune
from train.config import DataOptions, NetworkOptions, ObjectiveOptions, TrainOptions
from train.data.datasets import Dataset, apply_protocol, split_in_three
from train.distributed import Processes
from train.process import choose_device, memory_errors
from train.progress import load_with_progress, notes_before_training, show_progress
from train.recipes import Recipe, RecipeOptions, parse_stages, read_preset
from train.results import ScoreKind
from train.resume import SavedCheckpoint, load_state
from train.run_folder import check_out, new_run, resumed_run
from train.scoring import Score
from train.session import TrainingSession
from train.trainer import check_compiler, steps_per_epoch
from vae_export.cli import console
from vae_export.errors import DataError, UsageError
from vae_export.models import VAEConfig
from vae_export.models.checkpoint import Checkpoint, load_checkpoint
from vae_export.runs import Run

#: Scores after each epoch take about a tenth of the time of its steps.
_SCORING = 1.1
#: Seconds above which the time of a training is estimated.
_LONG = 120.0


@dataclass(frozen=True)
class Fitted:
    """A trained model.

    Attributes:
        checkpoint: its best weights, with config, example images and provenance: what `vae_export.export` takes.
        validation, test: scores of those images, in nats per image.
        kind: the pixels and the likelihood that the scores are of; it converts nats to bits per dimension.
    """

    checkpoint: Checkpoint
    validation: Score
    test: Score
    kind: ScoreKind


def fit(
    images: npt.ArrayLike | torch.Tensor | Dataset,
    *,
    out: str | Path | None = None,
    preset: str | None = None,
    quiet: bool = False,
    force: bool = False,
    **options: Any,
) -> Fitted:
    """Train a VAE on images, as `cli.py train` does.

    Args:
        images: uint8 (N, H, W), (N, H, W, C) or (N, C, H, W), C 1 or 3, of which a tenth is held out for validation
            and a tenth for testing; or a `Dataset`, which is split already.
        out: the run folder, for the commands and to resume from; None keeps no files.
        preset: name of a preset, whose options apply where none is passed.
        quiet: whether to print nothing.
        force: whether to replace a run in `out`.
        options: options of `cli.py train`, with underscores: `epochs=5`, `family="conv"`, `data_protocol="dynamic"`.

    Returns:
        The best checkpoint and its scores.

    Raises:
        UsageError: an unknown or bad option, or an `out` that exists.
        DataError: the array is no images, or there are too few.
        InputError: the training diverged.
    """
    chosen = train_options(preset, options)
    dataset = images if isinstance(images, Dataset) else split_in_three("array", as_pixels(images))
    if dataset.protocol != chosen.data.protocol:
        dataset = apply_protocol(dataset, chosen.data.protocol)
    with tempfile.TemporaryDirectory() if out is None else nullcontext(str(out)) as folder, memory_errors():
        run = Run(Path(folder) / "run" if out is None else Path(folder))
        request = TrainingRequest(chosen, run, force=force, quiet=quiet)
        plan = make_plan(request, choose_device(chosen.device, chosen.threads), Processes(), dataset)
        saved = run_plan(plan, draws=out is not None)
        return Fitted(load_checkpoint(run.checkpoint), saved.validation, saved.test, plan.kind)


def train_options(preset: str | None, options: Mapping[str, Any]) -> TrainOptions:
    """Return the options of a training by their names on the command line, with underscores. Raises `UsageError`."""
    asked = (
        {} if preset is None else {key.replace("-", "_"): value for key, value in read_preset(preset).options.items()}
    )
    asked = {**asked, **options}
    asked.pop("dataset", None)  # a preset's, whose images are not read here
    protocol = asked.pop("data_protocol", "grey")
    if isinstance(asked.get("stages"), str):
        asked["stages"] = parse_stages(asked["stages"])
    groups: dict[str, Any] = {}
    for name, group in (("network", NetworkOptions), ("objective", ObjectiveOptions), ("recipe", RecipeOptions)):
        own = {field.name for field in fields(group)} & asked.keys()
        groups[name] = group(**{key: asked.pop(key) for key in own})
    others = {field.name for field in fields(TrainOptions)} - {"data", "preset", *groups}
    if unknown := sorted(asked.keys() - others):
        expected = "options of cli.py train, such as epochs or latent_size"
        raise UsageError("unknown option", expected=expected, got=", ".join(unknown))
    return TrainOptions(DataOptions("array", protocol=protocol), preset=preset, **groups, **asked)


def as_pixels(images: npt.ArrayLike | torch.Tensor) -> torch.Tensor:
    """Return an array of images as uint8 (N, C, H, W), a copy. Raises `DataError` for anything else."""
    array = images.detach().cpu().numpy() if isinstance(images, torch.Tensor) else np.asarray(images)
    expected = "uint8 (N, H, W), (N, H, W, C) or (N, C, H, W), C 1 or 3"
    if array.dtype != np.uint8:
        do = "multiply by 255, round and convert, if pixels are in [0, 1]"
        raise DataError("not an array of images", where="fit", expected=expected, got=array.dtype, do=do)
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[3] in (1, 3) and array.shape[1] not in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or not array.size:
        raise DataError("not an array of images", where="fit", expected=expected, got=array.shape)
    return torch.from_numpy(array.copy())


@dataclass(frozen=True)
class TrainingRequest:
    """A training as it was asked for.

    Attributes:
        options: the options of the training.
        run: the run folder.
        arguments: the command's parameters, for the state.
        resume: whether to continue the training in the folder.
        force: whether to replace the run in the folder.
        tensorboard: whether to write event files for TensorBoard.
        quiet: whether to print nothing meanwhile.
    """

    options: TrainOptions
    run: Run
    arguments: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False
    force: bool = False
    tensorboard: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class TrainingPlan:
    """A training before its first step: the images are loaded, and nothing is left to be chosen.

    Attributes:
        request: the request, with the threads and the precision that were chosen.
        images: the data set.
        config: the network for images of this shape.
        recipe: epochs, batch size and rates for this number of images.
        device: the device of the weights.
        speed: threads and precision, and the measurements by which they were chosen.
        processes: the processes that train together.
    """

    request: TrainingRequest
    images: Dataset
    config: VAEConfig
    recipe: Recipe
    device: torch.device
    speed: AutotuneResult
    processes: Processes

    @property
    def kind(self) -> ScoreKind:
        """The pixels and the likelihood that scores are of."""
        return ScoreKind(self.images.protocol, self.config.likelihood, self.images.image_shape)

    @property
    def estimated_seconds(self) -> float | None:
        """The time of the whole training, from the steps that were timed; None if none were."""
        step = self.speed.seconds.get(self.speed.config)
        steps = self.recipe.epochs * (len(self.images.train) // self.recipe.batch_size)
        return None if step is None else step * steps * _SCORING

    def message(self, line: str) -> None:
        """Print a line on stderr, once for all processes."""
        if self.processes.is_first and not self.request.quiet:
            console.note(line)


def make_plan(
    request: TrainingRequest, device: torch.device, processes: Processes, images: Dataset | None = None
) -> TrainingPlan:
    """Load the images, unless they are passed, and choose threads and precision.

    Everything is checked before the run folder is touched.
    """
    options = request.options
    if not request.resume:
        processes.on_first(lambda: check_out(request.run, force=request.force))
    if images is None:
        images = processes.on_each(lambda: load_with_progress(options.data))
    config = options.network.config(images.image_shape)
    recipe = options.recipe_for(len(images.train))
    steps_per_epoch(len(images.train), recipe.batch_size)  # raises an error for fewer images than a batch has
    if recipe.shift >= min(images.image_shape[1:]):
        expected = f"less than a side of the images, {images.image_shape[1]} x {images.image_shape[2]}"
        raise UsageError("bad shift", expected=expected, got=recipe.shift)
    processes.batch_slice(recipe.batch_size)  # raises an error where processes would get unequal parts
    if options.compiled:
        check_compiler(device)
    speed = processes.gather(autotune(options, config, images, device, processes))[0]
    torch.set_num_threads(speed.config.threads)
    options = replace(options, precision=speed.config.precision, threads=speed.config.threads)
    arguments = {**request.arguments, "device": device.type, "threads": speed.config.threads}
    request = replace(request, options=options, arguments=arguments)
    return TrainingPlan(request, images, config, recipe, device, speed, processes)


def run_plan(plan: TrainingPlan, *, draws: bool = True) -> SavedCheckpoint:
    """Train in the run folder, which this process holds meanwhile, and draw the pictures if `draws`."""
    request, processes = plan.request, plan.processes
    run = request.run
    with processes.first_holds(resumed_run(run) if request.resume else new_run(run, force=request.force)):
        session = TrainingSession(request.options, run, plan.images, plan.device, request.arguments, processes)
        _describe(plan)
        if request.resume:
            state = processes.on_first(lambda: load_state(run))
            changes = session.resume(state)
            _describe_resumed(plan, session, state.steps_done, changes)
        was_done = session.is_done
        saved = _run_session(plan, session)
        if draws and processes.is_first and not (was_done and run.pictures.exists()):
            pictures.draw_pictures(load_checkpoint(run.checkpoint).model(), plan.images, run)
    return saved


def _run_session(plan: TrainingPlan, session: TrainingSession) -> SavedCheckpoint:
    """Train to the end with progress on stderr and, if they are wanted, event files."""
    is_first = plan.processes.is_first
    shown = show_progress(
        epochs=plan.recipe.epochs,
        steps=session.trainer.steps_per_epoch,
        batch_size=plan.recipe.batch_size,
        kind=plan.kind,
        silent=not is_first or plan.request.quiet,
    )
    logs_events = plan.request.tensorboard and is_first and not session.is_done
    with shown as report, _event_log(session) if logs_events else nullcontext():
        return session.train(report)


@contextmanager
def _event_log(session: TrainingSession) -> Iterator[None]:
    """Let the session write TensorBoard's event files."""
    from train.tensorboard import event_writer

    done, epochs = session.epochs, session.recipe.epochs
    with event_writer(session.run, session.dataset, done=done, epochs=epochs) as session.events:
        yield


def _describe(plan: TrainingPlan) -> None:
    """Print what is trained on what, and notes about options that hardly fit together."""
    processes, device = plan.processes, plan.device.type
    where = device if processes.is_single else f"{device}, {processes.count} processes"
    images = f"{len(plan.images.train):,} images of {plan.images.name}, {plan.kind.size} {plan.kind.pixels}"
    plan.message(f"{plan.request.run.folder}: {plan.config.family} on {images}, {where}")
    plan.message(plan.speed.describe(plan.recipe.batch_size // processes.count))
    if (seconds := plan.estimated_seconds) is not None and seconds > _LONG:
        steps = len(plan.images.train) // plan.recipe.batch_size
        plan.message(f"about {seconds / 60:.0f} minutes: {plan.recipe.epochs} epochs of {steps:,} steps")
    for line in notes_before_training(plan.config, plan.images):
        plan.message(f"note: {line}")


def _describe_resumed(plan: TrainingPlan, session: TrainingSession, steps_done: int, changes: list[str]) -> None:
    """Print where the training continues, and what is different from before."""
    if session.is_done:
        plan.message(f"finished: all {session.epochs} epochs are done; for more, pass --epochs with a larger number")
        return
    steps = session.trainer.steps_per_epoch
    done = steps_done - session.epochs * steps
    plan.message(f"resumed after epoch {session.epochs}" + (f" and {done} of {steps} steps" if done else ""))
    if session.recipe.cycle_start == steps_done > 0:
        plan.message(
            f"note: from here to epoch {session.recipe.epochs} the learning rate follows a new cycle: a training that "
            "began with as many epochs would have other weights"
        )
    for change in changes:
        plan.message(f"note: {change}: from here on results agree within rounding, not bit by bit")
