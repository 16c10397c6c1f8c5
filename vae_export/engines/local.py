"""The engine of one process: piece after piece; ONNX Runtime uses the cores."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from vae_export.contract import Array
from vae_export.engines.task import Piece, Task
from vae_export.runtime import Model


class LocalEngine:
    def __init__(self, model: Model) -> None:
        self._model = model

    def run(self, task: Task, pieces: Sequence[Piece]) -> Generator[dict[str, Array]]:
        for piece in pieces:
            yield task.run(self._model, piece)
