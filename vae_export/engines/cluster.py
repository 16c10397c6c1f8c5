"""A connection to a Ray cluster, or a cluster of this machine's own; without telemetry, dashboard and noise."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

from vae_export.errors import TargetError, UsageError
from vae_export.extras import require

#: Seconds that a machine may take to answer.
_PATIENCE = 10


def prepare(address: str | None) -> None:
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
