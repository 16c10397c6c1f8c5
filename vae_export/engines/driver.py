"""The process that talks to Ray: pieces in, outputs out, and no state that its end could take along.

    python -m vae_export.engines.driver    with a socket as its standard input

Ray's driver is a library of C++ inside the process that asks. It brings that process down when what it waits for goes
away: `ray.shutdown` while a thread of Ray Data waits frees what the thread looks at (ray-project/ray#31145), and such a
thread cannot be stopped. So the process that asks is never the driver. This one is: it connects once, never
disconnects, and ends without ado. Whoever started it begins another one with the pieces that are left.

An order comes in through the socket, messages go out. It lives as long as the other end is open, and so ends with the
process that started it, however that ends. When it is gone Ray ends its workers, and a cluster that was started here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import Empty, Queue
from threading import Thread
from typing import Any, Literal

from vae_export.contract import Array
from vae_export.engines.cluster import connect, resources
from vae_export.engines.parcel import Parcel
from vae_export.engines.task import Piece, Task
from vae_export.engines.worker import Tries, Worker
from vae_export.errors import MachineError, TargetError, VaeExportError
from vae_export.runtime.session import CPU

#: What a socket says when nobody is at its other end.
_ALONE = (BrokenPipeError, ConnectionResetError, EOFError)
#: Seconds without a result after which the machines are counted.
_LOOK = 5.0


@dataclass(frozen=True)
class Order:
    """Attributes:
    parcel: the model.
    task: what is done with it.
    pieces: to what, in order.
    actors: how many processes hold the model.
    address: HOST:PORT of a cluster; None starts one here.
    fewer: be content with fewer actors than were asked for, where machines were lost before.
    """

    parcel: Parcel
    task: Task
    pieces: Sequence[Piece]
    actors: int
    address: str | None
    fewer: bool

    @property
    def threads(self) -> int:
        """Of each actor: that many cores are set aside for it."""
        return self.parcel.settings.threads or 1

    @property
    def gpus(self) -> int:
        """Of each actor."""
        return 0 if self.parcel.settings.provider == CPU else 1


@dataclass(frozen=True)
class Done:
    """The outputs of the next piece, by name."""

    outputs: dict[str, Array]


@dataclass(frozen=True)
class Failed:
    """An error, as the exit code of its class and its line."""

    code: int
    line: str


@dataclass(frozen=True)
class Lost:
    """The cluster became smaller than what the actors need."""


Message = Done | Failed | Lost


class _MachineLostError(Exception):
    """As `Lost`."""


def compute(order: Order, send: Callable[[Message], None]) -> None:
    """Send what becomes of each piece: `Done` of all, in order, or a last `Failed` or `Lost`."""
    try:
        ray = connect(order.address)
        least = 1 if order.fewer else order.actors
        require(least, order.threads, resources(ray)["CPU"])
        require(least, order.gpus, resources(ray)["GPU"], "GPUs")
        actors = min(order.actors, _room(ray, order))
        for outputs in _in_order(_rows(ray, order, actors), order.pieces):
            send(Done(outputs))
    except VaeExportError as error:
        send(Failed(error.exit_code, error.line()))
    except _MachineLostError:
        send(Lost())


def require(actors: int, each: int, have: int, what: Literal["cores", "GPUs"] = "cores") -> None:
    """Refuse more actors than there is room for: Ray would wait for those that do not fit, for ever."""
    if actors * each > have:
        do = "choose fewer --actors" + (" or --threads" if what == "cores" else ", or --provider CPUExecutionProvider")
        raise TargetError("cluster is too small", expected=f"{actors * each} {what}", got=have, do=do)


def _room(ray: Any, order: Order) -> int:
    """How many actors the machines that are alive have room for."""
    have = resources(ray)
    of_cores = have["CPU"] // order.threads
    return min(of_cores, have["GPU"] // order.gpus) if order.gpus else of_cores


def _rows(ray: Any, order: Order, actors: int) -> Iterator[dict[str, Array]]:
    """What the workers return. Raises `_MachineLostError` when the cluster has no room for all actors any more."""
    parcel_and_task = ray.put((order.parcel, order.task))
    tries = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Tries).remote()
    dataset = ray.data.from_items(
        [{"piece": piece.index, "start": piece.start, "stop": piece.stop} for piece in order.pieces],
        override_num_blocks=len(order.pieces),
    ).map_batches(
        Worker,
        fn_constructor_args=([parcel_and_task], tries),  # in a list: the worker fetches it, once
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=order.threads,
        num_gpus=order.gpus,
    )
    # In a thread: while Ray waits for a machine that does not come back, it would never return from there.
    blocks: Queue[dict[str, Array] | Exception | None] = Queue(maxsize=1)
    Thread(target=_pump, args=(dataset, blocks), daemon=True).start()
    while True:
        try:
            block = blocks.get(timeout=_LOOK)
        except Empty:
            if _room(ray, order) < actors:
                raise _MachineLostError from None
            continue
        if block is None:
            return
        if isinstance(block, Exception):
            if _room(ray, order) < actors:
                raise _MachineLostError from block
            do = "see Ray's logs; a smaller --batch-size may help"
            raise MachineError("Ray gave up", got=str(block).strip().splitlines()[0], do=do) from block
        yield block


def _pump(dataset: Any, blocks: Queue[dict[str, Array] | Exception | None]) -> None:
    try:
        for block in dataset.iter_batches(batch_size=None, batch_format="numpy"):
            blocks.put(block)
        blocks.put(None)
    except Exception as error:
        blocks.put(error)


def _in_order(rows: Iterator[dict[str, Array]], pieces: Sequence[Piece]) -> Iterator[dict[str, Array]]:
    """The outputs of each piece; raises for a piece that failed, and if Ray should ever lose or swap one."""
    wanted = iter(pieces)
    for block in rows:
        for number, index in enumerate(block.pop("piece")):
            if "error" in block:
                error = VaeExportError(str(block["error"][number]))
                error.exit_code = int(block["code"][number])
                raise error
            if (expected := next(wanted, None)) is None or expected.index != index:
                raise MachineError("Ray lost the order of the pieces", expected=expected, got=int(index))
            yield {name: array[number] for name, array in block.items()}
    if (missing := next(wanted, None)) is not None:
        raise MachineError("Ray lost a piece", expected=missing)


def main(handle: int) -> None:
    """Compute the order that comes through a socket, of which this is the file descriptor."""
    asker = Connection(handle)
    with contextlib.suppress(*_ALONE):
        try:
            order: Order = asker.recv()
            Thread(target=_end_with, args=(handle,), daemon=True).start()
            compute(order, asker.send)
        except _ALONE:
            raise
        except Exception as error:  # our bug: the process that asked says so
            asker.send(Failed(VaeExportError.exit_code, f"internal error: {type(error).__name__}: {error}"))
    os._exit(0)  # and no `finally` of any thread runs: see above


def _end_with(handle: int) -> None:
    """End this process when the one that started it closes its end: it says no more, so whatever comes is that."""
    os.read(handle, 1)
    os._exit(0)


if __name__ == "__main__":
    # By its name: messages are pickled, and __main__ is another module in the process that reads them.
    from vae_export.engines import driver

    driver.main(0)
