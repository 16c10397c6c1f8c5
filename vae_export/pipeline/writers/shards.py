"""A folder of files of some rows each, every file written by whoever computed its rows.

.npy: OUTPUT-00000.npy, OUTPUT-00001.npy, … .parquet: part-00000.parquet, … with a column of Arrow tensors an output.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vae_export.contract import Array
from vae_export.errors import StorageError
from vae_export.io.atomic import check_room
from vae_export.io.staging import staged_file, staged_folder, sweep
from vae_export.pipeline.writers.arrays import bytes_of, write_header, write_numbers
from vae_export.pipeline.writers.base import Outputs, check_replaceable
from vae_export.system.extras import require

ShardFormat = Literal["npy", "parquet"]
SHARD_FORMATS: tuple[ShardFormat, ...] = ("npy", "parquet")


@dataclass(frozen=True)
class Shards:
    """The folder while it is being filled; can be sent to other processes, and other machines that see the folder.

    Attributes:
    folder: where the files go for now.
    format: of the files.
    names: of the outputs.
    """

    folder: Path
    format: ShardFormat
    names: tuple[str, ...]

    def write(self, index: int, arrays: Mapping[str, Array]) -> None:
        """The files of piece `index`, whole or absent: a process that is killed here leaves nothing that counts."""
        if not self.folder.is_dir():
            do = "put --out where all machines see it"
            raise StorageError("output folder is not there", where=self.folder, expected="shared storage", do=do)
        files = self.files(index)
        if self.format == "parquet":
            with staged_file(files[0], force=True, parents=False) as file:
                _write_parquet(file, arrays)
            return
        for path, name in zip(files, self.names, strict=True):
            with staged_file(path, force=True, parents=False) as file:
                write_header(file, arrays[name].shape, arrays[name].dtype)
                write_numbers(file, arrays[name])

    def check(self, index: int) -> None:
        """Raise `StorageError` unless the files of piece `index` are here."""
        for path in self.files(index):
            if not path.is_file():
                do = "put --out where all machines see it"
                raise StorageError("shard is not here", where=path, expected="shared storage", do=do)

    def files(self, index: int) -> list[Path]:
        if self.format == "parquet":
            return [self.folder / f"part-{index:05}.parquet"]
        return [self.folder / f"{name}-{index:05}.npy" for name in self.names]


@contextlib.contextmanager
def shard_folder(path: Path, format: ShardFormat, rows: int, outputs: Outputs, *, force: bool) -> Iterator[Shards]:
    """All outputs in files of some rows each."""
    if format == "parquet":
        require("parquet")
    check_replaceable(path, f"*-*.{format}")
    check_room(path, bytes_of(rows, outputs))
    with staged_folder(path, force=force) as folder:
        yield Shards(folder.absolute(), format, tuple(outputs))
        sweep(folder)  # what a killed worker left of a file that another one wrote


def _write_parquet(file: object, arrays: Mapping[str, Array]) -> None:
    """Numbers hardly repeat: neither a dictionary nor compression is worth its time."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = {name: pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(a)) for name, a in arrays.items()}
    table = pa.table(columns)
    parquet.write_table(table, file, use_dictionary=False, compression="none", row_group_size=max(1, len(table)))
