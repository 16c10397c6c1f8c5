"""Readers that kill a process: the one that reads certain rows, or the one that unpickles the reader."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np

from vae_export.contract import Array


class DeadlyReader:
    """Rows of which numbers 20 to 29 kill the process that reads them."""

    rows, item, dtype = 40, (4,), np.dtype(np.float32)

    def read(self, start: int, stop: int) -> Array:
        if start == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.zeros((stop - start, 4), np.float32)

    def locate(self, row: int) -> str:
        return f"deadly, row {row}"


class DeadlyPickle(DeadlyReader):
    """Kills the process group that unpickles it, which is that of the driver."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.kill, (0, signal.SIGKILL)
