"""Requests that arrive together are computed as one batch, and each gets its own rows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from vae_export.contract import Array
from vae_export.errors import ModelError
from vae_export.serving.batching import Batcher, BatchOptions


class Computer:
    """Doubles its input; notes each batch, and may wait or fail."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.running = self.most_running = 0

    async def __call__(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        self.batches.append(len(inputs["x"]))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await self.gate.wait()
        await asyncio.sleep(0)
        self.running -= 1
        if (inputs["x"] < 0).any():
            raise ModelError("negative")
        if (inputs["x"] > 1e6).any():
            raise ZeroDivisionError
        return {"y": 2 * inputs["x"]}

    def batch_started(self, requests: int, rows: int, waited: float) -> None:
        assert 1 <= requests <= rows
        assert waited >= 0

    def batch_finished(self, seconds: float) -> None:
        assert seconds >= 0


def rows(*values: float, width: int = 1) -> dict[str, Array]:
    return {"x": np.repeat(np.array(values, np.float32)[:, None], width, axis=1)}


def batcher(computer: Computer, workers: int = 1, **options: Any) -> Batcher:
    return Batcher(computer, BatchOptions(**options), asyncio.Semaphore(workers), computer)


def test_requests_of_one_turn_are_one_batch() -> None:
    async def work() -> None:
        batches = batcher(computer := Computer())
        answers = await asyncio.gather(*(batches.submit(rows(value, value + 0.5)) for value in range(10)))
        for value, answer in enumerate(answers):
            np.testing.assert_array_equal(answer["y"][:, 0], [2 * value, 2 * value + 1])
        assert computer.batches == [20]

    asyncio.run(work())


def test_batch_has_at_most_the_rows_that_are_allowed() -> None:
    async def work() -> None:
        batches = batcher(computer := Computer(), max_rows=8)
        answers = await asyncio.gather(
            *(batches.submit(rows(1, 2, 3)) for _ in range(5)), batches.submit(rows(*[7] * 20))
        )
        assert [len(answer["y"]) for answer in answers] == [3] * 5 + [20]
        assert computer.batches == [6, 6, 3, 20]  # a request is never divided

    asyncio.run(work())


def test_requests_gather_while_all_workers_are_busy() -> None:
    async def work() -> None:
        batches = batcher(computer := Computer())
        computer.gate.clear()
        first = asyncio.create_task(batches.submit(rows(0)))
        while not computer.batches:
            await asyncio.sleep(0)
        others = []
        for value in range(5):
            others.append(asyncio.create_task(batches.submit(rows(value))))
            await asyncio.sleep(0.001)
        computer.gate.set()
        await asyncio.gather(first, *others)
        assert computer.batches == [1, 5]

    asyncio.run(work())


def test_delay_waits_for_others_and_no_longer_than_a_full_batch() -> None:
    async def work() -> None:
        batches = batcher(computer := Computer(), max_rows=3, delay=30)
        loop = asyncio.get_running_loop()
        start = loop.time()
        tasks = []
        for value in range(3):
            tasks.append(asyncio.create_task(batches.submit(rows(value))))
            await asyncio.sleep(0.01)
        await asyncio.gather(*tasks)
        assert computer.batches == [3]
        assert loop.time() - start < 20

    asyncio.run(work())


def test_delay_ends() -> None:
    async def work() -> None:
        batches = batcher(computer := Computer(), max_rows=100, delay=0.05)
        loop = asyncio.get_running_loop()
        start = loop.time()
        await asyncio.gather(batches.submit(rows(1)), batches.submit(rows(2)))
        assert loop.time() - start >= 0.05
        assert computer.batches == [2]

    asyncio.run(work())


def test_several_workers_compute_at_a_time_and_no_more() -> None:
    async def work() -> None:
        batches = batcher(computer := Computer(), workers=2, max_rows=1)
        computer.gate.clear()
        tasks = [asyncio.create_task(batches.submit(rows(value))) for value in range(9)]
        await asyncio.sleep(0.05)
        assert computer.running == 2
        computer.gate.set()
        await asyncio.gather(*tasks)
        assert computer.most_running == 2

    asyncio.run(work())


def test_rows_of_other_sizes_are_batches_of_their_own() -> None:
    async def work() -> None:
        batches = batcher(computer := Computer())
        wide, narrow = rows(1, width=3), rows(2)
        answers = await asyncio.gather(*(batches.submit(item) for item in (wide, narrow, wide, narrow)))
        assert [answer["y"].shape for answer in answers] == [(1, 3), (1, 1)] * 2
        assert computer.batches == [2, 2]

    asyncio.run(work())


def test_error_of_one_request_is_not_that_of_others() -> None:
    async def work() -> None:
        batches = batcher(computer := Computer())
        answers = await asyncio.gather(*(batches.submit(rows(value)) for value in (1, -1, 3)), return_exceptions=True)
        assert isinstance(answers[1], ModelError)
        assert [float(answer["y"][0, 0]) for answer in (answers[0], answers[2])] == [2, 6]
        assert computer.batches == [3, 1, 1, 1]
        assert float((await batches.submit(rows(5)))["y"][0, 0]) == 10  # the worker is free again

    asyncio.run(work())


def test_bug_reaches_every_request_of_the_batch() -> None:
    async def work() -> None:
        batches = batcher(Computer())
        answers = await asyncio.gather(*(batches.submit(rows(value)) for value in (1, 1e7)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [ZeroDivisionError] * 2

    asyncio.run(work())


def test_request_whose_client_has_gone_is_not_computed() -> None:
    async def work() -> None:
        batches = batcher(computer := Computer())
        computer.gate.clear()
        first = asyncio.create_task(batches.submit(rows(0)))
        await asyncio.sleep(0.01)
        gone, stays = (asyncio.create_task(batches.submit(rows(value))) for value in (1, 2))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0)
        computer.gate.set()
        await asyncio.gather(first, stays)
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert computer.batches == [1, 1]

    asyncio.run(work())
