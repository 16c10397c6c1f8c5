"""Keep the state and the limits of a server, and lead each request to its outputs, for HTTP and gRPC alike."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from vae_export._version import __version__
from vae_export.contract import Array
from vae_export.serving.batching import Batcher, BatchOptions
from vae_export.serving.engines import BatchEngine
from vae_export.serving.inference_request import InferenceRequest, read_inputs
from vae_export.serving.metrics import Metrics
from vae_export.serving.models import Catalogue, ServedModel
from vae_export.serving.refusals import NotAcceptingError

SERVER_NAME = "vae-export"
SERVER_VERSION = __version__

#: A server starts, is ready, and drains before it ends.
ServerState = Literal["starting", "ready", "draining"]


@dataclass(frozen=True)
class RequestLimits:
    """Limits that keep the memory of a server bounded, whatever clients send.

    Attributes:
        request_bytes: the largest body of a request, or message of gRPC.
        response_bytes: the largest outputs of a request, as numbers.
        requests: how many requests may be in work at a time, of each protocol.
        client_seconds: how long a client may take to send a request, and again to take the response.
    """

    request_bytes: int = 16 << 20
    response_bytes: int = 64 << 20
    requests: int = 256
    client_seconds: float = 60.0

    @property
    def total_bytes(self) -> int:
        """The bytes of large requests and responses that may be in memory at a time."""
        return 4 * (self.request_bytes + self.response_bytes)


#: A request or response below this size is always admitted: large ones cannot keep it out.
_SMALL = 1 << 20


@dataclass
class Reservation:
    """The memory that a request takes from the bytes of `RequestLimits.total_bytes`."""

    service: Service
    taken: int = 0

    def take(self, bytes: int) -> None:
        """Take memory for a body or outputs of this size; raise `NotAcceptingError` if there is none left."""
        if bytes <= _SMALL:
            return
        if self.service.large_bytes + bytes > self.service.limits.total_bytes:
            raise NotAcceptingError("server has too many large requests", do="try again later")
        self.service.large_bytes += bytes
        self.taken += bytes


@dataclass
class Service:
    """The models of a server, and the requests that it is working on.

    Attributes:
        catalogue: the models.
        engine: computes.
        limits: the limits.
        metrics: counts.
        state: "starting" until every self-test has passed.
        in_flight: requests in work.
        large_bytes: bytes of large requests and responses in memory.
    """

    catalogue: Catalogue
    engine: BatchEngine
    batching: BatchOptions
    limits: RequestLimits
    metrics: Metrics
    state: ServerState = "starting"
    in_flight: int = 0
    large_bytes: int = 0
    _batchers: dict[tuple[str, int], Batcher] = field(default_factory=dict)
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        workers = asyncio.Semaphore(self.engine.parallel)
        for model in self.catalogue:
            run = partial(self.engine.run, model)
            observer = self.metrics.of_batches(model)
            self._batchers[model.name, model.version] = Batcher(run, self.batching, workers, observer)
        self.metrics.watch(lambda: self.is_ready, lambda: self.in_flight)
        self._idle.set()

    @property
    def is_ready(self) -> bool:
        """Whether requests are accepted."""
        return self.state == "ready"

    def model_is_ready(self, name: str, version: str) -> bool:
        """Whether requests for a model are accepted; raise `UnknownModelError` for an unknown one."""
        self.catalogue.find(name, version)
        return self.is_ready

    @contextlib.contextmanager
    def admitted(self) -> Iterator[Reservation]:
        """Count a request from its acceptance to the end of its response.

        Raises:
            NotAcceptingError: the server is starting, draining or has too much to do.
        """
        if not self.is_ready:
            raise NotAcceptingError(f"server is {self.state}", do="try again later, or elsewhere")
        if self.in_flight >= 2 * self.limits.requests:
            raise NotAcceptingError("server has too many requests", do="try again later")
        reservation = Reservation(self)
        self.in_flight += 1
        self._idle.clear()
        try:
            yield reservation
        finally:
            self.large_bytes -= reservation.taken
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    async def infer(
        self, model: ServedModel, request: InferenceRequest, reservation: Reservation
    ) -> Mapping[str, Array]:
        """Check and compute a request.

        Args:
            model: the model.
            request: the request.
            reservation: its memory.

        Returns:
            The outputs by name, each (N, …).

        Raises:
            InputError: an input does not fit; the message names it.
            TooLargeError: the outputs would be too large.
            NotAcceptingError: there is no memory for the outputs at this time.
        """
        inputs = read_inputs(model, request.tensors, self.limits.response_bytes)
        rows, spec = len(next(iter(inputs.values()))), model.spec.at(model.spec.sizes(inputs))
        reservation.take(rows * sum(tensor.bytes_per_row for tensor in spec.outputs))
        return await self._batchers[model.name, model.version].submit(inputs)

    async def drain(self) -> None:
        """Refuse new requests, and wait until those in work have their responses."""
        self.state = "draining"
        await self._idle.wait()
