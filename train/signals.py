"""Defer Ctrl-C and SIGTERM to the end of a training step, so that what is saved then is complete."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vae_export.errors import Interrupted, Terminated

_KINDS: dict[int, type[Interrupted | Terminated]] = {signal.SIGINT: Interrupted, signal.SIGTERM: Terminated}


class StopReached(KeyboardInterrupt):
    """A deferred signal takes effect, at a point where nothing is half done."""


class StopRequest:
    """A request to stop the training, from the first signal that came.

    It takes effect at the next `check`, or at once inside `interruptible`. A second signal goes to the handler that was
    there before, immediately.
    """

    def __init__(self) -> None:
        self.kind: type[Interrupted | Terminated] | None = None
        self._is_interruptible = False
        self._handlers_before: dict[int, signal._HANDLER] = {}

    @property
    def code(self) -> int:
        """Return the exit code of the signal; 0 before one came."""
        return 0 if self.kind is None else self.kind.exit_code

    def adopt(self, code: int) -> None:
        """Stop with this exit code, since another process of the training was asked to. 0 means that none was."""
        if self.kind is None:
            self.kind = next((kind for kind in _KINDS.values() if kind.exit_code == code), None)
        self.check()

    def check(self) -> None:
        """Raise `StopReached` if a signal came."""
        if self.kind is not None:
            raise StopReached

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal end the block at once: for work that changes nothing."""
        self._is_interruptible = True
        try:
            self.check()
            yield
        finally:
            self._is_interruptible = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.kind is not None:
            before = self._handlers_before[signum]
            if callable(before):
                before(signum, frame)
            raise _KINDS[signum]
        self.kind = _KINDS[signum]
        if self._is_interruptible:
            raise StopReached


@contextmanager
def deferred_stop() -> Iterator[StopRequest]:
    """Defer SIGINT and SIGTERM until the block ends, in the main thread. Ignored signals stay ignored."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    for signum in _KINDS:
        before = signal.getsignal(signum)
        if before is not signal.SIG_IGN and before is not None:
            stop._handlers_before[signum] = before
            signal.signal(signum, stop._handle)
    try:
        yield stop
    finally:
        for signum, before in stop._handlers_before.items():
            signal.signal(signum, before)
