"""`cli.py train`: the steps of a training, and what it prints."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from train.cli.evaluate import show_scores
from train.cli.options import ImageFileFlags
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
from train.config import DatasetName, NetworkOptions, ObjectiveOptions, TrainOptions
from train.process import choose_device, is_printing, memory_errors, prepare_process
from vae_export.cli import console
from vae_export.cli.command import grouped
from vae_export.cli.options import ForceOption, JsonOption
from vae_export.errors import UsageError
from vae_export.runs import ARTIFACTS, Run
from vae_export.system.extras import require

if TYPE_CHECKING:
    from train.fit import TrainingPlan, TrainingRequest
    from train.resume import SavedCheckpoint

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
    files: ImageFileFlags,
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
      resnet    residual blocks, more for larger images, for --preset photos
      pyramid   a small image, and details of each doubling of its size, for --preset photos-detail
    """
    if not resume and preset is None and not is_typed(context, "family"):
        preset = _preset_for(data.dataset, files)
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
        data=files.options(data.dataset, data.data_protocol),
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
        from train.fit import TrainingRequest

        request = TrainingRequest(options, run, arguments, resume=resume, force=force, tensorboard=tensorboard)
        _train(request, json=json)


def _preset_for(dataset: DatasetName, files: ImageFileFlags) -> str | None:
    """Return the preset that suits the images of a folder, and say which; None for the default recipe."""
    if dataset != "folder" or files.data_dir is None or not files.data_dir.is_dir():
        return None
    prepare_process()
    from train.data.image_folder import preview_folder

    seen = preview_folder(files.data_dir)
    side = files.image_size or seen.side
    if not seen.is_colour and side <= _LARGEST_MNIST_LIKE:
        return None
    kind = "colour" if seen.is_colour else "grey"
    if is_printing():
        console.message(f"{side} x {side} {kind}: trained as --preset photos; --preset and --family choose otherwise")
    return "photos"


def _run_name(dataset: str, preset: str | None, family: str) -> str:
    name = preset or family
    return name if name.startswith(dataset) else f"{dataset}-{name}"


def _kept_arguments(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the command's parameters as a training state keeps them, with paths that hold in any working folder."""
    kept = {name: value for name, value in parameters.items() if name not in _NOT_KEPT and value is not None}
    return {name: os.path.abspath(value) if isinstance(value, Path) else value for name, value in kept.items()}


def _train(request: TrainingRequest, *, json: bool) -> None:
    """Train, draw the pictures and print the result; the first process alone prints."""
    from train.distributed import join_processes
    from train.fit import make_plan, run_plan

    device = choose_device(request.options.device, request.options.threads)
    with _exit_with_peers(), join_processes(device) as processes:
        plan = make_plan(request, device, processes)
        saved = run_plan(plan)
    if processes.is_first:
        _print_result(plan, saved, json=json)


@contextmanager
def _exit_with_peers() -> Iterator[None]:
    """Exit in silence if another process of the training ended and said why."""
    from train.distributed import PeerEndedError

    try:
        yield
    except PeerEndedError as ended:
        raise typer.Exit(ended.code) from ended


def _print_result(plan: TrainingPlan, saved: SavedCheckpoint, *, json: bool) -> None:
    run = plan.request.run
    if json:
        console.result_json({"run": str(run.folder), "checkpoint": str(run.checkpoint), **saved.to_json()})
        return
    console.result(f"{run.folder}, epoch {saved.epoch}")
    scores = {"validation": saved.validation, "test": saved.test}
    show_scores(scores, plan.kind)
    if plan.kind.has_levels:
        _print_verdict(plan)
    console.result(f"checkpoint: {run.checkpoint}\npictures:   {run.pictures}")


def _print_verdict(plan: TrainingPlan) -> None:
    """Print what codecs make of the same images, and what to try next."""
    from train.advice import next_step
    from train.codecs import codec_bits_per_dim
    from train.results import read_json_lines

    codecs = codec_bits_per_dim(plan.images.test)
    console.paragraph(
        f"bits/dim of test images as {', as '.join(f'{name} {bits:.2f}' for name, bits in codecs.items())}"
    )
    lines = read_json_lines(plan.request.run.metrics)
    console.paragraph(f"next: {next_step(lines, plan.recipe, plan.request.run.folder)}")
