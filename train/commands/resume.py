"""`--resume`: options of the training that goes on become the defaults of the command."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from train.commands.process import prepare
from vae_export.cli import console
from vae_export.errors import UsageError
from vae_export.runs import ARTIFACTS, Run

#: Of the command and not of the training.
_OURS = {"out", "resume", "force", "json"}


def take_run(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    """Callback of --resume and of --out, which come in any order: with both known, read that run's options.

    Whatever is typed overrides them; `train.settings` decides whether that is still the same training.
    """
    known = context.params | {parameter.name: value}
    if not known.get("resume") or "out" not in known:
        return value
    folder = known["out"] if known["out"] is not None else _newest()
    prepare()
    from train.state import load_state

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
