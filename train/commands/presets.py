"""`--preset` and `--list-presets`: a preset's options become the defaults of the command."""

from __future__ import annotations

import typer

from train import preset as presets
from vae_export.cli import console
from vae_export.errors import InputError


def take_preset(context: typer.Context, name: str | None) -> str | None:
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


def list_presets(_: typer.Context, wanted: bool) -> None:
    if wanted:
        width = max(map(len, presets.names()))
        for name in presets.names():
            console.result(f"{name:<{width}}  {presets.read_preset(name).summary}")
        raise typer.Exit
