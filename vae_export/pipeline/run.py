"""The engine of one process: piece after piece; ONNX Runtime uses the cores.

Pieces through an engine into a sink: everything is there at the end, in order, or nothing is.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace

from vae_export.contract import Array
from vae_export.pipeline.task import Engine, Piece, Task
from vae_export.pipeline.writers import Shards, Writer
from vae_export.runtime import Model


class LocalEngine:
    def __init__(self, model: Model) -> None:
        self._model = model

    def run(self, task: Task, pieces: Sequence[Piece]) -> Generator[dict[str, Array]]:
        for piece in pieces:
            yield task.run(self._model, piece)


def run_pipeline(
    engine: Engine,
    task: Task,
    pieces: Sequence[Piece],
    sink: AbstractContextManager[Writer | Shards],
    report: Callable[[int], None],
) -> None:
    """Compute all pieces and publish what comes out.

    Args:
        engine: computes.
        task: what; its shards are those of the sink.
        pieces: all of the task's rows, in order.
        sink: refuses an output that exists when it is entered, publishes when it is left in peace.
        report: is told how many rows are done.
    """
    with sink as writer:
        shards = writer if isinstance(writer, Shards) else None
        with closing(engine.run(replace(task, shards=shards), pieces)) as results:
            for piece, outputs in zip(pieces, results, strict=True):
                if isinstance(writer, Shards):
                    writer.check(piece.index)
                else:
                    writer.write(outputs)
                report(piece.stop)
