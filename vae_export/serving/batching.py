"""Dynamic batching: requests that arrive together are computed as one batch of the session."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from vae_export.contract import Array
from vae_export.errors import VaeExportError

#: Computes inputs by name, each (N, …); the rows of the outputs are those of the inputs.
RunBatch = Callable[[Mapping[str, Array]], Awaitable[Mapping[str, Array]]]


@dataclass(frozen=True)
class BatchOptions:
    """Limits for putting requests together.

    Attributes:
        max_rows: the largest batch; a request of more rows is computed alone.
        delay: how long a request may wait for others, in seconds. While all workers are busy, it waits anyway.
    """

    max_rows: int = 64
    delay: float = 0.0


class Observer(Protocol):
    """Receives the batcher's events, for metrics."""

    def batch_started(self, requests: int, rows: int, waited: float) -> None:
        """Note that a batch starts, whose first request waited this many seconds."""

    def batch_finished(self, seconds: float) -> None:
        """Note that a batch ends, which took this many seconds."""


@dataclass(eq=False)
class _Waiting:
    """A request that waits for its batch."""

    inputs: Mapping[str, Array]
    rows: int
    answer: asyncio.Future[Mapping[str, Array]]
    arrived: float = field(default_factory=time.perf_counter)


class _Group:
    """Waiting requests whose rows have the same sizes."""

    def __init__(self, max_rows: int) -> None:
        self._requests: deque[_Waiting] = deque()
        self._max_rows = max_rows
        self.rows = 0
        self.is_full = asyncio.Event()

    def add(self, request: _Waiting) -> None:
        self._requests.append(request)
        self.rows += request.rows
        if self.rows >= self._max_rows:
            self.is_full.set()

    @property
    def oldest(self) -> float | None:
        """When the first request arrived, or None if there is none."""
        return self._requests[0].arrived if self._requests else None

    def take(self) -> list[_Waiting]:
        """Remove and return as many requests as a batch has room for, without those whose clients have gone."""
        taken: list[_Waiting] = []
        rows = 0
        while self._requests and (not taken or rows + self._requests[0].rows <= self._max_rows):
            request = self._requests.popleft()
            self.rows -= request.rows
            if not request.answer.done():
                taken.append(request)
                rows += request.rows
        if self.rows < self._max_rows:
            self.is_full.clear()
        return taken


class Batcher:
    """Puts the requests of one model together. All methods belong to one event loop.

    Args:
        run: computes a batch.
        options: the largest batch and the delay.
        workers: one for each batch that may be computed at a time, of all models of the server together.
        observer: receives the start and the end of each batch.
    """

    def __init__(self, run: RunBatch, options: BatchOptions, workers: asyncio.Semaphore, observer: Observer) -> None:
        self._run, self._options, self._workers, self._observer = run, options, workers, observer
        self._groups: dict[tuple[tuple[int, ...], ...], _Group] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Compute checked inputs, together with those of other requests whose rows have the same sizes.

        Args:
            inputs: arrays (N, …) by name.

        Returns:
            The outputs of these rows by name.

        Raises:
            VaeExportError: this request cannot be computed. An error of another request in the batch never comes here.
        """
        first = next(iter(inputs.values()))
        key = tuple(array.shape[1:] for array in inputs.values())
        request = _Waiting(inputs, len(first), asyncio.get_running_loop().create_future())
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(self._options.max_rows)
            group.add(request)
            self._start(self._dispatch(key, group))
        else:
            group.add(request)
        return await request.answer

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)  # the loop itself keeps only a weak reference
        task.add_done_callback(self._tasks.discard)

    async def _dispatch(self, key: tuple[tuple[int, ...], ...], group: _Group) -> None:
        """Start batches of a group until no request of it waits."""
        while (oldest := group.oldest) is not None:
            await self._wait_for_more(group, oldest)
            await self._workers.acquire()
            batch = group.take()  # now, because requests arrive while all workers are busy
            if batch:
                self._start(self._compute(batch))
            else:
                self._workers.release()
        del self._groups[key]

    async def _wait_for_more(self, group: _Group, oldest: float) -> None:
        left = oldest + self._options.delay - time.perf_counter()
        if left <= 0:
            await asyncio.sleep(0)  # what has arrived in the same turn of the loop comes along
        elif not group.is_full.is_set():
            try:
                await asyncio.wait_for(group.is_full.wait(), left)
            except TimeoutError:
                return

    async def _compute(self, batch: Sequence[_Waiting]) -> None:
        start = time.perf_counter()
        self._observer.batch_started(len(batch), sum(request.rows for request in batch), start - batch[0].arrived)
        try:
            await self._answer(batch)
        finally:
            self._workers.release()
            self._observer.batch_finished(time.perf_counter() - start)

    async def _answer(self, batch: Sequence[_Waiting]) -> None:
        try:
            outputs = await self._run(_joined(batch))
        except VaeExportError as error:
            if len(batch) == 1:
                _fail(batch[0], error)
                return
            # A latent such as 1e30 overflows inside the network: only its own request may fail.
            for request in batch:
                await self._answer([request])
            return
        except BaseException as error:  # of a bug, or of the server's end: nobody waits for ever
            for request in batch:
                _fail(request, error)
            if not isinstance(error, Exception):
                raise
            return
        start = 0
        for request in batch:
            rows = slice(start, start + request.rows)
            if not request.answer.done():
                request.answer.set_result({name: array[rows] for name, array in outputs.items()})
            start += request.rows


def _joined(batch: Sequence[_Waiting]) -> Mapping[str, Array]:
    if len(batch) == 1:
        return batch[0].inputs
    return {name: np.concatenate([request.inputs[name] for request in batch]) for name in batch[0].inputs}


def _fail(request: _Waiting, error: BaseException) -> None:
    if not request.answer.done():
        request.answer.set_exception(error)
