"""Where outputs go: written as they come, published when the last one is there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from vae_export.contract import Array
from vae_export.errors import UsageError

#: The shape of a row and the dtype of each output, by its name.
Outputs = Mapping[str, tuple[tuple[int, ...], "np.dtype[np.generic]"]]


class Writer(Protocol):
    """What is open while outputs come."""

    def write(self, arrays: Mapping[str, Array]) -> None:
        """The next rows of each output, (rows, *item). Raises `StorageError`."""


def check_replaceable(folder: Path, *patterns: str) -> None:
    """Raise `UsageError` unless all that lies in an existing folder are files of ours, by their names."""
    if not folder.is_dir() or folder.is_symlink():
        return
    for entry in folder.iterdir():
        if not any(entry.match(pattern) for pattern in patterns) or entry.is_dir():
            raise UsageError(
                "not a folder that may be replaced",
                where=folder,
                expected=f"nothing but {' and '.join(patterns)}",
                got=entry.name,
                do="choose another --out",
            )
