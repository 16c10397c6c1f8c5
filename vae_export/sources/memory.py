"""Refuse a model that is larger than the memory of this machine, before it is loaded."""

from __future__ import annotations

from vae_export.errors import ModelError
from vae_export.system.hardware import available_memory

#: A float32 copy for each part that is captured and the file that is written, as a multiple of the weights.
_COPIES = 2


def check_memory(model: object, weights: int) -> None:
    """Raise `ModelError` if there is less memory than the float32 weights and a copy of them take.

    Args:
        model: its name, for the message.
        weights: bytes of the weights in float32.
    """
    available = available_memory()
    if (needed := _COPIES * weights) > available:
        raise ModelError(
            "model is larger than the available memory",
            where=model,
            expected=f"{needed / 2**30:.1f} GiB for its weights and a copy",
            got=f"{available / 2**30:.1f} GiB",
        )
