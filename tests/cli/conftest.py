"""Fixtures of the command line's tests."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from vae_export.cli import app


@pytest.fixture
def run_app() -> Iterator[Callable[[Callable[..., None]], int]]:
    """Run the application with one more command and return its exit code; the handler of SIGTERM is restored."""
    before = signal.getsignal(signal.SIGTERM)
    yield lambda command: app.run(command)
    signal.signal(signal.SIGTERM, before)
