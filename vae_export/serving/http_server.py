"""The HTTP side of a server: an application for uvicorn, and the guards against clients that send too much too slowly.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
import traceback
from asyncio import TimerHandle, Transport
from collections.abc import Awaitable, Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

import httptools
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from vae_export.errors import InputError
from vae_export.serving.http_codec import EXTENSIONS, JSON_LENGTH, decode_request, encode_document, encode_response
from vae_export.serving.models import ServedModel
from vae_export.serving.refusals import SlowClientError, TooLargeError, UnknownModelError, message_of, status_of
from vae_export.serving.service import SERVER_NAME, SERVER_VERSION, RequestLimits, Reservation, Service

_JSON = "application/json"
#: How many bytes of a response are given to the connection at a time.
_PIECE = 1 << 18
#: Limits of the request line and the headers together: their size in bytes, and the seconds until their end.
HEAD_BYTES, HEAD_SECONDS = 64 << 10, 10.0
#: How long the rest of a refused body is read and dropped.
_LINGER_SECONDS = 1.0
#: Connections beyond this number get 503.
MAX_CONNECTIONS = 1024


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, closing connections whose heads are too long or too slow, and those that take no response.

    uvicorn itself waits for them without an end, and keeps whatever arrives. A head is the request line and headers.
    """

    _head_bytes = 0
    _in_head = True
    _deadline: TimerHandle | None = None
    _writing: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:
        """Start the clock of the first request."""
        super().connection_made(transport)
        self._expect_head()

    def on_message_begin(self) -> None:
        """Start the clock of a request."""
        self._expect_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop the clock: the body has limits of its own."""
        self._in_head = False
        self._stop_clock()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Count the bytes of an unfinished head."""
        with contextlib.suppress(httptools.HttpParserCallbackError):  # a URL that cannot be parsed
            super().data_received(data)
            if self._in_head:
                self._head_bytes += len(data)
                if self._head_bytes > HEAD_BYTES:
                    self.transport.abort()
            return
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._stop_clock()
        self._stop_writing_clock()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the clock of a client that does not take its response."""
        self._stop_writing_clock()
        self._writing = self.loop.call_later(self.timeout_keep_alive, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        """Stop the clock of a client that takes its response again."""
        self._stop_writing_clock()
        super().resume_writing()

    def _expect_head(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._stop_clock()
        self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_writing_clock(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _ResponseNotTakenError(Exception):
    """A client does not take its response: uvicorn closes the connection."""


class UvicornServer(uvicorn.Server):
    """uvicorn without its own signal handlers: the caller handles signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def make_server(service: Service) -> UvicornServer:
    """Return a server; its `serve` takes the sockets."""
    return UvicornServer(
        uvicorn.Config(
            make_app(service),
            http=GuardedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=int(service.limits.client_seconds) + 1,
            timeout_graceful_shutdown=1,
        )
    )


def make_app(service: Service) -> Starlette:
    """Return the application: health, metadata, inference and metrics."""

    async def live(_: Request) -> Response:
        return _json({"live": True})

    async def ready(_: Request) -> Response:
        return _json({"ready": service.is_ready}, _ready_status(service.is_ready))

    async def model_ready(request: Request) -> Response:
        name, version = _model(request.path_params)
        is_ready = service.model_is_ready(name, version)
        return _json({"name": name, "ready": is_ready}, _ready_status(is_ready))

    async def server_metadata(_: Request) -> Response:
        return _json({"name": SERVER_NAME, "version": SERVER_VERSION, "extensions": list(EXTENSIONS)})

    async def model_metadata(request: Request) -> Response:
        name, version = _model(request.path_params)
        model = service.catalogue.find(name, version)
        return _json(model.metadata(service.catalogue.versions(name)))

    async def metrics(_: Request) -> Response:
        page, content_type = service.metrics.page()
        return Response(page, headers={"content-type": content_type})

    infer, routes = _Inference(service), []
    for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        routes += [
            Route(f"{model}/infer", infer, methods=["POST"]),
            Route(f"{model}/ready", model_ready),
            Route(model, model_metadata),
        ]
    return Starlette(
        routes=[
            *routes,
            Route("/v2", server_metadata),
            Route("/v2/health/live", live),
            Route("/v2/health/ready", ready),
            Route("/metrics", metrics),
        ],
        exception_handlers={HTTPException: _no_such_path, UnknownModelError: _refused},
    )


class _Inference:
    """The endpoint of inference: an application, so that a request counts until its response is sent."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body_reader, start = _Body(receive), time.perf_counter()
        request, model, outcome = Request(scope, body_reader), None, "OK"
        try:
            model = self._service.catalogue.find(*_model(request.path_params))
            with self._service.admitted() as reservation:
                body, headers = await self._answer(model, request, reservation)
                await _send(send, HTTPStatus.OK, headers, body, self._service.limits)
        except ClientDisconnect:
            outcome = "CANCELLED"
        except _ResponseNotTakenError:
            outcome = "CANCELLED"
            raise
        except Exception as error:
            status, outcome = status_of(error)
            if outcome == "INTERNAL":
                traceback.print_exc(file=sys.stderr)
            headers = {"content-type": _JSON} | ({} if body_reader.is_complete else {"connection": "close"})
            answer = encode_document({"error": message_of(error)})
            await _send(send, status, headers, answer, self._service.limits, body_reader.discard)
        finally:
            self._service.metrics.request_finished("http", model, outcome, time.perf_counter() - start)

    async def _answer(
        self, model: ServedModel, request: Request, reservation: Reservation
    ) -> tuple[bytes, dict[str, str]]:
        limits, headers = self._service.limits, request.headers
        if "content-encoding" in headers:
            got = headers["content-encoding"][:100]
            raise InputError("compressed requests are not supported", where="content-encoding", got=got)
        try:
            async with asyncio.timeout(limits.client_seconds):
                body = await _read_body(request, limits, reservation)
        except TimeoutError:
            expected = f"within {limits.client_seconds:g} s"
            raise SlowClientError("body did not arrive", expected=expected) from None
        inference = decode_request(body, headers.get(JSON_LENGTH))
        wanted = inference.wanted(model)
        outputs = await self._service.infer(model, inference, reservation)
        return encode_response(model, inference, outputs, wanted)


class _Body:
    """The body of a request, which knows whether it was read to its end."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.is_complete = False

    async def __call__(self) -> Any:
        message = await self._receive()
        self.is_complete = not message.get("more_body", False)
        return message

    async def discard(self) -> None:
        """Read on for a moment: a client that is still sending when its connection closes loses the answer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while not self.is_complete:
                    await self()


async def _nothing() -> None:
    pass


async def _read_body(request: Request, limits: RequestLimits, reservation: Reservation) -> bytes:
    """Return the body, which is refused as soon as it is known to be too large."""
    stated = request.headers.get("content-length", "0")
    if stated.isascii() and stated.isdigit() and (len(stated) > 18 or int(stated) > limits.request_bytes):
        raise _too_large(limits, stated[:100])
    pieces, size, reserved = [], 0, 0
    async for piece in request.stream():
        size += len(piece)
        if size > limits.request_bytes:
            raise _too_large(limits, f"{size} or more")
        if size - reserved > _PIECE * 8:
            reservation.take(size - reserved)
            reserved = size
        pieces.append(piece)
    return b"".join(pieces)


def _too_large(limits: RequestLimits, got: str) -> TooLargeError:
    do = "send fewer rows, or bytes after the JSON, or raise --max-request-mb"
    return TooLargeError("request is too large", expected=f"{limits.request_bytes} bytes at most", got=got, do=do)


async def _send(
    send: Send,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    limits: RequestLimits,
    before_end: Callable[[], Awaitable[None]] = _nothing,
) -> None:
    """Send a response in pieces; a client that does not take it in time loses its connection."""
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    raw.append((b"content-length", str(len(body)).encode()))
    whole = memoryview(body)
    try:
        async with asyncio.timeout(limits.client_seconds):
            await send({"type": "http.response.start", "status": int(status), "headers": raw})
            for start in range(0, len(whole), _PIECE):
                piece = bytes(whole[start : start + _PIECE]) if len(whole) > _PIECE else body
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await before_end()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
    except TimeoutError:
        raise _ResponseNotTakenError from None


def _model(parameters: Mapping[str, str]) -> tuple[str, str]:
    return parameters["name"], parameters.get("version", "")


def _ready_status(is_ready: bool) -> HTTPStatus:
    return HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE


def _json(document: Mapping[str, Any], status: int = HTTPStatus.OK) -> Response:
    return Response(encode_document(document), int(status), headers={"content-type": _JSON})


async def _refused(_: Request, error: Exception) -> Response:
    return _json({"error": message_of(error)}, status_of(error)[0])


async def _no_such_path(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else HTTPStatus.NOT_FOUND
    what = f"{HTTPStatus(status).phrase.lower()}: {request.method} {request.url.path[:100]}"
    return _json({"error": what}, status)
