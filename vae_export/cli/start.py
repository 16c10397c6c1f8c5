"""The entry point of the installed command, before anything that takes time is imported."""

from __future__ import annotations

from typing import NoReturn

from vae_export.system.signals import exit_on_interrupt


def start() -> NoReturn:
    """The installed command `vae-export`: everything but what needs `train/`."""
    exit_on_interrupt()
    from vae_export.cli.app import start_installed

    start_installed()
