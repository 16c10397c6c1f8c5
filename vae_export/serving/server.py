"""Run a server: open the ports, test the models, serve until a signal comes, and drain."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vae_export.errors import MachineError
from vae_export.serving.batching import BatchOptions
from vae_export.serving.engines import BatchEngine, OpenedBundle, catalogue_of
from vae_export.serving.grpc_server import start_server
from vae_export.serving.http_server import UvicornServer, make_server
from vae_export.serving.metrics import Metrics
from vae_export.serving.models import Catalogue
from vae_export.serving.service import RequestLimits, Service

#: How long connections get to close after the last response.
_CLOSE_SECONDS = 1.0
#: Connections that wait to be accepted.
_BACKLOG = 1024


@dataclass(frozen=True)
class ServerOptions:
    """Where a server listens, and how it works.

    Attributes:
        host: the address to listen on.
        http_port, grpc_port: the ports; 0 takes free ones.
        batching: how requests are put together.
        limits: limits of requests.
        drain_seconds: how long requests in work may take after a signal.
    """

    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    batching: BatchOptions = field(default_factory=BatchOptions)
    limits: RequestLimits = field(default_factory=RequestLimits)
    drain_seconds: float = 30.0


@dataclass(frozen=True)
class Listening:
    """The addresses and models of a server whose ports are open, which is before it is ready.

    Attributes:
        http: the URL of the HTTP protocol.
        grpc: the address of the gRPC protocol.
        catalogue: the models.
    """

    http: str
    grpc: str
    catalogue: Catalogue


def run_server(
    bundles: Sequence[OpenedBundle],
    engine: BatchEngine,
    options: ServerOptions,
    on_listening: Callable[[Listening], None],
    on_ready: Callable[[], None],
) -> int:
    """Serve until SIGINT or SIGTERM, then refuse new requests and wait for those in work.

    Args:
        bundles: the bundles.
        engine: computes.
        options: where and how to serve.
        on_listening: is called when the ports are open; health says "live" from then on.
        on_ready: is called when every self-test has passed.

    Returns:
        The number of the signal. A second signal ends the draining.

    Raises:
        UsageError: two models have the same name and version.
        MachineError: a port is in use, or the cluster cannot be reached.
        ParityError: a self-test failed.
    """
    catalogue = catalogue_of(bundles)
    try:
        return asyncio.run(_serve(catalogue, engine, options, on_listening, on_ready))
    finally:
        engine.stop()


async def _serve(
    catalogue: Catalogue,
    engine: BatchEngine,
    options: ServerOptions,
    on_listening: Callable[[Listening], None],
    on_ready: Callable[[], None],
) -> int:
    service = Service(catalogue, engine, options.batching, options.limits, Metrics())
    loop, signals = asyncio.get_running_loop(), asyncio.Queue[int]()
    async with contextlib.AsyncExitStack() as stack:
        listener = stack.enter_context(contextlib.closing(_listen(options.host, options.http_port, "--http-port")))
        _listen(options.host, options.grpc_port, "--grpc-port").close()  # gRPC itself would log that the port is in use
        rpc, grpc_port = await start_server(service, options.host, options.grpc_port)
        stack.push_async_callback(rpc.stop, _CLOSE_SECONDS)
        http = make_server(service)
        serving = asyncio.create_task(http.serve([listener]))
        stack.push_async_callback(_end, http, serving)

        def handle_signals() -> None:
            for handled in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(handled, signals.put_nowait, int(handled))

        handle_signals()
        stack.callback(loop.remove_signal_handler, signal.SIGINT)
        stack.callback(loop.remove_signal_handler, signal.SIGTERM)
        while not http.started and not serving.done():
            await asyncio.sleep(0.005)
        http_port = listener.getsockname()[1]
        host = f"[{options.host}]" if ":" in options.host else options.host
        on_listening(Listening(f"http://{host}:{http_port}", f"{host}:{grpc_port}", catalogue))

        starting, signalled = _in_thread(engine.start), asyncio.ensure_future(signals.get())
        begun: set[asyncio.Future[Any]] = {starting, signalled}
        await asyncio.wait(begun, return_when=asyncio.FIRST_COMPLETED)
        if not signalled.done():
            starting.result()  # raises where a self-test failed
            handle_signals()  # Ray has put handlers of its own in their place
            service.state = "ready"
            on_ready()
        number = await signalled
        ending: set[asyncio.Future[Any]] = {
            asyncio.ensure_future(service.drain()),
            asyncio.ensure_future(signals.get()),  # a second signal
        }
        await asyncio.wait(ending, timeout=options.drain_seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in (*ending, starting):
            task.cancel()
        return number


def _in_thread(work: Callable[[], None]) -> asyncio.Future[None]:
    """Run a function in a thread that nobody waits for when the server ends."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if not done.done():
            done.set_result(None) if error is None else done.set_exception(error)

    def run() -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as failure:
            error = failure
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=run, daemon=True).start()
    return done


def _listen(host: str, port: int, option: str) -> socket.socket:
    """Return a listening socket, so that the port is known and taken before anything else is done."""
    listener: socket.socket | None = None
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # With its protocol stated, asyncio switches Nagle's algorithm off, which costs 40 ms a request.
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        if listener is not None:
            listener.close()
        in_use = error.errno == errno.EADDRINUSE
        raise MachineError(
            "port is in use" if in_use else "port cannot be opened",
            where=f"{host}:{port}",
            got=None if in_use else error.strerror,
            do=f"pass {option} 0 for a free one",
        ) from error
    return listener


async def _end(http: UvicornServer, serving: asyncio.Task[None]) -> None:
    http.should_exit = True
    await serving
