"""Refuse a model that is larger than the memory of this machine, before it is loaded."""

from __future__ import annotations

import os
from pathlib import Path

from vae_export.errors import ModelError

#: A float32 copy for each part that is captured and the file that is written, as a multiple of the weights.
_COPIES = 2


def check_memory(model: object, weights: int) -> None:
    """Raise `ModelError` if there is less memory than the float32 weights and a copy of them take.

    Args:
        model: its name, for the message.
        weights: bytes of the weights in float32.
    """
    available = available_memory()
    if available is not None and (needed := _COPIES * weights) > available:
        raise ModelError(
            "model is larger than the available memory",
            where=model,
            expected=f"{needed / 2**30:.1f} GiB for its weights and a copy",
            got=f"{available / 2**30:.1f} GiB",
        )


def available_memory() -> int | None:
    """Return the bytes that can still be used on this machine, or None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (OSError, ValueError, AttributeError):
            return None
