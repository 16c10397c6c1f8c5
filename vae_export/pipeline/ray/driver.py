"""A connection to a Ray cluster, or a cluster of this machine's own; without telemetry, dashboard and noise.

The process that talks to Ray: pieces in, outputs out, and no state that its end could take along.

    python -m vae_export.pipeline.ray.driver    with a socket as its standard input

Ray's driver is a library of C++ inside the process that asks. It brings that process down when what it waits for goes
away: `ray.shutdown` while a thread of Ray Data waits frees what the thread looks at (ray-project/ray#31145), and such a
thread cannot be stopped. So the process that asks is never the driver. This one is: it connects once, never
disconnects, and ends without ado. Whoever started it begins another one with the pieces that are left.

An order comes in through the socket, messages go out. It lives as long as the other end is open, and so ends with the
process that started it, however that ends. When it is gone Ray ends its workers, and a cluster that was started here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import Empty, Queue
from threading import Thread
from typing import Any, Literal

from vae_export.contract import Array
from vae_export.errors import MachineError, TargetError, UsageError, VaeExportError
from vae_export.pipeline.ray.worker import Actor, AttemptCounter, ModelPayload
from vae_export.pipeline.task import Piece, Task
from vae_export.runtime.session import CPU
from vae_export.system.extras import require

#: Seconds that a machine may take to answer.
_PATIENCE = 10


def check_ray(address: str | None) -> None:
    """What can be known without Ray being loaded. Raises `MissingExtraError` without it, `UsageError` for ray://."""
    require("ray")
    if address is not None and address.startswith("ray://"):
        do = "name HOST:PORT of a cluster that this machine has joined (ray start --address=…)"
        raise UsageError("Ray Data does not run through a Ray client", where=address, do=do)


def connect(address: str | None) -> Any:
    """The module `ray`, connected until this process ends: closing crashes where a thread of Ray Data still waits.

    Nothing goes to its makers.

    Args:
        address: HOST:PORT of a cluster that this machine has joined; None starts one here, which ends with the process.

    Raises `TargetError` where there is no such cluster.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # a thread that outlives this connection must not make another one
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray
    import ray.data
    import ray.exceptions

    _start(ray, address)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return ray


def resources(ray: Any) -> dict[str, int]:
    """How many of "CPU" (cores) and "GPU" all machines have that are alive."""
    have = ray.cluster_resources()
    return {kind: int(have.get(kind, 0)) for kind in ("CPU", "GPU")}


def _start(ray: Any, address: str | None) -> None:
    if address is not None:
        _reach(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"address": "local", "num_cpus": os.cpu_count(), "include_dashboard": False}
    else:
        options |= {"address": address}
    try:
        with _silence():
            ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError, OSError, ray.exceptions.RayError) as error:
        where = address or "this machine"
        what = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TargetError("Ray cannot be reached", where=where, got=what, do="see `ray status`") from error
    # Ray Data sets its own logger up when it is imported.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _reach(address: str) -> None:
    """Raise `TargetError` where nobody listens: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdigit()):
        return  # "auto"
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except OSError as error:
        raise TargetError("Ray cannot be reached", where=address, got=error, do="see `ray status`") from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Nothing on stderr, not even what C++ writes: Ray says there that it was asked to say nothing."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


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

    parcel: ModelPayload
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
        check_capacity(least, order.threads, resources(ray)["CPU"])
        check_capacity(least, order.gpus, resources(ray)["GPU"], "GPUs")
        actors = min(order.actors, _room(ray, order))
        for outputs in _in_order(_rows(ray, order, actors), order.pieces):
            send(Done(outputs))
    except VaeExportError as error:
        send(Failed(error.exit_code, error.line()))
    except _MachineLostError:
        send(Lost())


def check_capacity(actors: int, each: int, have: int, what: Literal["cores", "GPUs"] = "cores") -> None:
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
    tries = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(AttemptCounter).remote()
    dataset = ray.data.from_items(
        [{"piece": piece.index, "start": piece.start, "stop": piece.stop} for piece in order.pieces],
        override_num_blocks=len(order.pieces),
    ).map_batches(
        Actor,
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
    from vae_export.pipeline.ray import driver

    driver.main(0)
