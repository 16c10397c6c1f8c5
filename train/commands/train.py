"""`cli.py train`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from train import preset as presets
from train.commands.options import DataDirOption, DeviceOption, DownloadOption, ImageSizeOption
from train.commands.process import device as chosen_device
from train.commands.process import ending_together, memory_errors, prepare
from train.commands.resume import recorded, same_preset, take_run
from train.commands.tables import score_table
from train.options import (
    DataOptions,
    DatasetName,
    NetworkOptions,
    ObjectiveOptions,
    Precision,
    Protocol,
    TrainOptions,
)
from train.recipes import RecipeOptions, parse_stages
from vae_export.cli import console
from vae_export.cli.options import ForceOption, JsonOption
from vae_export.errors import InputError, UsageError
from vae_export.extras import require
from vae_export.likelihood import LikelihoodName
from vae_export.models.config import Activation, Family
from vae_export.runs import ARTIFACTS, Run

if TYPE_CHECKING:
    import torch

    from train.processes import Processes
    from train.session import Session
    from train.state import State


def _take_preset(context: typer.Context, name: str | None) -> str | None:
    """Make the preset's options this command's defaults: whatever is typed overrides them."""
    if name is None:
        return None
    preset = presets.read_preset(name)
    known = {
        option.removeprefix("--"): parameter.name for parameter in context.command.params for option in parameter.opts
    }
    if unknown := [option for option in preset.options if option not in known]:
        raise InputError("preset names no option of train", where=name, got=", ".join(unknown))
    ours = {known[option]: value for option, value in preset.options.items()}
    context.default_map = {**ours, **(context.default_map or {})}  # of a run that goes on, before a preset
    return name


def _list_presets(_: typer.Context, wanted: bool) -> None:
    if wanted:
        width = max(map(len, presets.names()))
        for name in presets.names():
            console.result(f"{name:<{width}}  {presets.read_preset(name).summary}")
        raise typer.Exit


def train(
    context: typer.Context,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            help="Options under a name; others override them.",
            show_default=False,
            callback=_take_preset,
            is_eager=True,
        ),
    ] = None,
    _list: Annotated[
        bool, typer.Option("--list-presets", help="Show the presets and exit.", callback=_list_presets, is_eager=True)
    ] = False,
    dataset: Annotated[DatasetName, typer.Option("--dataset", help="What to train on.")] = "mnist",
    data_protocol: Annotated[
        Protocol,
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
    epochs: Annotated[int | None, typer.Option("--epochs", help="Default: 14, post and conv 10, residual 12.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Default: 128, conv 256.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help="Default: 3e-3, post 1e-3, residual 2e-3.")
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
        Precision,
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
      post   a blog post's: ReLU heads, dropout, its loss    155.9
      conv   two strided convolutions each way                99.5
      residual  conv with residual blocks in its decoder, for --preset mnist-best
    """
    if resume:
        if force:
            raise UsageError("--resume and --force together", do="go on with --resume, or begin anew with --force")
        preset = same_preset(context, preset)
    data = DataOptions(dataset, data_dir, image_size, download, data_protocol)
    options = TrainOptions(
        data,
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
    if tensorboard:
        require("tensorboard")
    run = Run(out if out is not None else ARTIFACTS / _name(dataset, preset, family))
    with memory_errors():
        import torch

        from train import doctor
        from train.claim import check_out, claimed, reclaimed
        from train.compiling import check_compiler
        from train.data import load
        from train.loop import steps_per_epoch
        from train.pictures import draw_pictures
        from train.processes import joined
        from train.report import reporting
        from train.session import Session
        from train.state import load_state
        from train.trial import pace_of
        from vae_export.checkpoint import load_checkpoint

        chosen = chosen_device(device, threads)
        with ending_together(), joined(chosen) as processes:
            say: Callable[[str], None] = console.message if processes.is_first else lambda _: None
            if not resume:
                processes.first(lambda: check_out(run, force=force))
            images = processes.each(lambda: load(data))
            config = options.network.config(images.image_shape)  # before the folder is touched: it may not fit
            recipe = options.recipe_for(len(images.train))
            steps = steps_per_epoch(len(images.train), recipe.batch_size)
            processes.part(recipe.batch_size)
            if compiled:
                check_compiler(chosen)
            pace = processes.gathered(pace_of(options, config, images, chosen, processes))[0]
            torch.set_num_threads(pace.way.threads)
            options = replace(options, precision=pace.way.precision, threads=pace.way.threads)
            arguments = recorded(context.params | {"preset": preset, "device": chosen.type})
            arguments["threads"] = pace.way.threads
            with processes.led(reclaimed(run) if resume else claimed(run, force=force)):
                session = Session(options, run, images, chosen, arguments, processes)
                say(f"{run.folder}: {family} on {len(images.train):,} images of {dataset}, {_where(chosen, processes)}")
                say(pace.line(recipe.batch_size // processes.count))
                for line in doctor.before(config, images):
                    say(f"note: {line}")
                if resume:
                    _go_on(session, processes.first(lambda: load_state(run)), say)
                was_done = session.is_done
                with (
                    reporting(
                        epochs=recipe.epochs,
                        steps=steps,
                        batch_size=recipe.batch_size,
                        protocol=data_protocol,
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
    console.result(score_table(scores, title, data_protocol, config.likelihood))
    console.result(f"checkpoint: {run.checkpoint}\npictures:   {run.pictures}")


def _where(device: torch.device, processes: Processes) -> str:
    return device.type if processes.alone else f"{device.type}, {processes.count} processes"


@contextmanager
def _events(wanted: bool, session: Session) -> Iterator[None]:
    """Let the session write TensorBoard's event files, if they are wanted."""
    if not wanted:
        yield
        return
    from train.events import recording

    done, epochs = session.epochs, session.recipe.epochs
    with recording(session.run, session.dataset, done=done, epochs=epochs) as session.events:
        yield


def _go_on(session: Session, state: State, say: Callable[[str], None]) -> None:
    """Bring the session where it was, and say so."""
    changes, steps = session.resume(state), session.trainer.steps
    if session.is_done:
        say(f"finished: all {session.epochs} epochs are done; nothing to resume")
        return
    done = state.position - session.epochs * steps
    say(f"resumed after epoch {session.epochs}" + (f" and {done} of {steps} steps" if done else ""))
    for change in changes:
        say(f"note: {change}: from here on as before within rounding, not bit by bit")


def _name(dataset: str, preset: str | None, family: str) -> str:
    """Of the run's folder."""
    name = preset or family
    return name if name.startswith(dataset) else f"{dataset}-{name}"
