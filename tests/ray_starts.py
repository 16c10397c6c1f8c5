"""Clusters of Ray start one by one: two that start together may choose the same ports, and one of them fails."""

from __future__ import annotations

import contextlib
import fcntl
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path


@contextlib.contextmanager
def alone() -> Iterator[Callable[[], None]]:
    """Let no other test start a cluster until the end, or until the function that is given is called."""
    with open(Path(tempfile.gettempdir(), "vae-export-ray-starts"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield partial(fcntl.flock, lock, fcntl.LOCK_UN)
