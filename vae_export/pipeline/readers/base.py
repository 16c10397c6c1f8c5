"""The `Reader` protocol, readers that need no file format, and a stream for files that are only read forwards.

A reader is opened without reading its rows. It can be pickled and sent to another process: it holds paths, and opens
files only while it reads.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Protocol

import numpy as np

from vae_export.contract import Array, Contract
from vae_export.errors import DataError
from vae_export.runtime.prior import draw_prior

#: Bytes of the blocks that a stream reads.
BLOCK_BYTES = 4 << 20


class Reader(Protocol):
    """Rows of one shape and dtype, read in any order."""

    @property
    def rows(self) -> int:
        """The number of rows, at least 1."""

    @property
    def item(self) -> tuple[int, ...]:
        """The shape of one row."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that `read` returns, in the machine's byte order."""

    def read(self, start: int, stop: int) -> Array:
        """Return rows start to stop - 1: (stop - start, *item). Raises `DataError`."""

    def locate(self, row: int) -> str:
        """Return the place of a row, for a message: the file and the number of the row in it."""


class ConcatenatedReader:
    """The rows of several readers of one shape and dtype, one reader after the other.

    Raises:
        DataError: the shapes or dtypes differ.
    """

    def __init__(self, readers: Sequence[Reader]) -> None:
        first = readers[0]
        for other in readers[1:]:
            if (other.item, other.dtype) != (first.item, first.dtype):
                raise DataError(
                    "files differ",
                    where=other.locate(0),
                    expected=f"{first.dtype} rows of shape {first.item}, as in {first.locate(0)}",
                    got=f"{other.dtype} of {other.item}",
                )
        self._readers = tuple(readers)
        self._ends = list(accumulate(reader.rows for reader in readers))
        self.rows, self.item, self.dtype = self._ends[-1], first.item, first.dtype

    def read(self, start: int, stop: int) -> Array:
        """Return rows start to stop - 1: (stop - start, *item). Raises `DataError`."""
        parts = []
        while start < stop:
            reader, first = self._reader_of(start)
            end = min(stop, first + reader.rows)
            parts.append(reader.read(start - first, end - first))
            start = end
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def locate(self, row: int) -> str:
        """Return the place of a row in the reader that holds it, for a message."""
        reader, first = self._reader_of(row)
        return reader.locate(row - first)

    def _reader_of(self, row: int) -> tuple[Reader, int]:
        """Return the reader that holds a row, and the number of that reader's first row."""
        index = bisect_right(self._ends, row)
        return self._readers[index], self._ends[index] - self._readers[index].rows


class PriorReader:
    """Latents or codes drawn from the prior, the same bits as `Model.prior(rows, seed)`, in chunks of any rows.

    Args:
        rows: how many.
        seed: 0 to 2**64 - 1.
        contract: the contract, with its sizes in numbers.
        name: the latent.

    Raises:
        UsageError: the seed is out of range.
        ModelError: the contract says that the prior is given by the user.
    """

    def __init__(self, rows: int, seed: int, contract: Contract, name: str) -> None:
        first = draw_prior(contract, 1, seed)[name]
        self.rows, self.item, self.dtype = rows, first.shape[1:], first.dtype
        self._contract, self._seed, self._name = contract, seed, name

    def read(self, start: int, stop: int) -> Array:
        """Return latents start to stop - 1: (stop - start, *item)."""
        return draw_prior(self._contract, stop - start, self._seed, start=start)[self._name]

    def locate(self, row: int) -> str:
        """Return the seed and the number of the row, for a message."""
        return f"seed {self._seed}, row {row}"


class BlockStream:
    """Rows of a file that can only be read forwards; the file is opened again for a row that was already passed.

    Args:
        open: takes a row that `restart` returned, and yields blocks of rows from there to the end.
        restart: takes a row, and returns the last row at or before it from which reading can start.
        where: name of the file, for messages.
    """

    def __init__(self, open: Callable[[int], Iterator[Array]], restart: Callable[[int], int], where: str) -> None:
        self._open, self._restart, self._where = open, restart, where
        self._blocks: Iterator[Array] = iter(())
        self._block: Array | None = None
        self._next_row = 0

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the open file: another process opens it anew."""
        return vars(self) | {"_blocks": None, "_block": None}

    def read(self, start: int, stop: int) -> Array:
        """Return rows start to stop - 1. Raises `DataError` where the file ends before."""
        if self._block is None or start < self._next_row or self._restart(start) > self._next_row:
            self._next_row = self._restart(start)
            self._blocks, self._block = self._open(self._next_row), np.empty(0)
        parts = []
        while self._next_row < stop:
            if len(self._block) == 0:
                self._block = next(self._blocks, None)
                if self._block is None:
                    raise DataError(
                        "file ends too early", where=self._where, expected=f"{stop} rows", got=self._next_row
                    )
            taken = min(stop, self._next_row + len(self._block)) - self._next_row
            if self._next_row + taken > start:
                parts.append(self._block[max(0, start - self._next_row) : taken])
            self._next_row, self._block = self._next_row + taken, self._block[taken:]
        return np.concatenate(parts)
