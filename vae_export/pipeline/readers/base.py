"""Rows that are read a piece at a time, wherever they lie: the protocol, and sources made of sources.

A source is opened without reading its rows, and can be sent to another process: it holds where its rows are and opens
files when it reads.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Protocol

import numpy as np

from vae_export.contract import Array
from vae_export.errors import DataError

#: Bytes that a stream hands over at a time.
BLOCK_BYTES = 4 << 20


class Reader(Protocol):
    """Rows of one shape and dtype."""

    @property
    def rows(self) -> int:
        """How many: 1 and up."""

    @property
    def item(self) -> tuple[int, ...]:
        """The shape of one row."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of `read`: in the machine's byte order."""

    def read(self, start: int, stop: int) -> Array:
        """Rows start to stop - 1: (stop - start, *item). Raises `DataError`."""

    def place(self, row: int) -> str:
        """Where a row lies, for a message."""


class Chain:
    """Sources of one shape and dtype, one after the other."""

    def __init__(self, sources: Sequence[Reader]) -> None:
        first = sources[0]
        for other in sources[1:]:
            if (other.item, other.dtype) != (first.item, first.dtype):
                raise DataError(
                    "files differ",
                    where=other.place(0),
                    expected=f"{first.dtype} rows of shape {first.item}, as in {first.place(0)}",
                    got=f"{other.dtype} of {other.item}",
                )
        self._sources = tuple(sources)
        self._ends = list(accumulate(source.rows for source in sources))

    @property
    def rows(self) -> int:
        return self._ends[-1]

    @property
    def item(self) -> tuple[int, ...]:
        return self._sources[0].item

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._sources[0].dtype

    def read(self, start: int, stop: int) -> Array:
        parts = []
        while start < stop:
            source, first = self._at(start)
            end = min(stop, first + source.rows)
            parts.append(source.read(start - first, end - first))
            start = end
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def place(self, row: int) -> str:
        source, first = self._at(row)
        return source.place(row - first)

    def _at(self, row: int) -> tuple[Reader, int]:
        """The source that holds a row, and the row that it begins with."""
        index = bisect_right(self._ends, row)
        return self._sources[index], self._ends[index] - self._sources[index].rows


class Stream:
    """Rows of what can only be read forwards: keeps its place, and begins again for a row that has gone by.

    Args:
        open: a row → a row at or before it, from which on the blocks are that are yielded.
        latest: a row → the latest row at or before it at which a stream can begin.
        where: of the file, for messages.
    """

    def __init__(self, open: Callable[[int], Iterator[Array]], latest: Callable[[int], int], where: str) -> None:
        self._open, self._latest, self._where = open, latest, where
        self._blocks: Iterator[Array] = iter(())
        self._rest: Array | None = None
        self._at = 0

    def __getstate__(self) -> dict[str, Any]:
        """Without its place: another process begins anew."""
        return vars(self) | {"_blocks": None, "_rest": None}

    def read(self, start: int, stop: int) -> Array:
        if self._rest is None or start < self._at or self._latest(start) > self._at:
            self._at = self._latest(start)
            self._blocks, self._rest = self._open(self._at), np.empty(0)
        parts = []
        while self._at < stop:
            if len(self._rest) == 0:
                self._rest = next(self._blocks, None)
                if self._rest is None:
                    raise DataError("file ends too early", where=self._where, expected=f"{stop} rows", got=self._at)
            taken = min(stop, self._at + len(self._rest)) - self._at
            if self._at + taken > start:
                parts.append(self._rest[max(0, start - self._at) : taken])
            self._at, self._rest = self._at + taken, self._rest[taken:]
        return np.concatenate(parts)
