"""Options that several commands share, so that they look and read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vae_export.cli import console
from vae_export.errors import UsageError
from vae_export.runs import Run, newest_run

RunOption = Annotated[
    Path | None, typer.Option("--run", help="Run folder. Default: the newest under artifacts/.", show_default=False)
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def chosen_run(folder: Path | None) -> Run:
    """The run that was named, or the newest one, and which one that is said on stderr."""
    if folder is not None:
        if not folder.is_dir():
            raise UsageError("no such run", where=folder, expected="a folder made by cli.py train")
        return Run(folder)
    run = newest_run()
    console.message(f"run: {run.folder}")
    return run
