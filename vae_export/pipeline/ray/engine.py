"""The engine of many machines: Ray Data, with one model in each of its actors.

A piece is a row of a dataset; what comes out of it is a row too, and comes in order. An actor that dies is started
again by Ray, and its piece computed again; where a machine is gone, others take over. The model travels through Ray's
object store: workers need this library, numpy and onnxruntime, and no file of the model. They read inputs, and write
shards, themselves: those lie where all machines see them under one path.

This process never is a driver of Ray: `driver.py` has the reason. It counts what came back, and outlives drivers.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
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
from vae_export.pipeline.ray.driver import Done, Failed, Lost, Message, Order, check_capacity, check_ray
from vae_export.pipeline.ray.worker import ModelPayload
from vae_export.pipeline.task import Piece, Task

#: How many drivers may die one after the other without a single result in between.
_DRIVERS = 4
#: Seconds that a driver may take to end when its work is done, or nobody wants it any more.
_PATIENCE = 20
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
    tell: is told, in a line, what died on the way.
    """

    parcel: ModelPayload
    actors: int
    address: str | None = None
    tell: Callable[[str], None] = lambda _: None

    def run(self, task: Task, pieces: Sequence[Piece]) -> Generator[dict[str, Array]]:
        """Raises what the task raises, and `MachineError` where the cluster cannot do it."""
        check_ray(self.address)
        if self.address is None:  # before a cluster is started for nothing
            check_capacity(self.actors, self.parcel.settings.threads or 1, os.cpu_count() or 1)
        done, dead, lost = 0, 0, False
        while done < len(pieces):
            order = Order(self.parcel, task, pieces[done:], self.actors, self.address, fewer=lost)
            with _driver(order) as driver:
                try:
                    while done < len(pieces):
                        match driver.receive():
                            case Done(outputs):
                                done, dead = done + 1, 0
                                yield outputs
                            case Failed(code, line):
                                raise _ERRORS.get(code, VaeExportError)(line)
                            case Lost():
                                lost = True
                                self.tell(f"a machine of the cluster is gone; {done} of {len(pieces)} pieces are done")
                                break
                except _DriverDiedError as death:
                    lost, dead = True, dead + 1
                    self.tell(f"Ray's driver died ({death}); {done} of {len(pieces)} pieces are done")
                    if dead == _DRIVERS:
                        got, do = f"{death}, {dead} times", "see Ray's logs; --engine local needs none"
                        raise MachineError("Ray's driver died", got=got, do=do) from None


class _DriverDiedError(Exception):
    """A driver ended without a word; the message says how."""


@dataclass(frozen=True)
class _Driver:
    """A process at work, and this end of the socket between."""

    process: subprocess.Popen[bytes]
    pipe: Connection

    def receive(self) -> Message:
        """The next message; raises `_DriverDiedError` where there is none to come."""
        try:
            message: Message = self.pipe.recv()
        except (EOFError, OSError):
            code = self.process.wait()
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise _DriverDiedError(how) from None
        return message


@contextlib.contextmanager
def _driver(order: Order) -> Iterator[_Driver]:
    """A driver at work; it ends with the block."""
    cloudpickle: Any = import_module("ray.cloudpickle")  # a source may be of any program's own making
    # It finds packages where this process does. A Ctrl-C is for this process alone, which then ends it.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    command = [sys.executable, "-P", "-m", "vae_export.pipeline.ray.driver"]
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=2, env=environment, process_group=0)
    try:
        with contextlib.closing(Connection(ours.detach())) as pipe:
            with contextlib.suppress(OSError):  # it died at once: `receive` says how
                pipe.send_bytes(cloudpickle.dumps(order))
            yield _Driver(process, pipe)
    finally:
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
