"""The command line: one file a command; each reads its options, makes one call and prints. `app` reports errors.

This file imports nothing that takes time, so that Ctrl-C while the commands are imported ends with one line.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from vae_export.system.extras import missing
from vae_export.system.signals import exit_on_interrupt


def prepare() -> None:
    """Let Ctrl-C during the imports end with one line, and exit with one line unless typer and rich are installed."""
    exit_on_interrupt()
    if (error := missing("cli")) is not None:
        sys.stderr.write(f"vae-export: error: {error}\n")
        sys.exit(error.exit_code)


def start() -> NoReturn:
    """Run the installed command `vae-export`, which has all commands except those that need `train/`."""
    prepare()
    from vae_export.cli.app import start_installed

    start_installed()


__all__ = ["prepare", "start"]
