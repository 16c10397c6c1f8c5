"""What both commands need of the process that they run in: threads, a device, memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from train.config import MAX_DEFAULT_THREADS
from vae_export.errors import TargetError, UsageError
from vae_export.system.extras import require

if TYPE_CHECKING:
    import torch


def prepare() -> None:
    """Before torch is imported: raises `MissingExtraError`, and lets its waiting threads give way.

    Threads of OpenMP that wait for each other spin for milliseconds. On cores that others use too, steps as small as
    ours then take six times as long with two threads as with one; with this bound they do not, and lose nothing on
    idle ones.
    """
    require("train")
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")


def device(name: str, threads: int | None) -> torch.device:
    """The device that was asked for, never another. Raises `TargetError`, `UsageError`."""
    import torch

    torch.set_num_threads(threads or min(torch.get_num_threads(), MAX_DEFAULT_THREADS))
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if there[device])
    if name not in there:
        raise UsageError("unknown device", expected="auto | cpu | cuda | mps", got=name)
    if not there[name]:
        usable = ", ".join(device for device, usable in there.items() if usable)
        raise TargetError("no such device here", where=f"--device {name}", expected=usable, do="or pass --device auto")
    if name != "cuda":
        return torch.device(name)
    from train.distributed import local_rank

    chosen = torch.device(name, local_rank())
    if local_rank() >= torch.cuda.device_count():
        expected, got = f"{torch.cuda.device_count()} or fewer processes", local_rank() + 1
        raise TargetError("more processes than GPUs", expected=expected, got=got, do="pass a smaller --nproc-per-node")
    torch.cuda.set_device(chosen)
    return chosen


@contextmanager
def ending_together() -> Iterator[None]:
    """End in silence where another process of the training has said why all of them end."""
    from train.distributed import PeerEndedError

    try:
        yield
    except PeerEndedError as ended:
        raise typer.Exit(ended.code) from ended


@contextmanager
def memory_errors() -> Iterator[None]:
    """Torch says that memory is out in a `RuntimeError`; the command line knows what to say about a `MemoryError`."""
    try:
        yield
    except RuntimeError as error:
        if "out of memory" in str(error) or "can't allocate memory" in str(error):
            raise MemoryError(str(error).splitlines()[0]) from error
        raise
