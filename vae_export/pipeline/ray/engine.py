"""An engine that computes the chunks of a task on a Ray cluster, with one model in each actor.

A chunk is a row of a Ray dataset, and its outputs are a row too, in the same order. Ray restarts an actor that dies and
computes its chunk again; where a machine is gone, others take over. The model travels through Ray's object store:
workers need this library, numpy and onnxruntime, and no file of the model. They read inputs and write shards
themselves, so that these must be on storage which all machines see under one path.

This process is never a driver of Ray; `driver.py` says why. It counts the results, and starts another driver where one
dies.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from vae_export.contract import Array
from vae_export.errors import (
    DataError,
    IntegrityError,
    MachineError,
    ParityError,
    UsageError,
    VaeExportError,
)
from vae_export.pipeline.ray import driver
from vae_export.pipeline.ray.driver import (
    ChunkDone,
    DriverRequest,
    Failed,
    MachineLost,
    Message,
    check_capacity,
    check_ray,
)
from vae_export.pipeline.ray.worker import ModelPayload
from vae_export.pipeline.task import Chunk, Task
from vae_export.system.child_process import child_environment, describe_exit, python_command

#: How many drivers may die one after the other without a result in between.
_MAX_DRIVER_DEATHS = 4
#: How long a driver may take to end when its work is done or no longer wanted.
_EXIT_SECONDS = 20
#: The class of an error by its exit code, for errors that come from another process as text.
_ERRORS = {
    kind.exit_code: kind for kind in (VaeExportError, UsageError, DataError, IntegrityError, ParityError, MachineError)
}


@dataclass(frozen=True)
class RayEngine:
    """Computes chunks in the actors of a Ray cluster.

    Attributes:
        payload: the model.
        actors: how many processes hold it, on whichever machines Ray chooses.
        address: HOST:PORT of a cluster that this machine belongs to; None starts one here and stops it afterwards.
        report: called with one line about each driver or machine that is lost.
    """

    payload: ModelPayload
    actors: int
    address: str | None = None
    report: Callable[[str], None] = lambda _: None

    def run(self, task: Task, chunks: Sequence[Chunk]) -> Generator[dict[str, Array]]:
        """Yield `task.run` of each chunk, in their order.

        Raises:
            VaeExportError: what the task raises.
            UsageError, MissingExtraError: the address is not supported, or Ray is not installed.
            MachineError: the cluster is too small or cannot be reached, or its drivers or workers keep dying.
        """
        check_ray(self.address)
        if self.address is None:  # before a cluster is started for nothing
            check_capacity(self.actors, self.payload.options.threads or 1, os.cpu_count() or 1)
        done, deaths, lost = 0, 0, False
        while done < len(chunks):
            request = DriverRequest(self.payload, task, chunks[done:], self.actors, self.address, allow_fewer=lost)
            with _driver(request) as child:
                try:
                    while done < len(chunks):
                        match child.receive():
                            case ChunkDone(outputs):
                                done, deaths = done + 1, 0
                                yield outputs
                            case Failed(code, line):
                                raise _ERRORS.get(code, VaeExportError)(line)
                            case MachineLost():
                                lost = True
                                self.report(f"the cluster has lost a machine; {done} of {len(chunks)} chunks are done")
                                break
                except _DriverDiedError as death:
                    lost, deaths = True, deaths + 1
                    self.report(f"Ray's driver {death}; {done} of {len(chunks)} chunks done")
                    if deaths == _MAX_DRIVER_DEATHS:
                        where, do = f"{deaths} times in a row", "see Ray's logs; --engine local needs none"
                        raise MachineError(f"Ray's driver {death}", where=where, do=do) from None


class _DriverDiedError(Exception):
    """A driver ended without a message; the text says how."""


@dataclass(frozen=True)
class _Driver:
    """A driver process, and this end of the socket to it."""

    process: subprocess.Popen[bytes]
    pipe: Connection

    def receive(self) -> Message:
        """Return the next message; raise `_DriverDiedError` if the process is gone."""
        try:
            message: Message = self.pipe.recv()
        except (EOFError, OSError):
            code = self.process.wait()
            raise _DriverDiedError(describe_exit(code)) from None
        return message


@contextlib.contextmanager
def _driver(request: DriverRequest) -> Iterator[_Driver]:
    """Start a driver that computes a request; it ends with the block."""
    cloudpickle: Any = import_module("ray.cloudpickle")  # a reader may be a class of any program
    # Its own process group keeps Ctrl-C away from it: this process ends it.
    command = python_command(driver.__name__)
    near, far = socket.socketpair()
    with far:
        process = subprocess.Popen(command, stdin=far.fileno(), stdout=2, env=child_environment(), process_group=0)
    try:
        with contextlib.closing(Connection(near.detach())) as pipe:
            with contextlib.suppress(OSError):  # it died at once, and `receive` says how
                pipe.send_bytes(cloudpickle.dumps(request))
            yield _Driver(process, pipe)
    finally:
        try:
            process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
