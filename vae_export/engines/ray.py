"""The engine of many machines: Ray Data, with one model in each of its actors.

A piece is a row of a dataset; what comes out of it is a row too, and comes in order. An actor that dies is started
again by Ray, and its piece computed again; where a machine is gone, others take over. The model travels through Ray's
object store: workers need this library, numpy and onnxruntime, and no file of the model. They read inputs, and write
shards, themselves: those lie where all machines see them under one path.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, Queue
from threading import Thread
from typing import Any

import numpy as np

from vae_export.contract import Array
from vae_export.engines.cluster import connected, cores
from vae_export.engines.parcel import Parcel
from vae_export.engines.task import Piece, Task
from vae_export.errors import (
    DataError,
    IntegrityError,
    MachineError,
    OutOfMemoryError,
    ParityError,
    TargetError,
    UsageError,
    VaeExportError,
)
from vae_export.runtime import Model
from vae_export.runtime.session import CPU

#: How often a piece is begun: Ray would give one that kills every actor to the next one, for ever.
_TRIES = 4
#: Seconds without a result after which the machines are counted.
_LOOK = 5.0
#: The class of an error by its exit code, for errors that come from another process as text.
_ERRORS = {
    kind.exit_code: kind for kind in (VaeExportError, UsageError, DataError, IntegrityError, ParityError, MachineError)
}


@dataclass(frozen=True)
class RayEngine:
    """Attributes:
    parcel: the model.
    actors: how many processes hold it, on whichever machines Ray puts them.
    address: HOST:PORT of a cluster that this machine belongs to; None starts one here and stops it after.
    """

    parcel: Parcel
    actors: int
    address: str | None = None

    @property
    def threads(self) -> int:
        """Of each actor: that many cores are set aside for it."""
        return self.parcel.settings.threads or 1

    def run(self, task: Task, pieces: Sequence[Piece]) -> Generator[dict[str, Array]]:
        """Raises what the task raises, and `MachineError` where the cluster cannot do it."""
        done, actors = 0, self.actors
        if self.address is None:
            self._require(self.actors, os.cpu_count() or 1)  # before a cluster is started for nothing
        while done < len(pieces):
            with connected(self.address) as ray:
                self._require(actors if done == 0 else 1, cores(ray))
                actors = min(actors, cores(ray) // self.threads)
                try:
                    for outputs in _in_order(self._rows(ray, task, pieces[done:], actors), pieces[done:]):
                        done += 1
                        yield outputs
                except _MachineLostError:
                    continue  # with the pieces that are left, on the machines that are left

    def _require(self, actors: int, have: int) -> None:
        """Refuse more actors than there is room for: Ray would wait for those that do not fit, for ever."""
        if actors * self.threads > have:
            expected, do = f"{actors * self.threads} cores", "choose fewer --actors or --threads"
            raise TargetError("cluster is too small", expected=expected, got=have, do=do)

    def _rows(self, ray: Any, task: Task, pieces: Sequence[Piece], actors: int) -> Iterator[dict[str, Array]]:
        """What the workers return. Raises `_MachineLostError` when the cluster has no room for all actors any more."""
        order = ray.put((self.parcel, task))
        tries = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Tries).remote()
        dataset = ray.data.from_items(
            [{"piece": piece.index, "start": piece.start, "stop": piece.stop} for piece in pieces],
            override_num_blocks=len(pieces),
        ).map_batches(
            _Worker,
            fn_constructor_args=([order], tries),  # in a list: the worker fetches it, once
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=self.threads,
            num_gpus=0 if self.parcel.settings.provider == CPU else 1,
        )
        # In a thread: while Ray waits for a machine that does not come back, it would never return from there.
        blocks: Queue[dict[str, Array] | Exception | None] = Queue(maxsize=1)
        Thread(target=_pump, args=(dataset, blocks), daemon=True).start()
        while True:
            try:
                block = blocks.get(timeout=_LOOK)
            except Empty:
                if cores(ray) < actors * self.threads:
                    raise _MachineLostError from None
                continue
            if block is None:
                return
            if isinstance(block, Exception):
                if cores(ray) < actors * self.threads:
                    raise _MachineLostError from block
                do = "see Ray's logs; a smaller --batch-size may help"
                raise MachineError("Ray gave up", got=str(block).strip().splitlines()[0], do=do) from block
            yield block


class _MachineLostError(Exception):
    """The cluster became smaller."""


def _pump(dataset: Any, blocks: Queue[dict[str, Array] | Exception | None]) -> None:
    try:
        for block in dataset.iter_batches(batch_size=None, batch_format="numpy"):
            blocks.put(block)
        blocks.put(None)
    except Exception as error:
        blocks.put(error)


class _Worker:
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
            if self._get(self._tries.begin.remote(index)) > _TRIES:
                where = f"{self._task.source.place(start)} to {stop - 1}"
                raise MachineError("workers die of these rows", where=where, got=f"{_TRIES} dead", do="see Ray's logs")
            if self._model is None:
                self._model = self._parcel.open()
            outputs = self._task.run(self._model, Piece(index, start, stop))
        except (VaeExportError, MemoryError) as failure:
            error = failure if isinstance(failure, VaeExportError) else OutOfMemoryError(str(failure))
            return {"piece": np.array([index]), "error": np.array([error.line()]), "code": np.array([error.exit_code])}
        return {"piece": np.array([index]), **{name: array[None] for name, array in outputs.items()}}


class _Tries:
    """Counts how often each piece was begun, for workers that do not live to tell."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def begin(self, piece: int) -> int:
        self._counts[piece] = self._counts.get(piece, 0) + 1
        return self._counts[piece]


def _in_order(rows: Iterator[dict[str, Array]], pieces: Sequence[Piece]) -> Iterator[dict[str, Array]]:
    """The outputs of each piece; raises for a piece that failed, and if Ray should ever lose or swap one."""
    wanted = iter(pieces)
    for block in rows:
        for number, index in enumerate(block.pop("piece")):
            if "error" in block:
                raise _ERRORS.get(int(block["code"][number]), VaeExportError)(str(block["error"][number]))
            if (expected := next(wanted, None)) is None or expected.index != index:
                raise MachineError("Ray lost the order of the pieces", expected=expected, got=int(index))
            yield {name: array[number] for name, array in block.items()}
    if (missing := next(wanted, None)) is not None:
        raise MachineError("Ray lost a piece", expected=missing)
