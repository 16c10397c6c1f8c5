"""The command line: one file a command; each reads its options, makes one call and prints. `app` reports errors.

This file imports nothing that takes time, so that Ctrl-C while the commands are imported ends with one line.
"""

from __future__ import annotations

from typing import NoReturn

from vae_export.system.signals import exit_on_interrupt


def start() -> NoReturn:
    """Run the installed command `vae-export`, which has all commands except those that need `train/`."""
    exit_on_interrupt()
    from vae_export.cli.app import start_installed

    start_installed()


__all__ = ["exit_on_interrupt", "start"]
