"""A limit on the seconds that a block of Python code may take."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType


class TimeLimitExceeded(BaseException):
    """The block took too long. No `Exception`, so that libraries which catch all of these do not swallow it."""


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise `TimeLimitExceeded` in the block once it has taken too long.

    The block is interrupted by a timer of the process, between two steps of Python code. Where there is no such timer
    (Windows, or another thread than the main one), the time is looked at when the block ends.

    Args:
        seconds: the limit; None for no limit.
    """
    if seconds is None:
        yield
        return
    ends = time.monotonic() + seconds
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        if time.monotonic() > ends:
            raise TimeLimitExceeded
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise TimeLimitExceeded

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
