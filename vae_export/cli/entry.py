"""The way in, before anything that takes time is imported."""

from __future__ import annotations

from typing import NoReturn

from vae_export.cli.beginning import begin


def start() -> NoReturn:
    """The installed command `vae-export`: everything but what needs `train/`."""
    begin()
    from vae_export.cli.app import start_installed

    start_installed()
