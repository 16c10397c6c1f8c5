"""What runs in an actor of the cluster: one model, and piece after piece through it."""

from __future__ import annotations

from typing import Any

import numpy as np

from vae_export.contract import Array
from vae_export.engines.parcel import Parcel
from vae_export.engines.task import Piece, Task
from vae_export.errors import MachineError, OutOfMemoryError, VaeExportError
from vae_export.runtime import Model

#: How often a piece is begun: Ray would give one that kills every actor to the next one, for ever.
TRIES = 4


class Worker:
    """What an actor holds. An error is handed over as a row: Ray would wrap it, and forget its class."""

    def __init__(self, order: list[Any], tries: Any) -> None:
        import ray

        self._parcel: Parcel
        self._task: Task
        self._parcel, self._task = ray.get(order[0])
        self._tries, self._get = tries, ray.get
        self._model: Model | None = None

    def __call__(self, row: dict[str, Array]) -> dict[str, Array]:
        index, start, stop = (int(row[name][0]) for name in ("piece", "start", "stop"))
        try:
            if self._get(self._tries.begin.remote(index)) > TRIES:
                where = f"{self._task.source.place(start)} to {stop - 1}"
                raise MachineError("workers die of these rows", where=where, got=f"{TRIES} dead", do="see Ray's logs")
            if self._model is None:
                self._model = self._parcel.open()
            outputs = self._task.run(self._model, Piece(index, start, stop))
        except (VaeExportError, MemoryError) as failure:
            error = failure if isinstance(failure, VaeExportError) else OutOfMemoryError(str(failure))
            return {"piece": np.array([index]), "error": np.array([error.line()]), "code": np.array([error.exit_code])}
        return {"piece": np.array([index]), **{name: array[None] for name, array in outputs.items()}}


class Tries:
    """Counts how often each piece was begun, for workers that do not live to tell."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def begin(self, piece: int) -> int:
        self._counts[piece] = self._counts.get(piece, 0) + 1
        return self._counts[piece]
