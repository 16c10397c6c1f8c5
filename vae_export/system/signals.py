"""Defer Ctrl-C and SIGTERM while an exception could crash the process.

PyTorch's exporter calls back and forth between Python and C++, and imports modules on the way. An exception in between
can end the process with a segmentation fault, and then nothing is cleaned up.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn


@contextlib.contextmanager
def deferred_signals() -> Iterator[None]:
    """Defer the first SIGINT or SIGTERM to the end of the block; a second one ends the process immediately."""
    if threading.current_thread() is not threading.main_thread():  # signals never come to other threads
        yield
        return
    waiting: list[int] = []

    def wait(signum: int, _frame: FrameType | None) -> None:
        if waiting:
            os._exit(128 + signum)
        waiting.append(signum)

    # Signals that are ignored, or handled outside of Python, stay as they are.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, wait)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for signum in waiting:
            signal.raise_signal(signum)


def exit_on_interrupt() -> None:
    """Let Ctrl-C end this process with one line, until `vae_export.cli.app.run` takes over.

    Nothing needs cleanup at that time. An exception during imports would show a traceback, because some packages
    convert it to errors of their own.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell has it ignored
        signal.signal(signal.SIGINT, _leave)


def is_exiting_on_interrupt() -> bool:
    """Whether Ctrl-C still has the handler that `exit_on_interrupt` installed."""
    return signal.getsignal(signal.SIGINT) is _leave


def _leave(_signum: int, _frame: FrameType | None) -> NoReturn:
    os.write(2, b"vae-export: interrupted\n")
    os._exit(128 + signal.SIGINT)
