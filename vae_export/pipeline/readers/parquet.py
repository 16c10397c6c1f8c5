"""A reader of Parquet columns from anyone, whose rows are lists of numbers of one length, or Arrow tensors."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from vae_export.contract import Array
from vae_export.errors import DataError
from vae_export.pipeline.readers.arrays import choose_field
from vae_export.pipeline.readers.base import BLOCK_BYTES, BlockStream
from vae_export.system.extras import require


class ParquetReader:
    """The rows of one column of a Parquet file.

    Args:
        path: the file.
        field: name of the column; None takes the first of `names` that is there, or the only column.
        names: the names that are tried in turn.
        item: the shape that a flat list of as many numbers is given.

    Raises:
        DataError: the file cannot be read, the column is not one of numbers, or it is not clear which is meant.
        MissingExtraError: pyarrow is not installed.
    """

    def __init__(self, path: Path, field: str | None, names: Sequence[str], item: tuple[int, ...]) -> None:
        require("parquet")
        import pyarrow as pa
        from pyarrow import parquet

        self._path = path
        try:
            with parquet.ParquetFile(path) as file:
                schema, metadata = file.schema_arrow, file.metadata
        except (pa.ArrowException, OSError) as error:
            raise DataError("not a readable Parquet file", where=path, got=error) from error
        self._column = choose_field(schema.names, path, field, names)
        self._where = f"{path}, {self._column}"
        self.item, self.dtype = _row_type(schema.field(self._column).type, item, self._where)
        groups = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
        self._ends = list(accumulate(groups))
        self.rows = self._ends[-1] if self._ends else 0
        if self.rows == 0:
            raise DataError("no rows", where=path, expected="1 and up", got=0)
        self._stream = BlockStream(self._blocks, self._group_start, self._where)

    def read(self, start: int, stop: int) -> Array:
        """Return rows start to stop - 1: (stop - start, *item). Raises `DataError`."""
        return self._stream.read(start, stop)

    def locate(self, row: int) -> str:
        """Return the file, the column and the number of the row, for a message."""
        return f"{self._where}, row {row}"

    def _group_start(self, row: int) -> int:
        """Return the first row of the row group that holds a row."""
        group = bisect_right(self._ends, row)
        return self._ends[group - 1] if group else 0

    def _blocks(self, start: int) -> Iterator[Array]:
        """Yield the rows from the start of a row group on, in blocks."""
        import pyarrow as pa
        from pyarrow import parquet

        step = max(1, BLOCK_BYTES // (math.prod(self.item) * self.dtype.itemsize))
        groups = range(bisect_right(self._ends, start), len(self._ends))
        at = start
        try:
            with parquet.ParquetFile(self._path) as file:
                if file.metadata.num_rows != self.rows:
                    raise DataError("file changed while it was read", where=self._where)
                for batch in file.iter_batches(step, row_groups=list(groups), columns=[self._column]):
                    yield self._numbers(batch.column(0), at)
                    at += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise DataError("damaged", where=self._where, got=error) from error

    def _numbers(self, column: Any, start: int) -> Array:
        """Return the rows of an Arrow array; `start` is the number of the first one."""
        import pyarrow as pa
        import pyarrow.compute as pc

        storage = column.storage if isinstance(column.type, pa.BaseExtensionType) else column
        width = math.prod(self.item)
        lengths = pc.list_value_length(storage).to_numpy(zero_copy_only=False)  # NaN for a row that is null
        if (lengths != width).any():
            row = int(np.argmax(lengths != width))
            got = "null" if np.isnan(lengths[row]) else f"{lengths[row]:.0f} numbers"
            raise DataError("wrong row", where=self.locate(start + row), expected=f"{width} numbers", got=got)
        values = storage.flatten()
        if values.null_count:
            row = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False))) // width
            raise DataError("wrong row", where=self.locate(start + row), expected=f"{width} numbers", got="a null")
        numbers: Array = values.to_numpy(zero_copy_only=False)
        return numbers.reshape(len(storage), *self.item)


def _row_type(kind: Any, item: tuple[int, ...], where: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and dtype of the rows of a column."""
    import pyarrow as pa

    shape: tuple[int, ...] | None = None
    if isinstance(kind, pa.FixedShapeTensorType):
        if kind.permutation is not None and list(kind.permutation) != sorted(kind.permutation):
            raise DataError("tensor with permuted axes", where=where, expected="axes in order", got=kind)
        shape, kind = tuple(kind.shape), kind.storage_type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise DataError("wrong type", where=where, expected="lists of numbers, or tensors", got=kind)
    number = kind.value_type
    if not (pa.types.is_floating(number) or pa.types.is_integer(number)):
        raise DataError("wrong type", where=where, expected="lists of numbers, or tensors", got=kind)
    if shape is None:
        flat = not pa.types.is_fixed_size_list(kind) or kind.list_size == math.prod(item)
        shape = item if flat else (kind.list_size,)
    return shape, np.dtype(number.to_pandas_dtype())
