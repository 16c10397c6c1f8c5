"""The errors that a client gets, each with its HTTP status and gRPC code."""

from __future__ import annotations

from http import HTTPStatus
from typing import Literal

from vae_export.errors import InputError, MachineError, OutOfMemoryError, UsageError, VaeExportError

#: The names of `grpc.StatusCode`; this module is loaded where grpc is not.
GrpcCode = Literal["INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "INTERNAL"]


class UnknownModelError(UsageError):
    """No model of this name and version is served."""


class TooLargeError(InputError):
    """A request or its response exceeds a limit of this server."""


class NotAcceptingError(MachineError):
    """The server is starting, draining or has too much to do."""


class SlowClientError(InputError):
    """A request did not arrive in time, or its response was not taken."""


#: The first class that fits an error decides.
_STATUSES: tuple[tuple[type[VaeExportError], HTTPStatus, GrpcCode], ...] = (
    (UnknownModelError, HTTPStatus.NOT_FOUND, "NOT_FOUND"),
    (TooLargeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "RESOURCE_EXHAUSTED"),
    (SlowClientError, HTTPStatus.REQUEST_TIMEOUT, "INVALID_ARGUMENT"),
    (NotAcceptingError, HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE"),
    (OutOfMemoryError, HTTPStatus.SERVICE_UNAVAILABLE, "RESOURCE_EXHAUSTED"),
    (InputError, HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT"),
    (UsageError, HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT"),
)


def status_of(error: Exception) -> tuple[HTTPStatus, GrpcCode]:
    """Return the HTTP status and the gRPC code of an error; whatever a client cannot help is INTERNAL."""
    for kind, status, code in _STATUSES:
        if isinstance(error, kind):
            return status, code
    return HTTPStatus.INTERNAL_SERVER_ERROR, "INTERNAL"


def message_of(error: Exception) -> str:
    """Return the line that a client reads. An error of ours that is no fault of the client's is not described."""
    if isinstance(error, VaeExportError) and status_of(error)[1] != "INTERNAL":
        return error.line()
    return "internal error; the server's log has more"
