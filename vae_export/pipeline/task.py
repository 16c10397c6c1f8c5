"""What is done to a piece of the input, wherever that happens."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, overload

import numpy as np

from vae_export.contract import Array, Contract, Part
from vae_export.errors import ModelError, UsageError
from vae_export.pipeline.readers import Reader
from vae_export.pipeline.writers.shards import Shards
from vae_export.pixels import to_levels
from vae_export.runtime import Model

Job = Literal["decode", "encode", "reconstruct"]
PARTS: dict[Job, tuple[Part, ...]] = {
    "decode": ("decoder",),
    "encode": ("encoder",),
    "reconstruct": ("encoder", "decoder"),
}

#: Bytes that a piece takes, inputs and outputs together, in whole batches.
PIECE_BYTES = 64 << 20


@dataclass(frozen=True)
class Piece:
    """Rows start to stop - 1; `index` counts the pieces."""

    index: int
    start: int
    stop: int


@dataclass(frozen=True)
class Task:
    """Attributes:
    job: which networks the rows go through.
    source: the rows.
    levels: give images as 8-bit levels, uint8, in place of float32.
    beside: give the image that was read beside its reconstruction.
    shards: write the outputs there, whoever computes them; None hands them over.
    """

    job: Job
    source: Reader
    levels: bool = False
    beside: bool = False
    shards: Shards | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        return PARTS[self.job]

    def outputs(self, contract: Contract) -> dict[str, tuple[tuple[int, ...], np.dtype[np.generic]]]:
        """The shape of a row and the dtype of each output by its name, as `run` gives them."""
        image = (contract.image_shape, np.dtype(np.uint8 if self.levels else np.float32))
        latent = (contract.latent_shape, np.dtype(np.float32))
        match self.job:
            case "decode":
                return {"image": image}
            case "encode":
                return {"mean": latent, "logvar": latent}
        return ({"image": image} if self.beside else {}) | {"reconstruction": image}

    def run(self, model: Model, piece: Piece) -> dict[str, Array]:
        """The outputs of a piece by name, or nothing where they went to the shards.

        Raises:
            DataError: an input that cannot be read or must not be computed with; names its row.
            ModelError: outputs that are not finite.
        """
        rows = self.source.read(piece.start, piece.stop)
        try:
            outputs = self._compute(model, rows)
        except ModelError as error:  # it knows the place in this piece only
            places = f"{self.source.place(piece.start)} to {piece.stop - 1}"
            where = f"{error.where}, counted from {places}"
            raise ModelError(error.what, where=where, expected=error.expected, got=error.got, do=error.do) from error
        if self.levels:
            low, high = model.contract.image_range
            images = ("image", "reconstruction")
            outputs = {
                name: to_levels(array, low, high).astype(np.uint8) if name in images else array
                for name, array in outputs.items()
            }
        if self.shards is None:
            return outputs
        self.shards.write(piece.index, outputs)
        return {}

    def _compute(self, model: Model, rows: Array) -> dict[str, Array]:
        match self.job:
            case "decode":
                return {"image": model.decode(rows)}
            case "encode":
                mean, logvar = model.encode(rows)
                return {"mean": mean, "logvar": logvar}
        again = {"reconstruction": model.reconstruct(rows)}
        return {"image": rows, **again} if self.beside else again


class Engine(Protocol):
    """What computes pieces."""

    def run(self, task: Task, pieces: Sequence[Piece]) -> Generator[dict[str, Array]]:
        """`task.run` of each piece, in their order."""


@dataclass(frozen=True)
class Pieces(Sequence[Piece]):
    """All pieces of `total` rows, of `size` rows each but for the last: made when they are asked for."""

    total: int
    size: int

    def __len__(self) -> int:
        return -(-self.total // self.size)

    @overload
    def __getitem__(self, index: int) -> Piece: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Piece]: ...
    def __getitem__(self, index: int | slice) -> Piece | Sequence[Piece]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return Piece(index, index * self.size, min((index + 1) * self.size, self.total))


def cut(task: Task, model: Model, *, rows: int | None = None) -> Pieces:
    """The pieces of a task: of `rows` rows, else of as many whole batches as `PIECE_BYTES` holds.

    Every engine computes these, so that a row meets the same batch, and comes out the same, on all of them.
    """
    if rows is not None and rows < 1:
        raise UsageError("bad number of rows", expected="an integer from 1 up", got=rows)
    specs = [model.contract.spec(part) for part in task.parts]
    row = sum(4 * math.prod(tensor.item) for spec in specs for tensor in (*spec.inputs, *spec.outputs))
    batch = model.rows_at_a_time(task.parts[0])
    return Pieces(task.source.rows, rows or max(batch, PIECE_BYTES // row // batch * batch))
