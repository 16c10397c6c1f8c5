"""`--resume`: options of the training that goes on become the defaults of the command.

A training as it was asked for, from reading images to the last line on the screen.

`cli.py train`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from train.cli.options import DataDirOption, DeviceOption, DownloadOption, ImageSizeOption, list_presets, take_preset
from train.cli.process import device as chosen_device
from train.cli.process import ending_together, memory_errors, prepare
from train.cli.tables import score_table
from train.config import (
    DataOptions,
    DataProtocol,
    DatasetName,
    NetworkOptions,
    ObjectiveOptions,
    PrecisionOption,
    TrainOptions,
)
from train.recipes import RecipeOptions, parse_stages
from vae_export.cli import console
from vae_export.cli.options import ForceOption, JsonOption
from vae_export.errors import UsageError
from vae_export.likelihood import LikelihoodName
from vae_export.models.config import Activation, Family
from vae_export.runs import ARTIFACTS, Run
from vae_export.system.extras import require

if TYPE_CHECKING:
    import torch

    from train.distributed import Processes
    from train.resume import TrainingState
    from train.session import TrainingSession

#: Of the command and not of the training.
_OURS = {"out", "resume", "force", "json"}


def take_run(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    """Callback of --resume and of --out, which come in any order: with both known, read that run's options.

    Whatever is typed overrides them; `train.resume` decides whether that is still the same training.
    """
    known = context.params | {parameter.name: value}
    if not known.get("resume") or "out" not in known:
        return value
    folder = known["out"] if known["out"] is not None else _newest()
    prepare()
    from train.resume import load_state

    arguments = dict(load_state(Run(folder)).arguments)
    began_with = arguments.pop("preset", None)
    context.default_map = {**(context.default_map or {}), **arguments}
    context.meta["began with"] = began_with
    return folder if parameter.name == "out" else value


def same_preset(context: typer.Context, preset: str | None) -> str | None:
    """The one that the training began with; another is refused."""
    began_with: str | None = context.meta["began with"]
    if preset not in (None, began_with):
        expected, got = f"preset {began_with}", f"preset {preset}"
        raise UsageError("resume would be another training", expected=expected, got=got, do="leave it out")
    return began_with


def recorded(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A command's parameters as a state keeps them; paths hold from any working folder."""
    ours = {name: value for name, value in parameters.items() if name not in _OURS and value is not None}
    return {name: os.path.abspath(value) if isinstance(value, Path) else value for name, value in ours.items()}


def _newest() -> Path:
    states = sorted(ARTIFACTS.glob(f"*/{Run(Path()).training_state}"), key=lambda path: path.stat().st_mtime)
    if not states:
        raise UsageError("no run to resume", where=ARTIFACTS, do="say which: --out FOLDER")
    run = states[-1].parents[1]
    console.message(f"run: {run}")
    return run


def run_training(
    options: TrainOptions,
    run: Run,
    arguments: Mapping[str, Any],
    *,
    resume: bool,
    force: bool,
    tensorboard: bool,
    json: bool,
) -> None:
    """Train, draw, print.

    Args:
        options: of the training.
        run: where it goes.
        arguments: as they were typed, for the state; device and threads go in as they were chosen.
        resume: go on with what lies in the run.
        force: replace it.
        tensorboard: write event files too.
        json: print the result as JSON.
    """
    if tensorboard:
        require("tensorboard")
    with memory_errors():
        import torch

        from train import progress
        from train.autotune import autotune
        from train.distributed import join_processes
        from train.pictures import draw_pictures
        from train.progress import load_with_progress, show_progress
        from train.resume import check_out, load_state, new_run, resumed_run
        from train.session import TrainingSession
        from train.trainer import check_compiler, steps_per_epoch
        from vae_export.models.checkpoint import load_checkpoint

        chosen = chosen_device(options.device, options.threads)
        with ending_together(), join_processes(chosen) as processes:
            say: Callable[[str], None] = console.message if processes.is_first else lambda _: None
            if not resume:
                processes.on_first(lambda: check_out(run, force=force))
            images = processes.on_each(lambda: load_with_progress(options.data))
            config = options.network.config(images.image_shape)  # before the folder is touched: it may not fit
            recipe = options.recipe_for(len(images.train))
            steps = steps_per_epoch(len(images.train), recipe.batch_size)
            processes.batch_slice(recipe.batch_size)
            if options.compiled:
                check_compiler(chosen)
            pace = processes.gather(autotune(options, config, images, chosen, processes))[0]
            torch.set_num_threads(pace.config.threads)
            options = replace(options, precision=pace.config.precision, threads=pace.config.threads)
            arguments = dict(arguments) | {"device": chosen.type, "threads": pace.config.threads}
            with processes.first_holds(resumed_run(run) if resume else new_run(run, force=force)):
                session = TrainingSession(options, run, images, chosen, arguments, processes)
                count = f"{len(images.train):,} images of {options.data.name}"
                say(f"{run.folder}: {config.family} on {count}, {_where(chosen, processes)}")
                say(pace.describe(recipe.batch_size // processes.count))
                for line in progress.notes_before_training(config, images):
                    say(f"note: {line}")
                if resume:
                    _go_on(session, processes.on_first(lambda: load_state(run)), say)
                was_done = session.is_done
                with (
                    show_progress(
                        epochs=recipe.epochs,
                        steps=steps,
                        batch_size=recipe.batch_size,
                        protocol=options.data.protocol,
                        silent=not processes.is_first,
                    ) as report,
                    _events(tensorboard and not was_done and processes.is_first, session),
                ):
                    saved = session.train(report)
                if processes.is_first and not (was_done and run.pictures.exists()):
                    draw_pictures(load_checkpoint(run.checkpoint).model(), images, run)
    if not processes.is_first:
        return
    if json:
        console.result_json({"run": str(run.folder), "checkpoint": str(run.checkpoint), **saved.to_json()})
        return
    scores, title = {"validation": saved.validation, "test": saved.test}, f"{run.folder}, epoch {saved.epoch}"
    console.result(score_table(scores, title, options.data.protocol, config.likelihood))
    console.result(f"checkpoint: {run.checkpoint}\npictures:   {run.pictures}")


def _where(device: torch.device, processes: Processes) -> str:
    return device.type if processes.is_single else f"{device.type}, {processes.count} processes"


@contextmanager
def _events(wanted: bool, session: TrainingSession) -> Iterator[None]:
    """Let the session write TensorBoard's event files, if they are wanted."""
    if not wanted:
        yield
        return
    from train.tensorboard import event_writer

    done, epochs = session.epochs, session.recipe.epochs
    with event_writer(session.run, session.dataset, done=done, epochs=epochs) as session.events:
        yield


def _go_on(session: TrainingSession, state: TrainingState, say: Callable[[str], None]) -> None:
    """Bring the session where it was, and say so."""
    changes, steps = session.resume(state), session.trainer.steps_per_epoch
    if session.is_done:
        say(f"finished: all {session.epochs} epochs are done; nothing to resume")
        return
    done = state.position - session.epochs * steps
    say(f"resumed after epoch {session.epochs}" + (f" and {done} of {steps} steps" if done else ""))
    for change in changes:
        say(f"note: {change}: from here on as before within rounding, not bit by bit")


def train(
    context: typer.Context,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            help="Options under a name; others override them.",
            show_default=False,
            callback=take_preset,
            is_eager=True,
        ),
    ] = None,
    _list: Annotated[
        bool, typer.Option("--list-presets", help="Show the presets and exit.", callback=list_presets, is_eager=True)
    ] = False,
    dataset: Annotated[DatasetName, typer.Option("--dataset", help="What to train on.")] = "mnist",
    data_protocol: Annotated[
        DataProtocol,
        typer.Option(
            "--data-protocol",
            help="Grey levels as they are, or binary pixels drawn from them: anew each epoch, or once.",
        ),
    ] = "grey",
    family: Annotated[Family, typer.Option("--family", help="Which network; see above.")] = "mlp",
    latent_size: Annotated[int, typer.Option("--latent-size", help="Number of latent units.")] = 20,
    hidden_size: Annotated[int, typer.Option("--hidden-size", help="Width of fully connected layers.")] = 400,
    activation: Annotated[
        Activation | None,
        typer.Option("--activation", help="Between layers. Default: relu.", show_default=False),
    ] = None,
    likelihood: Annotated[
        LikelihoodName, typer.Option("--likelihood", help="p(x|z): what the decoder says of a pixel.")
    ] = "bernoulli",
    scale: Annotated[
        float | None,
        typer.Option("--scale", help="Deviation of gaussian-fixed. Default: 0.1.", show_default=False),
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Default: 14, blog and conv 10, residual 12.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Default: 128, conv 256.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help="Default: 3e-3, blog 1e-3, residual 2e-3.")
    ] = None,
    warmup_ratio: Annotated[
        float | None,
        typer.Option(
            "--warmup-ratio",
            help="Share of the steps in which the rate rises. Default: 0.3, mlp 0.1.",
            show_default=False,
        ),
    ] = None,
    stages: Annotated[
        str | None,
        typer.Option("--stages", help="Epochs and rate of each stage: 1:1e-3,3:7e-4,…", show_default=False),
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option("--epsilon", help="Adam's. Default: 1e-8.", show_default=False)
    ] = None,
    weight_average: Annotated[
        float | None,
        typer.Option(
            "--weight-average",
            help="Score and keep an average of the weights, of this decay a step. Default: 0, for none; mlp 0.99.",
            show_default=False,
        ),
    ] = None,
    beta: Annotated[float, typer.Option("--beta", help="Weight of the KL term in the loss, not in the scores.")] = 1.0,
    kl_warmup: Annotated[float, typer.Option("--kl-warmup", help="Epochs in which it grows from 0.")] = 0.0,
    free_bits: Annotated[float, typer.Option("--free-bits", help="Nats a unit has for nothing in the loss.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", help="Of weights, order and noise; not of the splits.")] = 0,
    device: DeviceOption = "auto",
    precision: Annotated[
        PrecisionOption,
        typer.Option("--precision", help="Of products in training. auto: bfloat16, if measured to be quicker."),
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option("--threads", help="CPU threads. Default: measured, 4 at most.", show_default=False),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the step first: half a minute, then quicker steps.")
    ] = False,
    data_dir: DataDirOption = None,
    image_size: ImageSizeOption = None,
    download: DownloadOption = True,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write event files too, to the run's tensorboard/.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "--run",
            help="Run folder. Default: artifacts/<dataset>-<preset or family>.",
            show_default=False,
            callback=take_run,
            is_eager=True,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the training in --out, or the newest, as it was begun.",
            callback=take_run,
            is_eager=True,
        ),
    ] = False,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Train a VAE. Writes the best checkpoint, metrics and pictures to a run folder.

    Ctrl-C and SIGTERM end the step at hand and save; --resume goes on from there, to the same weights, bit by bit.

    \b
    Families, and the -ELBO of their defaults in nats per MNIST test image (grey):
      mlp    two hidden layers, linear heads                  98.9
      blog   ReLU heads, dropout and loss of a blog post     155.9
      conv   two strided convolutions each way                99.5
      residual  conv with residual blocks in its decoder, for --preset mnist-best
    """
    if resume:
        if force:
            raise UsageError("--resume and --force together", do="go on with --resume, or begin anew with --force")
        preset = same_preset(context, preset)
    options = TrainOptions(
        DataOptions(dataset, data_dir, image_size, download, data_protocol),
        NetworkOptions(family, latent_size, hidden_size, activation, likelihood, scale),
        ObjectiveOptions(beta, kl_warmup, free_bits),
        RecipeOptions(
            epochs,
            batch_size,
            learning_rate,
            None if stages is None else parse_stages(stages),
            epsilon,
            weight_average,
            warmup_ratio,
        ),
        seed,
        device,
        precision,
        threads,
        preset,
        compiled,
    )
    prepare()
    run = Run(out if out is not None else ARTIFACTS / _name(dataset, preset, family))
    arguments = recorded(context.params | {"preset": preset})
    run_training(options, run, arguments, resume=resume, force=force, tensorboard=tensorboard, json=json)


def _name(dataset: str, preset: str | None, family: str) -> str:
    """Of the run's folder."""
    name = preset or family
    return name if name.startswith(dataset) else f"{dataset}-{name}"
