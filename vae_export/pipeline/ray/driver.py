"""The process that talks to Ray: it receives a request, sends back outputs, and keeps no state.

    python -m vae_export.pipeline.ray.driver    with a socket as its standard input

Ray's driver is a C++ library inside the process that uses it, and can crash that process: `ray.shutdown` frees objects
that a waiting thread of Ray Data still uses (ray-project/ray#31145), and such a thread cannot be stopped. So the
command itself is never the driver. This process connects to Ray once, never disconnects, and exits without cleaning up;
the command starts another one for the chunks that are left. It ends when the other end of the socket is closed. Ray
then ends its workers, and the cluster if it was started here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import Empty, Queue
from threading import Thread
from typing import Any, Literal

from vae_export.contract import Array
from vae_export.errors import MachineError, TargetError, UsageError, VaeExportError
from vae_export.pipeline.ray.worker import Actor, AttemptCounter, ModelPayload
from vae_export.pipeline.task import Chunk, Task
from vae_export.session_options import CPU
from vae_export.system.extras import require
from vae_export.system.streams import silenced_descriptors

#: How long a machine may take to accept a connection.
_CONNECT_SECONDS = 10
#: How often a cluster is started here: Ray looks for free ports before it takes them, which another process may have
#: done meanwhile, and waits for its own processes for a fixed time, which a busy machine can exceed.
_START_ATTEMPTS = 3
#: How long a cluster that was started here may take to count its cores.
_COUNT_SECONDS = 10.0
#: After this long without a result, the machines of the cluster are counted.
_CHECK_INTERVAL = 5.0
#: Errors of a socket whose other end has closed.
_PEER_GONE = (BrokenPipeError, ConnectionResetError, EOFError)


@dataclass(frozen=True)
class DriverRequest:
    """The request to a driver: what it computes, and where.

    Attributes:
        payload: the model.
        task: the task.
        chunks: the chunks to compute, in order.
        actors: how many processes hold the model.
        address: HOST:PORT of a cluster; None starts one here.
        allow_fewer: start with fewer actors where machines were lost before.
    """

    payload: ModelPayload
    task: Task
    chunks: Sequence[Chunk]
    actors: int
    address: str | None
    allow_fewer: bool

    @property
    def threads(self) -> int:
        """Cores that are reserved for each actor."""
        return self.payload.options.threads or 1

    @property
    def gpus(self) -> int:
        """GPUs that are reserved for each actor."""
        return 0 if self.payload.options.provider == CPU else 1


@dataclass(frozen=True)
class ChunkDone:
    """The outputs of the next chunk, by name."""

    outputs: dict[str, Array]


@dataclass(frozen=True)
class Failed:
    """An error, as the exit code of its class and its message."""

    code: int
    line: str


@dataclass(frozen=True)
class MachineLost:
    """The cluster has become too small for its actors."""


Message = ChunkDone | Failed | MachineLost


class _MachineLostError(Exception):
    """The cluster has become too small for its actors."""


def check_ray(address: str | None) -> None:
    """Check what can be checked without loading Ray.

    Args:
        address: HOST:PORT of a cluster, or None.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: the address is one of a Ray client, ray://…, which Ray Data does not support.
    """
    require("ray")
    if address is not None and address.startswith("ray://"):
        do = "name HOST:PORT of a cluster that this machine has joined (ray start --address=…)"
        raise UsageError("Ray Data does not run through a Ray client", where=address, do=do)


def check_capacity(actors: int, each: int, have: int, what: Literal["cores", "GPUs"] = "cores") -> None:
    """Check that a cluster has enough cores or GPUs, because Ray would wait for missing ones forever.

    Args:
        actors: the number of actors.
        each: cores or GPUs that each actor needs.
        have: cores or GPUs of the cluster.
        what: the resource, for the message.

    Raises:
        TargetError: the actors need more than the cluster has.
    """
    if actors * each > have:
        do = "choose fewer --actors" + (" or --threads" if what == "cores" else ", or --provider CPUExecutionProvider")
        raise TargetError("cluster is too small", expected=f"{actors * each} {what}", got=have, do=do)


def main(handle: int) -> None:
    """Compute the request that comes through the socket of this file descriptor."""
    parent = Connection(handle)
    with contextlib.suppress(*_PEER_GONE):
        try:
            request: DriverRequest = parent.recv()
            Thread(target=_exit_with_parent, args=(handle,), daemon=True).start()
            compute(request, parent.send)
        except _PEER_GONE:
            raise
        except Exception as error:  # a bug of ours, which the parent reports
            parent.send(Failed(VaeExportError.exit_code, f"internal error: {type(error).__name__}: {error}"))
    os._exit(0)  # without cleaning up: see the top of this file


def compute(request: DriverRequest, send: Callable[[Message], None]) -> None:
    """Send `ChunkDone` for each chunk in order; or in place of the rest one `Failed` or `MachineLost`."""
    try:
        ray = connect(request.address)
        least = 1 if request.allow_fewer else request.actors
        check_capacity(least, request.threads, resources(ray)["CPU"])
        check_capacity(least, request.gpus, resources(ray)["GPU"], "GPUs")
        actors = min(request.actors, _actor_capacity(ray, request))
        for outputs in _in_order(_compute_blocks(ray, request, actors), request.chunks):
            send(ChunkDone(outputs))
    except VaeExportError as error:
        send(Failed(error.exit_code, error.line()))
    except _MachineLostError:
        send(MachineLost())


def connect(address: str | None) -> Any:
    """Connect to a cluster until this process ends, without telemetry, dashboard and progress bars.

    Args:
        address: HOST:PORT of a cluster that this machine has joined; None starts one here that ends with this process.

    Returns:
        The module `ray`.

    Raises:
        TargetError: there is no such cluster.
        MachineError: a cluster cannot be started here.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # a thread that outlives this connection must not make another one
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray
    import ray.data
    import ray.exceptions

    start_or_join(ray, address)
    if address is None:
        _wait_for_cores(ray)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return ray


def resources(ray: Any) -> dict[str, int]:
    """Return the number of "CPU" (cores) and "GPU" of all machines that are alive."""
    have = ray.cluster_resources()
    return {kind: int(have.get(kind, 0)) for kind in ("CPU", "GPU")}


def start_or_join(ray: Any, address: str | None) -> None:
    """Start a cluster here, or connect to one; arguments and errors as for `connect`, with the module `ray`."""
    if address is not None:
        _check_reachable(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"address": "local", "num_cpus": os.cpu_count(), "include_dashboard": False}
    else:
        options |= {"address": address}
    attempts = _START_ATTEMPTS if address is None else 1
    for attempt in range(1, attempts + 1):
        try:
            with silenced_descriptors(2):  # Ray logs there that it was told not to log
                ray.init(**options)
            break
        except Exception as error:  # Ray raises a bare Exception too
            with silenced_descriptors(2):
                ray.shutdown()
            if attempt == attempts:
                raise _not_connected(address, error) from error
    # Ray Data configures its own logger when it is imported.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _wait_for_cores(ray: Any) -> None:
    """Wait until a cluster that was started here counts its cores, which it may do a moment after its start."""
    deadline = time.monotonic() + _COUNT_SECONDS
    while resources(ray)["CPU"] < (os.cpu_count() or 1) and time.monotonic() < deadline:
        time.sleep(0.05)


def _not_connected(address: str | None, error: Exception) -> VaeExportError:
    what = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    if address is not None:
        return TargetError("Ray cannot be reached", where=address, got=what, do="see `ray status`")
    do = "try again when this machine has less to do; Ray's logs are in its folder for temporary files"
    return MachineError("Ray cannot be started", got=what, do=do)


def _check_reachable(address: str) -> None:
    """Raise `TargetError` where nothing listens: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdigit()):
        return  # "auto"
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise TargetError("Ray cannot be reached", where=address, got=error, do="see `ray status`") from error


def _actor_capacity(ray: Any, request: DriverRequest) -> int:
    """Return how many actors the machines that are alive have room for."""
    have = resources(ray)
    of_cores = have["CPU"] // request.threads
    return min(of_cores, have["GPU"] // request.gpus) if request.gpus else of_cores


def _compute_blocks(ray: Any, request: DriverRequest, actors: int) -> Iterator[dict[str, Array]]:
    """Yield what the actors return. Raises `_MachineLostError` when the cluster has no room for all actors any more."""
    job = ray.put((request.payload, request.task))
    attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(AttemptCounter).remote()
    dataset = ray.data.from_items(
        [{"chunk": chunk.index, "start": chunk.start, "stop": chunk.stop} for chunk in request.chunks],
        override_num_blocks=len(request.chunks),
    ).map_batches(
        Actor,
        fn_constructor_args=([job], attempts),  # in a list, so that the actor fetches it, once
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=request.threads,
        num_gpus=request.gpus,
    )
    # In a thread, because a call of Ray that waits for a machine that does not come back never returns.
    blocks: Queue[dict[str, Array] | Exception | None] = Queue(maxsize=1)
    Thread(target=_pump, args=(dataset, blocks), daemon=True).start()
    while True:
        try:
            block = blocks.get(timeout=_CHECK_INTERVAL)
        except Empty:
            if _actor_capacity(ray, request) < actors:
                raise _MachineLostError from None
            continue
        if block is None:
            return
        if isinstance(block, Exception):
            if _actor_capacity(ray, request) < actors:
                raise _MachineLostError from block
            do = "see Ray's logs; a smaller --batch-size may help"
            raise MachineError("Ray stopped", got=str(block).strip().splitlines()[0], do=do) from block
        yield block


def _pump(dataset: Any, blocks: Queue[dict[str, Array] | Exception | None]) -> None:
    """Put each block of the dataset into the queue, then None; or the exception that ended it."""
    try:
        for block in dataset.iter_batches(batch_size=None, batch_format="numpy"):
            blocks.put(block)
        blocks.put(None)
    except Exception as error:
        blocks.put(error)


def _in_order(blocks: Iterator[dict[str, Array]], chunks: Sequence[Chunk]) -> Iterator[dict[str, Array]]:
    """Yield the outputs of each chunk; raise the error of a chunk that failed, or if Ray loses or swaps chunks."""
    wanted = iter(chunks)
    for block in blocks:
        for number, index in enumerate(block.pop("chunk")):
            if "error" in block:
                error = VaeExportError(str(block["error"][number]))
                error.exit_code = int(block["code"][number])
                raise error
            if (expected := next(wanted, None)) is None or expected.index != index:
                raise MachineError("Ray changed the order of the chunks", expected=expected, got=int(index))
            yield {name: array[number] for name, array in block.items()}
    if (missing := next(wanted, None)) is not None:
        raise MachineError("Ray lost a chunk", expected=missing)


def _exit_with_parent(handle: int) -> None:
    """End this process when its parent closes the socket. The parent sends nothing more, so any byte or EOF is that."""
    os.read(handle, 1)
    os._exit(0)


if __name__ == "__main__":
    # Called by its module name: messages are pickled, and __main__ is another module in the process that reads them.
    from vae_export.pipeline.ray import driver

    driver.main(0)
