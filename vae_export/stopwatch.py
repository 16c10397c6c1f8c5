"""Where the time of a long piece of work went."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Stopwatch:
    """Seconds by name, in the order in which each name was first measured."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def lap(self, name: str) -> Iterator[None]:
        """Add what the block takes to what blocks of this name have taken."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def line(self) -> str:
        """took 9.1 s: onnx 3.2, golden vectors 1.4, verification 4.5"""
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.seconds.items())
        return f"took {sum(self.seconds.values()):.1f} s: {parts}"
