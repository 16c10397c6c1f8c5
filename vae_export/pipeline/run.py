"""Run a task: an engine computes its chunks in order, and a writer publishes the outputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from typing import Protocol

from vae_export.contract import Array
from vae_export.pipeline.task import Chunk, Task
from vae_export.pipeline.writers import Shards, Writer
from vae_export.runtime import Model

#: The most chunks that are rounded and written at the same time, because each takes memory.
_MOST_FINISHING = 3


class Engine(Protocol):
    """Computes the chunks of a task, in this process or elsewhere."""

    def run(self, task: Task, chunks: Sequence[Chunk]) -> Generator[dict[str, Array]]:
        """Yield `task.run` of each chunk, in their order."""


class LocalEngine:
    """Computes one chunk after the other in this process, while other threads round and write those before it.

    Only the computation of large networks takes much memory, so there is one at a time, for which ONNX Runtime uses the
    cores by itself.

    Args:
        model: the model.
        threads: the number of threads that may work; with 1, chunks are finished before the next one is computed.
    """

    def __init__(self, model: Model, threads: int) -> None:
        self._model, self._finishing = model, min(threads - 1, _MOST_FINISHING)

    def run(self, task: Task, chunks: Sequence[Chunk]) -> Generator[dict[str, Array]]:
        """Yield `task.run` of each chunk, in their order."""
        if not self._finishing:
            for chunk in chunks:
                yield task.run(self._model, chunk)
            return
        with ThreadPoolExecutor(self._finishing, thread_name_prefix="finish") as pool:
            finishing: deque[Future[dict[str, Array]]] = deque()
            for chunk in chunks:
                outputs = task.compute(self._model, chunk)
                finishing.append(pool.submit(task.finish, self._model.contract, chunk, outputs))
                del outputs  # of the chunks that wait, the finished form is enough
                if len(finishing) > self._finishing:
                    yield finishing.popleft().result()
            while finishing:
                yield finishing.popleft().result()


def run_pipeline(
    engine: Engine,
    task: Task,
    chunks: Sequence[Chunk],
    writer: AbstractContextManager[Writer | Shards],
    report: Callable[[int], None],
) -> None:
    """Compute all chunks and publish the outputs, either all of them or none.

    Args:
        engine: the engine that computes the chunks.
        task: the task, without shards, which are taken from the writer.
        chunks: all rows of the task, in order.
        writer: one of `vae_export.pipeline.writers`.
        report: called with the number of rows that are done.

    Raises:
        VaeExportError: the task, the engine or the writer failed.
    """
    with writer as opened:
        shards = opened if isinstance(opened, Shards) else None
        with closing(engine.run(replace(task, shards=shards), chunks)) as results:
            for chunk, outputs in zip(chunks, results, strict=True):
                if isinstance(opened, Shards):
                    opened.check(chunk.index)
                else:
                    opened.write(outputs)
                report(chunk.stop)
