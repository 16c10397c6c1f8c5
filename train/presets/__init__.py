"""Presets: options of `cli.py train` under a name, one TOML file each in `train/presets/`.

    summary = "one line for --list-presets"
    [options]
    family = "blog"      # as on the command line, without the dashes in front

Options on the command line override them.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vae_export.errors import InputError, UsageError

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Preset:
    """Attributes:
    name: of its file.
    summary: one line.
    options: of `cli.py train`, by their long names.
    """

    name: str
    summary: str
    options: dict[str, Any]


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_preset(name: str) -> Preset:
    """Raises `UsageError` for a preset there is not, `InputError` for a file that is none."""
    path = FOLDER / f"{name}.toml"
    if name not in names():
        raise UsageError("unknown preset", expected=" | ".join(names()), got=name)
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError("preset cannot be read", where=path, got=str(error)) from error
    options, summary = data.get("options"), data.get("summary")
    if set(data) != {"options", "summary"} or not isinstance(options, dict) or not isinstance(summary, str):
        raise InputError("preset cannot be read", where=path, expected="summary and [options]", got=sorted(data))
    return Preset(name, summary, options)
