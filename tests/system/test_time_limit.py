"""A block is interrupted when its time is over, and not otherwise."""

from __future__ import annotations

import contextlib
import signal
import threading
import time

import pytest

from vae_export.system.time_limit import TimeLimitExceeded, time_limit


def endless() -> None:
    while True:
        with contextlib.suppress(Exception):  # as libraries do
            time.sleep(0.01)


def test_endless_block_is_interrupted() -> None:
    started = time.monotonic()
    with pytest.raises(TimeLimitExceeded), time_limit(0.1):
        endless()
    assert time.monotonic() - started < 5
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


@pytest.mark.parametrize("seconds", [None, 0.2])
def test_block_within_its_time_is_not_interrupted(seconds: float | None) -> None:
    with time_limit(seconds):
        pass
    time.sleep(0.3)


def test_other_threads_notice_at_the_end() -> None:
    caught: list[BaseException] = []

    def work() -> None:
        try:
            with time_limit(0.01):
                time.sleep(0.05)
        except TimeLimitExceeded as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(caught) == 1
