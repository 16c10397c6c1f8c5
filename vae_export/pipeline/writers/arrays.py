"""One .npy or .npz file, written row by row with plain writes: a full disk is an error then, and no signal."""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format

from vae_export.contract import Array
from vae_export.io.atomic import PARTIAL, check_room
from vae_export.io.staging import staged_file
from vae_export.pipeline.writers.base import Outputs

#: The oldest that a ZIP file can state: equal arrays give equal bytes.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def write_header(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """The header of an .npy file of little-endian numbers, the last axis varying fastest."""
    header = {"descr": npy_format.dtype_to_descr(dtype.newbyteorder("<")), "fortran_order": False, "shape": shape}
    npy_format.write_array_header_1_0(file, header)


def write_numbers(file: IO[bytes], array: Array) -> None:
    """Numbers as they follow such a header."""
    file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data.cast("B"))


class _Files:
    """An open .npy file for each output."""

    def __init__(self, files: Mapping[str, IO[bytes]]) -> None:
        self._files = files

    def write(self, arrays: Mapping[str, Array]) -> None:
        for name, file in self._files.items():
            write_numbers(file, arrays[name])


@contextlib.contextmanager
def npy_file(path: Path, rows: int, outputs: Outputs, *, force: bool) -> Iterator[_Files]:
    """One output as an .npy file of (rows, *item)."""
    ((name, (item, dtype)),) = outputs.items()
    check_room(path, bytes_of(rows, outputs))
    with staged_file(path, force=force) as file:
        write_header(file, (rows, *item), dtype)
        yield _Files({name: file})


@contextlib.contextmanager
def npz_file(path: Path, rows: int, outputs: Outputs, *, force: bool) -> Iterator[_Files]:
    """Several outputs as the arrays of an .npz file, not compressed.

    A ZIP file takes one member after the other, but outputs come together: they wait in files without a name.
    """
    check_room(path, 2 * bytes_of(rows, outputs))
    with staged_file(path, force=force) as target, contextlib.ExitStack() as stack:
        parts: dict[str, IO[bytes]] = {}
        for name, (item, dtype) in outputs.items():
            parts[name] = stack.enter_context(tempfile.TemporaryFile(prefix=PARTIAL, dir=path.parent))
            write_header(parts[name], (rows, *item), dtype)
        yield _Files(parts)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for name, part in parts.items():
                part.seek(0)
                with archive.open(zipfile.ZipInfo(f"{name}.npy", _NO_TIME), "w", force_zip64=True) as member:
                    shutil.copyfileobj(part, member, 1 << 20)


def bytes_of(rows: int, outputs: Outputs) -> int:
    """What the numbers of these outputs take."""
    return rows * sum(math.prod(item) * dtype.itemsize for item, dtype in outputs.values())
