"""Run a task: an engine computes its chunks in order, and a writer publishes the outputs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from typing import Protocol

from vae_export.contract import Array
from vae_export.pipeline.task import Chunk, Task
from vae_export.pipeline.writers import Shards, Writer
from vae_export.runtime import Model


class Engine(Protocol):
    """Computes the chunks of a task, in this process or elsewhere."""

    def run(self, task: Task, chunks: Sequence[Chunk]) -> Generator[dict[str, Array]]:
        """Yield `task.run` of each chunk, in their order."""


class LocalEngine:
    """Computes one chunk after the other in this process; ONNX Runtime uses all cores."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def run(self, task: Task, chunks: Sequence[Chunk]) -> Generator[dict[str, Array]]:
        """Yield `task.run` of each chunk, in their order."""
        for chunk in chunks:
            yield task.run(self._model, chunk)


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
