"""Run a part of open sizes on overlapping tiles, so that data of any size is computed in the memory of one tile.

Neighbouring tiles are blended linearly where they overlap. A network that looks at the whole picture, as group
normalisation and attention do, gives another result for a tile than for the whole, so that tiled results deviate from
untiled ones; `docs/figures.md` has figures.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from vae_export.contract import Array, PartSpec
from vae_export.errors import ModelError, UsageError
from vae_export.rng import check_integer
from vae_export.tensors import BATCH, Expression, Size, Symbol, TensorSpec

#: The overlap of neighbouring tiles as a share of the tile, where the caller gives none.
_OVERLAP = 8
_MAX_TILE = 1 << 30


@dataclass(frozen=True)
class Tiling:
    """A division of the inputs and outputs of a part into overlapping tiles.

    Attributes:
        spec: the part.
        tiles: the size of a tile for each symbol that is cut, in values of the symbol.
        overlaps: the overlap of neighbouring tiles, likewise.
    """

    spec: PartSpec
    tiles: Mapping[str, int]
    overlaps: Mapping[str, int]

    @classmethod
    def of(cls, spec: PartSpec, tile: int | None, overlap: int | None) -> Tiling:
        """Choose the tiles of a part.

        Args:
            spec: the part.
            tile: the size of a tile along each open axis of the first input, in elements of that input.
            overlap: how many of them two neighbours share; None takes an eighth.

        Returns:
            The tiling.

        Raises:
            UsageError: the tile is no multiple of the network's step, is beyond its bounds, or is all overlap.
            ModelError: the part has no axis that can be cut, or gives integers, which cannot be blended.
        """
        if any(tensor.is_integer for tensor in spec.outputs):
            raise ModelError("outputs cannot be blended", where=spec.part, expected="real numbers", got="integers")
        steps = _steps(spec)
        if not steps:
            expected = 'open sizes such as "8*h"'
            raise ModelError("part cannot be tiled", where=spec.part, expected=expected, got=str(spec.inputs[0]))
        if tile is None:
            raise UsageError("overlap without a tile", where=spec.part, do="give tile=… too")
        tile = check_integer("tile", tile, 1, _MAX_TILE)
        tiles, overlaps = {}, {}
        for name, step in steps.items():
            shared = tile // _OVERLAP // step * step if overlap is None else check_integer("overlap", overlap, 0)
            for what, size in (("tile", tile), ("overlap", shared)):
                if size % step:
                    raise UsageError(f"{what} does not fit the network", expected=f"a multiple of {step}", got=size)
            if shared >= tile:
                raise UsageError("overlap is too large", expected=f"less than the tile of {tile}", got=shared)
            bounds = spec.symbols.get(name, Symbol())
            if not bounds.allows(tile // step):
                high = f" to {bounds.high * step}" if bounds.high else " and up"
                raise UsageError("tile is out of bounds", expected=f"{bounds.low * step}{high}", got=tile)
            tiles[name], overlaps[name] = tile // step, shared // step
        return cls(spec, tiles, overlaps)

    def run(
        self,
        run: Callable[[Mapping[str, Array]], Mapping[str, Array]],
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
    ) -> None:
        """Compute the outputs tile by tile.

        Args:
            run: computes the part for one tile.
            inputs: arrays by name, of any size; see `sizes`.
            outputs: arrays by name, into which the blended outputs are written.
        """
        sizes = self.sizes(inputs)
        pieces = {name: list(self._pieces(name, size)) for name, size in sizes.items() if name in self.tiles}
        for array in outputs.values():
            array[...] = 0
        for chosen in itertools.product(*pieces.values()):
            at = dict(zip(pieces, chosen, strict=True))
            found = run({tensor.name: self._cut(tensor, inputs[tensor.name], at) for tensor in self.spec.inputs})
            for tensor in self.spec.outputs:
                weighted = found[tensor.name]
                for axis, size in enumerate(tensor.shape):
                    expression = _expression(size)
                    if expression is not None and expression.symbol in at:
                        weights = at[expression.symbol].weights(expression.factor)
                        weighted = weighted * weights.reshape(-1, *(1,) * (weighted.ndim - axis - 1))
                self._cut(tensor, outputs[tensor.name], at)[...] += weighted

    def sizes(self, inputs: Mapping[str, Array]) -> dict[str, int]:
        """Check everything but the bounds of the sizes, which hold for a tile; return the symbols' values."""
        unbounded = replace(self.spec, symbols={name: s for name, s in self.spec.symbols.items() if name == BATCH})
        unbounded.check_inputs(inputs)
        return self.spec.sizes(inputs)

    def _pieces(self, name: str, size: int) -> Iterator[_Piece]:
        """Yield overlapping pieces of one axis; all have the size of a tile, so that the last may overlap more."""
        tile, overlap = self.tiles[name], self.overlaps[name]
        starts = [0] if size <= tile else [*range(0, size - tile, tile - overlap), size - tile]
        for start in starts:
            yield _Piece(start, min(tile, size), size, tuple(starts), overlap)

    @staticmethod
    def _cut(tensor: TensorSpec, array: Array, at: Mapping[str, _Piece]) -> Array:
        """Return a view of a tile of an array."""
        where = [slice(None)] * array.ndim
        for axis, size in enumerate(tensor.shape):
            expression = _expression(size)
            if expression is not None and expression.symbol in at:
                piece, factor = at[expression.symbol], expression.factor
                where[axis] = slice(piece.start * factor, (piece.start + piece.size) * factor)
        return array[tuple(where)]


@dataclass(frozen=True)
class _Piece:
    """A tile along one axis, in values of its symbol.

    Attributes:
        start, size: where it is.
        whole: the size of the whole axis.
        starts: of all pieces of the axis.
        overlap: the overlap of neighbours.
    """

    start: int
    size: int
    whole: int
    starts: tuple[int, ...]
    overlap: int

    def weights(self, factor: int) -> Array:
        """Return the weight of each element, of `factor` a value: over all pieces, the weights of an element are 1."""
        ramps = {start: self._ramp(start, factor) for start in self.starts}
        total = np.zeros(self.whole * factor)
        for start, ramp in ramps.items():
            total[start * factor : (start + self.size) * factor] += ramp
        here = slice(self.start * factor, (self.start + self.size) * factor)
        return (ramps[self.start] / total[here]).astype(np.float32)

    def _ramp(self, start: int, factor: int) -> Array:
        """Return weights that rise and fall linearly within the overlap, except at the ends of the axis."""
        length, width = self.size * factor, self.overlap * factor
        steps = (np.arange(length) + 0.5) / width if width else np.ones(length)
        rising = np.ones(length) if start == 0 else np.minimum(steps, 1)
        falling = np.ones(length) if start + self.size == self.whole else np.minimum(steps[::-1], 1)
        return np.minimum(rising, falling)


def _steps(spec: PartSpec) -> dict[str, int]:
    """Return the symbols that can be cut, and how many elements of the first input one value has.

    A symbol can be cut if each size with it is a multiple of it: "8*h", but not "4*t+1".
    """
    expressions = [
        expression
        for tensor in (*spec.inputs, *spec.outputs)
        for size in tensor.item
        if (expression := _expression(size)) is not None
    ]
    uneven = {expression.symbol for expression in expressions if expression.offset}
    first = [expression for size in spec.inputs[0].item if (expression := _expression(size)) is not None]
    return {one.symbol: one.factor for one in first if one.symbol not in uneven}


def _expression(size: Size) -> Expression | None:
    return Expression.parse(size) if isinstance(size, str) and size != BATCH else None
