"""The options of `cli.py train`: groups that match the dataclasses of `train.config`, presets, and resumed runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from train.cli.options import DeviceOption, ThreadsOption
from train.config import (
    DataOptions,
    DataProtocol,
    DatasetName,
    NetworkOptions,
    ObjectiveOptions,
    PrecisionOption,
    TrainOptions,
)
from train.process import is_printing, prepare_process
from train.recipes import RECIPES, SMALL_BATCH, SMALL_SET, RecipeOptions, parse_stages, preset_names, read_preset
from vae_export.cli import console
from vae_export.cli.command import option_group
from vae_export.errors import InputError, UsageError
from vae_export.likelihood import SCALE, LikelihoodName
from vae_export.models.config import Activation, Family
from vae_export.runs import ARTIFACTS, Run

T = TypeVar("T")

#: Key in the context's `meta`: the preset that a resumed training began with.
_FIRST_PRESET = "preset of the resumed run"


def _recipe_defaults(name: str) -> str:
    """Return the default of an option in each family's recipe, such as "14; blog, conv 10; residual 12"."""
    values: dict[str, list[str]] = {}
    for family, recipe in RECIPES.items():
        values.setdefault(f"{getattr(recipe, name):g}", []).append(family)
    (first, _), *others = values.items()
    return "; ".join([first, *(f"{', '.join(families)} {value}" for value, families in others)])


@option_group("Data")
class DataFlags:
    """The data set and its pixels; see `DataOptions`. `ImageFileFlags` has its files."""

    dataset: Annotated[DatasetName, typer.Option("--dataset", help="Data set to train on.")] = "mnist"
    data_protocol: Annotated[
        DataProtocol,
        typer.Option(
            "--data-protocol",
            help="grey: the grey levels. dynamic, static: binary pixels drawn from them, anew each epoch or once.",
        ),
    ] = DataOptions.protocol


@option_group("Model")
class ModelFlags:
    """The network and its likelihood: the fields of `NetworkOptions`."""

    family: Annotated[Family, typer.Option("--family", help="Kind of network; see above.")] = NetworkOptions.family
    latent_size: Annotated[
        int | None,
        typer.Option(
            "--latent-size", help="Number of latent units. Default: 20; pyramid: about half the values of an image."
        ),
    ] = NetworkOptions.latent_size
    hidden_size: Annotated[
        int, typer.Option("--hidden-size", help="Width of the fully connected layers; most channels in pyramid.")
    ] = NetworkOptions.hidden_size
    activation: Annotated[
        Activation | None, typer.Option("--activation", help="Function between layers. Default: relu.")
    ] = NetworkOptions.activation
    likelihood: Annotated[
        LikelihoodName, typer.Option("--likelihood", help="p(x|z), the distribution of pixels given the latent.")
    ] = NetworkOptions.likelihood
    scale: Annotated[
        float | None,
        typer.Option(
            "--scale", help=f"Standard deviation of gaussian-fixed, for pixels in [0, 1]. Default: {SCALE:g}."
        ),
    ] = NetworkOptions.scale


@option_group("Loss")
class LossFlags:
    """The terms of the loss: the fields of `ObjectiveOptions`."""

    beta: Annotated[float, typer.Option("--beta", help="Weight of the KL term in the loss, not in the scores.")] = (
        ObjectiveOptions.beta
    )
    kl_warmup: Annotated[float, typer.Option("--kl-warmup", help="Epochs over which the KL weight rises from 0.")] = (
        ObjectiveOptions.kl_warmup
    )
    free_bits: Annotated[
        float, typer.Option("--free-bits", help="KL per latent unit, in nats, that is not penalised.")
    ] = ObjectiveOptions.free_bits


@option_group("Optimiser")
class OptimiserFlags:
    """The recipe; see `RecipeOptions`."""

    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs",
            help=f"Passes over the images. Default: {_recipe_defaults('epochs')}; more for fewer than {SMALL_SET:,} "
            "images. With --resume, another number begins a new cycle of the learning rate.",
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            help=f"Images of a step. Default: {_recipe_defaults('batch_size')}; {SMALL_BATCH} for fewer than "
            f"{SMALL_SET:,} images.",
        ),
    ] = None
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", help=f"Adam's, at its peak. Default: {_recipe_defaults('learning_rate')}."),
    ] = None
    seed: Annotated[
        int, typer.Option("--seed", help="Seed of weights, order and noise; the splits do not depend on it.")
    ] = TrainOptions.seed
    warmup_ratio: Annotated[
        float | None,
        typer.Option(
            "--warmup-ratio",
            help=f"Share of the steps in which the rate rises. Default: {_recipe_defaults('warmup_ratio')}.",
        ),
    ] = None
    stages: Annotated[
        str | None,
        typer.Option("--stages", metavar="EPOCHS:RATE,…", help="Stages of constant rate, such as 1:1e-3,3:7e-4."),
    ] = None
    epsilon: Annotated[float | None, typer.Option("--epsilon", help="Adam's epsilon. Default: 1e-8.")] = None
    weight_average: Annotated[
        float | None,
        typer.Option(
            "--weight-average",
            help="Decay per step of an average of the weights, which is scored and saved; 0: none. Default: "
            f"{_recipe_defaults('weight_average')}.",
        ),
    ] = None

    clip_norm: Annotated[
        float | None,
        typer.Option(
            "--clip-norm",
            help="Largest norm of the gradient, of nats per value of a pixel; longer ones are shortened. 0: none. "
            f"Default: {_recipe_defaults('clip_norm')}.",
        ),
    ] = None
    flip: Annotated[
        bool, typer.Option("--flip", help="Mirror each image at random: where left and right do not matter.")
    ] = False
    shift: Annotated[
        int,
        typer.Option(
            "--shift",
            metavar="PIXELS",
            help="Move each image at random by up to so many pixels; what comes in at an edge is mirrored there.",
        ),
    ] = 0
    whiten: Annotated[
        bool,
        typer.Option(
            "--whiten/--no-whiten",
            help="Save coordinates of the latents in which they have mean 0 and no correlations over up to 2,048 "
            "training images: samples of the prior look more like them.",
        ),
    ] = False

    def options(self) -> RecipeOptions:
        """Return the values that replace those of the recipe; raise `UsageError` for stages that cannot be read."""
        values = {name: value for name, value in vars(self).items() if name != "seed"}
        return RecipeOptions(**values | {"stages": None if self.stages is None else parse_stages(self.stages)})


@option_group("Machine")
class MachineFlags:
    """The device, threads and precision of the steps: fields of `TrainOptions`."""

    device: DeviceOption = TrainOptions.device
    precision: Annotated[
        PrecisionOption,
        typer.Option(
            "--precision", help="Precision of matrix products. auto: bfloat16 where it is measured to be faster."
        ),
    ] = TrainOptions.precision
    threads: ThreadsOption = TrainOptions.threads
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the step: half a minute at first, then faster steps.")
    ] = TrainOptions.compiled
    reproducible: Annotated[
        bool,
        typer.Option(
            "--reproducible",
            help="Equal results each time: one thread and float32 where --threads and --precision leave them open.",
        ),
    ] = False

    def options(self) -> dict[str, Any]:
        """Return the fields of `TrainOptions`."""
        chosen = {name: value for name, value in vars(self).items() if name != "reproducible"}
        if self.reproducible:
            chosen["threads"] = self.threads or 1
            chosen["precision"] = "float32" if self.precision == "auto" else self.precision
        return chosen


def take_preset(context: typer.Context, name: str | None) -> str | None:
    """Make the options of a preset the defaults of the command; options that are typed override them."""
    if name is None:
        return None
    preset, known = read_preset(name), _parameter_names(context)
    if unknown := [option for option in preset.options if option not in known]:
        raise InputError("preset has unknown options", where=name, got=", ".join(unknown))
    defaults = {known[option]: value for option, value in preset.options.items()}
    context.default_map = {**defaults, **(context.default_map or {})}  # options of a resumed run come first
    return name


def is_typed(context: typer.Context, name: str) -> bool:
    """Return whether a parameter of the command was typed, by its name in the code."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def preset_values(context: typer.Context, name: str) -> dict[str, Any]:
    """Return the values of a preset, by the names of the command's parameters, but for those that were typed."""
    known = _parameter_names(context)
    values = {known[option]: value for option, value in read_preset(name).options.items()}
    return {key: value for key, value in values.items() if not is_typed(context, key)}


def _parameter_names(context: typer.Context) -> dict[str, str]:
    """Return the names of the command's parameters by their long options, without the dashes."""
    return {
        option.removeprefix("--"): parameter.name for parameter in context.command.params for option in parameter.opts
    }


def with_values(group: T, values: Mapping[str, Any]) -> T:
    """Return an option group with those of the values that are its fields."""
    own: Any = group
    changed: T = replace(own, **{key: value for key, value in values.items() if hasattr(group, key)})
    return changed


def list_presets(_: typer.Context, wanted: bool) -> None:
    """Print the presets and exit."""
    if wanted:
        width = max(map(len, preset_names()))
        for name in preset_names():
            console.result(f"{name:<{width}}  {read_preset(name).summary}")
        raise typer.Exit


def take_resumed_run(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    """Make the options of the resumed run the defaults of the command.

    This is the callback of --resume and of --out, which come in any order: it acts once both are known. Options that
    are typed override the defaults; `train.resume` decides whether that is still the same training.
    """
    known = context.params | {parameter.name: value}
    if not known.get("resume") or "out" not in known:
        return value
    folder = known["out"] if known["out"] is not None else _newest_resumable()
    prepare_process()
    from train.resume import load_state

    arguments = dict(load_state(Run(folder)).arguments)
    context.meta[_FIRST_PRESET] = arguments.pop("preset", None)
    context.default_map = {**(context.default_map or {}), **arguments}
    return folder if parameter.name == "out" else value


def _newest_resumable() -> Path:
    states = sorted(ARTIFACTS.glob(f"*/{Run(Path()).training_state}"), key=lambda path: path.stat().st_mtime)
    if not states:
        raise UsageError("no run to resume", where=ARTIFACTS, do="say which: --out FOLDER")
    run = states[-1].parents[1]
    if is_printing():
        console.message(f"run: {run}")
    return run


def preset_of_resumed(context: typer.Context, preset: str | None) -> str | None:
    """Return the preset that the training began with. Raises `UsageError` if another one was passed."""
    first: str | None = context.meta[_FIRST_PRESET]
    if preset not in (None, first):
        expected, got = f"preset {first}", f"preset {preset}"
        raise UsageError("options differ from the resumed training", expected=expected, got=got, do="leave it out")
    return first


def _complete_preset(incomplete: str) -> list[str]:
    return [name for name in preset_names() if name.startswith(incomplete)]


PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="Named set of options; options that are typed override it.",
        callback=take_preset,
        autocompletion=_complete_preset,
        is_eager=True,
        rich_help_panel="Start",
    ),
]
ListPresetsOption = Annotated[
    bool,
    typer.Option(
        "--list-presets",
        help="Show the presets and exit.",
        callback=list_presets,
        is_eager=True,
        rich_help_panel="Start",
    ),
]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continue the training in --out, or the newest, with its options.",
        callback=take_resumed_run,
        is_eager=True,
        rich_help_panel="Start",
    ),
]
RunFolderOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "--run",
        metavar="FOLDER",
        help="Run folder. Default: artifacts/DATASET-FAMILY, or -PRESET.",
        callback=take_resumed_run,
        is_eager=True,
        rich_help_panel="Output",
    ),
]
