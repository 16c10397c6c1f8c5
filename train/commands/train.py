"""`cli.py train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from train.commands.options import DataDirOption, DeviceOption, DownloadOption, ImageSizeOption
from train.commands.presets import list_presets, take_preset
from train.commands.process import prepare
from train.commands.resume import recorded, same_preset, take_run
from train.commands.training import carry_out
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
from vae_export.cli.options import ForceOption, JsonOption
from vae_export.errors import UsageError
from vae_export.likelihood import LikelihoodName
from vae_export.models.config import Activation, Family
from vae_export.runs import ARTIFACTS, Run


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
    carry_out(options, run, arguments, resume=resume, force=force, tensorboard=tensorboard, json=json)


def _name(dataset: str, preset: str | None, family: str) -> str:
    """Of the run's folder."""
    name = preset or family
    return name if name.startswith(dataset) else f"{dataset}-{name}"
