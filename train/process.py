"""The process and the device of a training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from train.config import MAX_DEFAULT_THREADS, DeviceName
from vae_export.errors import TargetError, UsageError
from vae_export.system.extras import require

if TYPE_CHECKING:
    import torch


def prepare_process() -> None:
    """Require the extra `train`, and let waiting OpenMP threads give way. Call this before torch is imported.

    OpenMP threads that wait for each other spin for milliseconds. On cores that others use too, steps as small as ours
    then take six times as long with two threads as with one. With this limit they do not, and lose nothing on idle
    cores. Raises `MissingExtraError`.
    """
    require("train")
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")


def is_printing() -> bool:
    """Return whether this process prints for all that torchrun started with it, before they have joined each other."""
    return os.environ.get("RANK", "0") == "0"


def choose_device(name: DeviceName, threads: int | None) -> torch.device:
    """Set the number of CPU threads and return the device.

    Args:
        name: `auto` stands for the fastest device that is there; any other device is used or refused.
        threads: None for torch's own number, at most `MAX_DEFAULT_THREADS`.

    Raises:
        TargetError: this machine lacks the device, or there are more processes than GPUs.
    """
    import torch

    torch.set_num_threads(threads or min(torch.get_num_threads(), MAX_DEFAULT_THREADS))
    usable = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    chosen = next(device for device in usable if usable[device]) if name == "auto" else name
    if chosen not in usable:
        raise UsageError("unknown device", expected="auto | cpu | cuda | mps", got=name)
    if not usable[chosen]:
        expected = ", ".join(device for device, is_usable in usable.items() if is_usable)
        raise TargetError("device not found", where=f"--device {name}", expected=expected, do="pass --device auto")
    return _own_gpu() if chosen == "cuda" else torch.device(chosen)


def _own_gpu() -> torch.device:
    """Return the GPU of this process: each process of a training on one machine has its own."""
    import torch

    from train.distributed import local_rank

    if local_rank() >= torch.cuda.device_count():
        expected, got = f"{torch.cuda.device_count()} or fewer processes", local_rank() + 1
        raise TargetError("more processes than GPUs", expected=expected, got=got, do="pass a smaller --nproc-per-node")
    gpu = torch.device("cuda", local_rank())
    torch.cuda.set_device(gpu)
    return gpu


@contextmanager
def memory_errors() -> Iterator[None]:
    """Convert torch's `RuntimeError` about missing memory to a `MemoryError`, which the command line explains."""
    try:
        yield
    except RuntimeError as error:
        if "out of memory" in str(error) or "can't allocate memory" in str(error):
            raise MemoryError(str(error).splitlines()[0]) from error
        raise
