"""`--preset` and `--list-presets`: a preset's options become the defaults of the command.

Options that both commands share.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from train.recipes import preset_names, read_preset
from vae_export.cli import console
from vae_export.errors import InputError


def take_preset(context: typer.Context, name: str | None) -> str | None:
    """Make the preset's options this command's defaults: whatever is typed overrides them."""
    if name is None:
        return None
    preset = read_preset(name)
    known = {
        option.removeprefix("--"): parameter.name for parameter in context.command.params for option in parameter.opts
    }
    if unknown := [option for option in preset.options if option not in known]:
        raise InputError("preset names no option of train", where=name, got=", ".join(unknown))
    ours = {known[option]: value for option, value in preset.options.items()}
    context.default_map = {**ours, **(context.default_map or {})}  # of a run that goes on, before a preset
    return name


def list_presets(_: typer.Context, wanted: bool) -> None:
    if wanted:
        width = max(map(len, preset_names()))
        for name in preset_names():
            console.result(f"{name:<{width}}  {read_preset(name).summary}")
        raise typer.Exit


DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Where its files lie; for 'folder', the images. Default: data/.", show_default=False
    ),
]
ImageSizeOption = Annotated[
    int | None,
    typer.Option("--image-size", help="For 'folder': side in pixels. Default: 28.", show_default=False),
]
DownloadOption = Annotated[bool, typer.Option("--download/--no-download", help="Fetch what is not there.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", help="CPU threads. Default: torch's, 4 at most.", show_default=False)
]
