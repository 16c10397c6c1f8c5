"""`cli.py train`: the steps of a training, and what it prints."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from train.cli.evaluate import show_scores
from train.cli.options import choose_device, memory_errors, prepare_process
from train.cli.train_options import (
    DataFlags,
    ListPresetsOption,
    LossFlags,
    MachineFlags,
    ModelFlags,
    OptimiserFlags,
    PresetOption,
    ResumeOption,
    RunFolderOption,
    is_typed,
    preset_of_resumed,
    preset_values,
    with_values,
)
from train.config import NetworkOptions, ObjectiveOptions, TrainOptions
from train.results import ScoreKind
from vae_export.cli import console
from vae_export.cli.command import grouped
from vae_export.cli.options import ForceOption, JsonOption
from vae_export.errors import UsageError
from vae_export.runs import ARTIFACTS, Run
from vae_export.system.extras import require

if TYPE_CHECKING:
    import torch

    from train.autotune import AutotuneResult
    from train.data.datasets import Dataset
    from train.distributed import Processes
    from train.recipes import Recipe
    from train.resume import SavedCheckpoint
    from train.session import TrainingSession
    from vae_export.models import VAEConfig

#: Scores after each epoch take about a tenth of the time of its steps.
_SCORING = 1.1
#: Seconds above which the time of a training is estimated.
_LONG = 120.0
#: Side in pixels up to which grey images are trained as MNIST is.
_LARGEST_MNIST_LIKE = 40
#: Parameters of the command that are not part of the training and so not kept in its state.
_NOT_KEPT = {"out", "resume", "force", "json"}


@grouped
def train(
    context: typer.Context,
    *,
    preset: PresetOption = None,
    _list: ListPresetsOption = False,
    resume: ResumeOption = False,
    data: DataFlags,
    model: ModelFlags,
    optimiser: OptimiserFlags,
    loss: LossFlags,
    machine: MachineFlags,
    out: RunFolderOption = None,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard", help="Also write event files to tensorboard/ in the run.", rich_help_panel="Output"
        ),
    ] = False,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Train a VAE.

    Writes the best checkpoint, metrics and pictures to a run folder. Ctrl-C and SIGTERM save after the current step;
    --resume continues from there and arrives at the same weights, bit by bit.

    \b
    Families, and the -ELBO of their defaults in nats per MNIST test image (grey):
      mlp       two hidden layers, linear heads               98.9
      blog      ReLU heads, dropout and loss of a blog post  155.9
      conv      two strided convolutions each way             99.5
      residual  conv with residual blocks in its decoder, for --preset mnist-best
      resnet    residual blocks, as deep as the image is large, for --preset photos
    """
    if not resume and preset is None and not is_typed(context, "family"):
        preset = _preset_for(data)
        if preset is not None:
            values = preset_values(context, preset)
            context.params.update(values)
            model, loss = with_values(model, values), with_values(loss, values)
            optimiser = with_values(optimiser, values)
    if resume:
        if force:
            raise UsageError("--resume and --force exclude each other", do="resume, or start anew with --force")
        preset = preset_of_resumed(context, preset)
    options = TrainOptions(
        data=data.options(),
        network=NetworkOptions(**vars(model)),
        objective=ObjectiveOptions(**vars(loss)),
        recipe=optimiser.options(),
        seed=optimiser.seed,
        preset=preset,
        **machine.options(),
    )
    prepare_process()
    if tensorboard:
        require("tensorboard")
    run = Run(out if out is not None else ARTIFACTS / _run_name(data.dataset, preset, model.family))
    arguments = _kept_arguments(context.params | {"preset": preset})
    with memory_errors():
        _train(_Request(options, run, arguments, resume=resume, force=force, tensorboard=tensorboard, json=json))


def _preset_for(data: DataFlags) -> str | None:
    """Return the preset that suits the images of a folder, and say which; None for the default recipe."""
    if data.dataset != "folder" or data.data_dir is None or not data.data_dir.is_dir():
        return None
    prepare_process()
    from train.data.image_folder import glance

    seen = glance(data.data_dir)
    side = data.image_size or seen.side
    if not seen.is_colour and side <= _LARGEST_MNIST_LIKE:
        return None
    kind = "colour" if seen.is_colour else "grey"
    console.message(f"{side} x {side} {kind}: trained as --preset photos; --preset and --family choose otherwise")
    return "photos"


def _run_name(dataset: str, preset: str | None, family: str) -> str:
    name = preset or family
    return name if name.startswith(dataset) else f"{dataset}-{name}"


def _kept_arguments(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the command's parameters as a training state keeps them, with paths that hold in any working folder."""
    kept = {name: value for name, value in parameters.items() if name not in _NOT_KEPT and value is not None}
    return {name: os.path.abspath(value) if isinstance(value, Path) else value for name, value in kept.items()}


@dataclass(frozen=True)
class _Request:
    """A training as it was asked for.

    Attributes:
        options: of the training.
        run: the folder that it writes to.
        arguments: the command's parameters, for the state.
        resume: whether it continues the training in the folder.
        force: whether it replaces the run in the folder.
        tensorboard: whether it writes event files.
        json: whether the result is printed as JSON.
    """

    options: TrainOptions
    run: Run
    arguments: Mapping[str, Any]
    resume: bool
    force: bool
    tensorboard: bool
    json: bool


@dataclass(frozen=True)
class _Plan:
    """A training before its first step: the images are loaded, and nothing is left to be chosen.

    Attributes:
        request: with the threads and the precision that were chosen.
        images: the data set.
        config: the network for images of this shape.
        recipe: epochs, batch size and rates for this number of images.
        device: of the weights.
        speed: threads and precision, and the measurements that they were chosen by.
        processes: that train together.
    """

    request: _Request
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
        if self.processes.is_first:
            console.note(line)


def _train(request: _Request) -> None:
    """Train, draw the pictures and print the result; the first process alone prints."""
    from train.distributed import join_processes

    device = choose_device(request.options.device, request.options.threads)
    with _exit_with_peers(), join_processes(device) as processes:
        plan = _make_plan(request, device, processes)
        saved = _run_plan(plan)
    if processes.is_first:
        _print_result(plan, saved)


def _make_plan(request: _Request, device: torch.device, processes: Processes) -> _Plan:
    """Load the images and check that everything fits, before the run folder is touched; choose threads, precision."""
    import torch

    from train.autotune import autotune
    from train.progress import load_with_progress
    from train.run_folder import check_out
    from train.trainer import check_compiler, steps_per_epoch

    options = request.options
    if not request.resume:
        processes.on_first(lambda: check_out(request.run, force=request.force))
    images = processes.on_each(lambda: load_with_progress(options.data))
    config = options.network.config(images.image_shape)
    recipe = options.recipe_for(len(images.train))
    steps_per_epoch(len(images.train), recipe.batch_size)  # raises an error for fewer images than a batch has
    processes.batch_slice(recipe.batch_size)  # raises an error where processes would get unequal parts
    if options.compiled:
        check_compiler(device)
    speed = processes.gather(autotune(options, config, images, device, processes))[0]
    torch.set_num_threads(speed.config.threads)
    options = replace(options, precision=speed.config.precision, threads=speed.config.threads)
    arguments = {**request.arguments, "device": device.type, "threads": speed.config.threads}
    request = replace(request, options=options, arguments=arguments)
    return _Plan(request, images, config, recipe, device, speed, processes)


def _run_plan(plan: _Plan) -> SavedCheckpoint:
    """Train in the run folder, which this process holds meanwhile."""
    from train.pictures import draw_pictures
    from train.resume import load_state
    from train.run_folder import new_run, resumed_run
    from train.session import TrainingSession
    from vae_export.models.checkpoint import load_checkpoint

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
        if processes.is_first and not (was_done and run.pictures.exists()):
            draw_pictures(load_checkpoint(run.checkpoint).model(), plan.images, run)
    return saved


def _run_session(plan: _Plan, session: TrainingSession) -> SavedCheckpoint:
    """Train to the end with progress on stderr and, if they are wanted, event files."""
    from train.progress import show_progress

    is_first = plan.processes.is_first
    shown = show_progress(
        epochs=plan.recipe.epochs,
        steps=session.trainer.steps_per_epoch,
        batch_size=plan.recipe.batch_size,
        kind=plan.kind,
        silent=not is_first,
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


@contextmanager
def _exit_with_peers() -> Iterator[None]:
    """Exit in silence if another process of the training ended and said why."""
    from train.distributed import PeerEndedError

    try:
        yield
    except PeerEndedError as ended:
        raise typer.Exit(ended.code) from ended


def _describe(plan: _Plan) -> None:
    """Print what is trained on what, and notes about options that hardly fit together."""
    from train.progress import notes_before_training

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


def _describe_resumed(plan: _Plan, session: TrainingSession, steps_done: int, changes: list[str]) -> None:
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


def _print_result(plan: _Plan, saved: SavedCheckpoint) -> None:
    run = plan.request.run
    if plan.request.json:
        console.result_json({"run": str(run.folder), "checkpoint": str(run.checkpoint), **saved.to_json()})
        return
    console.result(f"{run.folder}, epoch {saved.epoch}")
    scores = {"validation": saved.validation, "test": saved.test}
    show_scores(scores, plan.kind)
    if plan.kind.has_levels:
        _print_verdict(plan)
    console.result(f"checkpoint: {run.checkpoint}\npictures:   {run.pictures}")


def _print_verdict(plan: _Plan) -> None:
    """Print what codecs make of the same images, and what to try next."""
    from train.advice import next_step
    from train.codecs import codec_bits_per_dim
    from train.results import read_json_lines

    codecs = codec_bits_per_dim(plan.images.test)
    console.paragraph(
        f"bits/dim of test images as {', as '.join(f'{name} {bits:.2f}' for name, bits in codecs.items())}"
    )
    lines = read_json_lines(plan.request.run.metrics)
    console.paragraph(f"next: {next_step(lines, epochs=plan.recipe.epochs, flips=plan.recipe.flip)}")
