"""Ctrl-C while the rest is imported: one line, and no traceback."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn


def begin() -> None:
    """Let Ctrl-C end this process with one line, until `vae_export.cli.app.run` takes over.

    Nothing has been begun that would have to be put in order; and an exception in the midst of imports, which some
    packages turn into errors of their own, would show as a traceback.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell has it ignored
        signal.signal(signal.SIGINT, _leave)


def is_beginning() -> bool:
    """Whether Ctrl-C still is what `begin` made of it."""
    return signal.getsignal(signal.SIGINT) is _leave


def _leave(_signum: int, _frame: FrameType | None) -> NoReturn:
    os.write(2, b"vae-export: interrupted\n")
    os._exit(128 + signal.SIGINT)
