"""A task (decode, encode or reconstruct the rows of a reader) and the chunks of rows that it is computed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, overload

import numpy as np

from vae_export.contract import Array, Contract, Part
from vae_export.errors import ModelError, UsageError
from vae_export.pipeline.inputs import Inputs
from vae_export.pipeline.readers import Reader
from vae_export.pipeline.writers import Outputs, Shards
from vae_export.pixels import to_levels
from vae_export.runtime import Model

Operation = Literal["decode", "encode", "reconstruct"]
_PARTS_OF: dict[Operation, tuple[Part, ...]] = {
    "decode": ("decoder",),
    "encode": ("encoder",),
    "reconstruct": ("encoder", "decoder"),
}

#: Largest size of a chunk (its inputs and outputs together) in bytes.
CHUNK_BYTES = 64 << 20


@dataclass(frozen=True)
class Chunk:
    """Rows start to stop - 1 of a reader; `index` is the number of the chunk."""

    index: int
    start: int
    stop: int


@dataclass(frozen=True)
class Task:
    """An operation on the rows of a reader.

    Attributes:
        operation: decode, encode or reconstruct.
        inputs: the readers of the rows.
        levels: whether images are 8-bit levels (uint8) instead of float32.
        include_input: whether each image is returned beside its reconstruction.
        shards: folder that the computing process writes the outputs to; None to return the outputs.
    """

    operation: Operation
    inputs: Inputs
    levels: bool = False
    include_input: bool = False
    shards: Shards | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the model that the task needs."""
        return _PARTS_OF[self.operation]

    @property
    def reader(self) -> Reader:
        """The reader of the first input."""
        return self.inputs.reader

    def outputs(self, contract: Contract) -> Outputs:
        """Return the shape of a row and the dtype of each output that `run` returns, by its name."""
        contract = contract.at(self.inputs.sizes)
        if self.operation == "encode":
            encoded = contract.spec("encoder").outputs
            return {tensor.name: (tensor.fixed_item, np.dtype(tensor.dtype)) for tensor in encoded}
        data = (contract.output.fixed_item, np.dtype(np.uint8 if self.levels else np.float32))
        if self.operation == "decode":
            return {contract.output.name: data}
        return ({"image": data} if self.include_input else {}) | {"reconstruction": data}

    def run(self, model: Model, chunk: Chunk) -> dict[str, Array]:
        """Compute and finish one chunk; see `compute` and `finish`."""
        return self.finish(model.contract, chunk, self.compute(model, chunk))

    def compute(self, model: Model, chunk: Chunk) -> dict[str, Array]:
        """Compute the outputs of one chunk.

        Args:
            model: a model with the parts that the task needs.
            chunk: the rows.

        Returns:
            The outputs by name, (rows, *item) each; images are float32 still.

        Raises:
            DataError: an input cannot be read, or is not finite or out of range; the message names its row.
            ModelError: an output is not finite.
        """
        rows = self.reader.read(chunk.start, chunk.stop)
        others = {name: reader.read(chunk.start, chunk.stop) for name, reader in self.inputs.others.items()}
        try:
            return self._compute(model, rows, others)
        except ModelError as error:  # the model knows only the row within this chunk
            where = f"{error.where}, counted from {self.reader.locate(chunk.start)} to {chunk.stop - 1}"
            raise ModelError(error.what, where=where, expected=error.expected, got=error.got, do=error.do) from error

    def finish(self, contract: Contract, chunk: Chunk, outputs: dict[str, Array]) -> dict[str, Array]:
        """Round the outputs of one chunk to levels, and write them to the shards, where the task has these.

        Args:
            contract: the model's contract.
            chunk: the rows.
            outputs: the outputs that `compute` returned.

        Returns:
            The outputs by name; an empty dictionary if they were written to the shards.

        Raises:
            StorageError: the shards cannot be written.
        """
        if self.levels:
            ranges = {"image": contract.image_range, "reconstruction": contract.image_range}
            if self.operation == "reconstruct":  # beside it stands the data itself
                ranges["image"] = contract.data_range or contract.image_range
            outputs = {
                name: to_levels(array, *ranges[name], np.uint8) if name in ranges else array
                for name, array in outputs.items()
            }
        if self.shards is None:
            return outputs
        self.shards.write(chunk.index, outputs)
        return {}

    def _compute(self, model: Model, rows: Array, others: Mapping[str, Array]) -> dict[str, Array]:
        if self.operation == "encode":
            return model.run("encoder", **{model.contract.data.name: rows}, **others)
        if self.operation == "decode":
            name = model.contract.output.name
            return {name: model.run("decoder", **{model.contract.latents[0].name: rows}, **others)[name]}
        reconstruction = {"reconstruction": model.reconstruct(rows, **others)}
        return {"image": rows, **reconstruction} if self.include_input else reconstruction


@dataclass(frozen=True)
class Chunks(Sequence[Chunk]):
    """All chunks of `total` rows, `size` rows each except for the last; each chunk is made when it is accessed."""

    total: int
    size: int

    def __len__(self) -> int:
        return -(-self.total // self.size)

    @overload
    def __getitem__(self, index: int) -> Chunk: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Chunk]: ...
    def __getitem__(self, index: int | slice) -> Chunk | Sequence[Chunk]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return Chunk(index, index * self.size, min((index + 1) * self.size, self.total))


def split_into_chunks(task: Task, model: Model, *, rows: int | None = None) -> Chunks:
    """Split the rows of a task into chunks.

    Every engine computes the same chunks, so a row is always in the same batch and gives the same result.

    Args:
        task: the task.
        model: the model that computes it.
        rows: rows of a chunk; None takes as many whole batches as fit into `CHUNK_BYTES`.

    Returns:
        The chunks, in order.

    Raises:
        UsageError: `rows` is below 1.
    """
    if rows is not None and rows < 1:
        raise UsageError("bad number of rows", expected="an integer from 1 up", got=rows)
    contract = model.contract.at(task.inputs.sizes)
    tensors = [tensor for spec in map(contract.spec, task.parts) for tensor in (*spec.inputs, *spec.outputs)]
    row_bytes = sum(tensor.bytes_per_row for tensor in tensors)
    batch = model.rows_at_a_time(task.parts[0], task.inputs.sizes)
    return Chunks(task.reader.rows, rows or max(batch, CHUNK_BYTES // row_bytes // batch * batch))
