"""Latents drawn from N(0, I): a row is a function of the seed and its number, so any piece can be drawn alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from vae_export import rng
from vae_export.contract import Array


class PriorReader:
    """`rows` latents of this shape, the same bits as `Model.prior(rows, seed)`. Raises `UsageError` for a bad seed."""

    def __init__(self, rows: int, seed: int, item: tuple[int, ...]) -> None:
        rng.check_seed(seed)
        self.rows, self.item = rows, item
        self._seed = seed

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    def read(self, start: int, stop: int) -> Array:
        return rng.sample((stop - start, *self.item), self._seed, start=start)

    def place(self, row: int) -> str:
        return f"seed {self._seed}, row {row}"
