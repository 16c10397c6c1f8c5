"""Tensors of a graph: dtypes, ranges, and shapes whose sizes are numbers or expressions in one named symbol.

A size is written as torch.export and ONNX write it: 28, "h", "8*h", "4*t+1". The batch axis comes first and is the
symbol N. This module does not import torch, because applications use it too.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from vae_export.errors import ModelError
from vae_export.likelihood import Array

if TYPE_CHECKING:
    import numpy as np

#: How far a pixel may lie outside its range because of float32 rounding, as a fraction of the range.
RANGE_SLACK = 1e-6
#: Up to so many numbers, two readings of them cost less than one more call of NumPy.
_SMALL = 1 << 12
#: The bits of infinity and of minus infinity in float32.
_INFINITY_BITS, _MINUS_INFINITY_BITS = 0x7F80_0000, 0xFF80_0000

#: The symbol of the batch axis, which is the first axis of every tensor.
BATCH = "N"
#: A size of a tensor: a number, or an expression in one symbol.
Size: TypeAlias = int | str
#: The shape of one row of a tensor, without the batch axis.
Shape: TypeAlias = tuple[Size, ...]

#: How probes draw a tensor, and which metrics apply to it.
Role = Literal["data", "latent", "noise", "codes", "condition", "statistic"]
Dtype = Literal["float32", "uint8", "int32", "int64"]
_EXPRESSION = re.compile(r"(?:(?P<factor>[1-9]\d*)\*)?(?P<symbol>[A-Za-z][A-Za-z0-9_]*)(?P<offset>[+-]\d+)?")


@dataclass(frozen=True)
class Expression:
    """A size factor · symbol + offset.

    Attributes:
        symbol: name of the symbol.
        factor: positive.
        offset: any sign.
    """

    symbol: str
    factor: int = 1
    offset: int = 0

    @classmethod
    def parse(cls, text: str) -> Expression:
        """Parse an expression such as "h", "8*h" or "4*t+1"; raise `ModelError` for any other text."""
        found = _EXPRESSION.fullmatch(text.replace(" ", ""))
        if found is None:
            raise ModelError("bad size", expected='a number, or an expression such as "h", "8*h" or "4*t+1"', got=text)
        factor, offset = int(found["factor"] or 1), int(found["offset"] or 0)
        if max(factor, abs(offset)) >= 1 << 53:
            raise ModelError("bad size", expected="numbers below 2^53", got=text)
        return cls(found["symbol"], factor, offset)

    def at(self, value: int) -> int:
        """Return the size for a value of the symbol."""
        return self.factor * value + self.offset

    def solve(self, size: int) -> int | None:
        """Return the value of the symbol that gives this size, or None if no integer does."""
        value, rest = divmod(size - self.offset, self.factor)
        return None if rest else value

    def __str__(self) -> str:
        factor = "" if self.factor == 1 else f"{self.factor}*"
        return f"{factor}{self.symbol}" + (f"{self.offset:+d}" if self.offset else "")


@dataclass(frozen=True)
class Symbol:
    """The values that a symbol may have.

    Attributes:
        low: the lowest value, >= 1.
        high: the highest value; None for no limit.
        usual: the value that applications use most, which probes, golden vectors and timings take; None chooses one.
    """

    low: int = 1
    high: int | None = None
    usual: int | None = None

    def __post_init__(self) -> None:
        high = math.inf if self.high is None else self.high
        if not 1 <= self.low <= high or (self.usual is not None and not self.low <= self.usual <= high):
            raise ModelError("bad bounds of a symbol", expected="1 <= low <= usual <= high", got=self)

    @property
    def is_fixed(self) -> bool:
        """Whether the symbol has a single value."""
        return self.low == self.high

    @property
    def usual_value(self) -> int:
        """The usual value, or 8 within the bounds."""
        return self.usual or max(self.low, min(8, self.high or 8))

    def allows(self, value: int) -> bool:
        """Whether the symbol may have this value."""
        return self.low <= value <= (self.high or value)

    @property
    def bounds(self) -> str:
        """The values for people: "1 to 63", "2 and up"."""
        return f"{self.low} and up" if self.high is None else f"{self.low} to {self.high}"

    def to_json(self) -> dict[str, int | None]:
        """Return the bounds as an object of a manifest."""
        return {"min": self.low, "max": self.high, "usual": self.usual}


def sizes_at(shape: Sequence[Size], values: Mapping[str, int]) -> tuple[Size, ...]:
    """Replace the symbols that have a value by numbers."""
    sizes: list[Size] = []
    for size in shape:
        expression = None if isinstance(size, int) else Expression.parse(size)
        known = expression is not None and expression.symbol in values
        sizes.append(expression.at(values[expression.symbol]) if expression is not None and known else size)
    return tuple(sizes)


def shape_text(shape: Sequence[Size]) -> str:
    """Return a shape for people, such as "3 x 8*h x 8*w"."""
    return " x ".join(map(str, shape))


def axes_text(shape: Sequence[Size | None]) -> str:
    """Return the shape of an array as NumPy writes it, without quotes: "(N, 3, 8*h, 8*w)", "(N,)"."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def signature_text(tensors: Iterable[tuple[str, str, Sequence[Size | None]]]) -> str:
    """Return names, types and shapes as a message shows them: "latent float (N, 10)"."""
    return ", ".join(
        f"{name} {type.removeprefix('tensor(').removesuffix(')')} {axes_text(shape)}" for name, type, shape in tensors
    )


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph.

    Attributes:
        name: the name of the tensor in every exported file.
        item: the shape of one row; the whole shape is (N, *item).
        low, high: the range of the values; infinite if the tensor has no range.
        dtype: float32, uint8 for 8-bit pixels, or an integer for codes and classes.
        role: how probes draw it.
        batch: the batch axis: N, or a number where the graph has a fixed batch.
    """

    name: str
    item: Shape
    low: float = -math.inf
    high: float = math.inf
    dtype: Dtype = "float32"
    role: Role = "data"
    batch: Size = BATCH

    @property
    def shape(self) -> Shape:
        """The whole shape, with the batch axis first."""
        return (self.batch, *self.item)

    @property
    def fixed_item(self) -> tuple[int, ...]:
        """The shape of one row in numbers; raise `ModelError` if it has symbols, which `Contract.at` replaces."""
        if not all(isinstance(size, int) for size in self.item):
            raise ModelError("size is not known", where=f"tensor '{self.name}'", expected="numbers", got=self.item)
        return cast(tuple[int, ...], self.item)

    @property
    def is_bounded(self) -> bool:
        """Whether the tensor has a finite range, as images do."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def limits(self) -> tuple[float, float]:
        """The range with the slack for float32 arithmetic, which rounds: a fraction `RANGE_SLACK` at each end."""
        slack = 0.0 if self.is_integer or not self.is_bounded else RANGE_SLACK * (self.high - self.low)
        return self.low - slack, self.high + slack

    @property
    def bytes_per_row(self) -> int:
        """The bytes of one row; raise `ModelError` if its sizes are open."""
        return {"uint8": 1, "int64": 8}.get(self.dtype, 4) * math.prod(self.fixed_item)

    @property
    def is_image(self) -> bool:
        """Whether the tensor holds images (C, H, W) in a range, which have grey levels."""
        has_levels = self.is_bounded and self.dtype in ("float32", "uint8")
        return self.role == "data" and len(self.item) == 3 and has_levels

    @property
    def is_code(self) -> bool:
        """Whether the tensor holds codes, which are equal to what they should be, or wrong."""
        return self.role == "codes"

    @property
    def is_integer(self) -> bool:
        """Whether the values are integers: codes, classes or bytes."""
        return self.dtype != "float32"

    def to_json(self) -> dict[str, Any]:
        """Return name, dtype, shape and range as an object of a manifest."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "range": [self.low, self.high] if self.is_bounded else None,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], role: Role) -> TensorSpec:
        """Return the tensor that `to_json` wrote; raise `KeyError`, `TypeError`, `ValueError` for anything else."""
        batch, *item = data["shape"]
        low, high = (-math.inf, math.inf) if data["range"] is None else map(float, data["range"])
        shape = as_shape(item, data["name"]) if item else ()
        return cls(data["name"], shape, low, high, data["dtype"], role, batch)

    def __str__(self) -> str:
        """Return the name, shape and range, such as "image (N, 1, 28, 28) in [0, 1]"."""
        within = f" in [{self.low:g}, {self.high:g}]" if self.is_bounded else ""
        dtype = f" {self.dtype}" if self.dtype in ("int32", "int64") else ""
        return f"{self.name} ({', '.join(map(str, self.shape))}){dtype}{within}"

    def check(self, value: object, *, batch: int | None = None, sizes: dict[str, int] | None = None) -> None:
        """Raise `ModelError` unless `value` is a finite array of this dtype and shape.

        Args:
            value: the value from a caller or an engine.
            batch: the required number of rows; None allows any number >= 1.
            sizes: values of symbols that earlier tensors have; those of this tensor are added.

        Raises:
            ModelError: the value is not an array, is empty, or has another dtype, shape or a number that is not finite.
        """
        import numpy as np

        where = f"tensor '{self.name}'"
        if not isinstance(value, np.ndarray):
            raise ModelError("not an array", where=where, expected="a numpy array", got=type(value).__name__)
        if isinstance(value, np.ma.MaskedArray):  # no number stands for a masked one
            raise ModelError("masked array", where=where, expected="an array without a mask")
        if value.dtype != np.dtype(self.dtype):  # this includes the byte order
            raise ModelError("wrong dtype", where=where, expected=self.dtype, got=value.dtype)
        expected = axes_text((batch if batch is not None else self.batch, *self.item))
        if not self.fits(value.shape, {} if sizes is None else sizes) or batch not in (None, value.shape[0]):
            raise ModelError("wrong shape", where=where, expected=expected, got=value.shape)
        if value.shape[0] == 0:
            raise ModelError("empty batch", where=where, expected=f"{BATCH} of 1 and up", got=value.shape)
        # Integers are always finite, and isfinite() takes as long as computing them.
        if self.dtype == "float32" and not all_finite(value):
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
            raise ModelError("not finite", where=f"{where} at {index}", expected="finite numbers", got=value[index])

    def conversion(self, value: object) -> str | None:
        """Return what a caller does to a value with another type or shape so that `check` accepts it, or None."""
        import numpy as np

        if not isinstance(value, np.ndarray):
            is_array = isinstance(value, list | tuple) or hasattr(value, "__array__")
            return f"pass numpy.asarray(value, numpy.{self.dtype})" if is_array else None
        if isinstance(value, np.ma.MaskedArray):
            return "pass value.filled(number)"
        if value.dtype != np.dtype(self.dtype):
            if self.is_image and (self.low, self.high) == (0, 1) and value.dtype == np.uint8:
                return "scale its levels: value.astype(numpy.float32) / 255"
            may_round = value.dtype.kind in "iu" or (value.dtype.kind == "f" and not self.is_integer)
            return f"pass value.astype(numpy.{self.dtype})" if may_round else None
        missing = len(self.shape) - value.ndim
        if missing > 0 and self.fits((1,) * missing + value.shape, {}):
            return f"add the axes before: value[{', '.join(['None'] * missing)}]"
        if self.is_image and value.ndim == 4 and self.fits(value.transpose(0, 3, 1, 2).shape, {}):
            return "put the channels first: value.transpose(0, 3, 1, 2)"
        return None

    def fits(self, shape: tuple[int, ...], sizes: dict[str, int]) -> bool:
        """Whether the sizes after the batch axis fit, with one value for each symbol.

        Args:
            shape: the whole shape of an array.
            sizes: values of symbols that earlier tensors have; those of this tensor are added.
        """
        if shape[1:] == self.item:
            return True
        if len(shape) != len(self.shape):
            return False
        for size, found in zip(self.item, shape[1:], strict=True):
            if isinstance(size, int):
                if size != found:
                    return False
                continue
            expression = Expression.parse(size)
            value = expression.solve(found)
            if value is None or value < 1 or sizes.setdefault(expression.symbol, value) != value:
                return False
        return True

    def draw(self, rows: int, rng: np.random.Generator) -> Array:
        """Draw values: uniform within the range, or standard normal without one.

        Args:
            rows: number of rows, N.
            rng: the generator.

        Returns:
            An array (N, *item) of this dtype.

        Raises:
            ModelError: the tensor has open sizes.
        """
        shape = (rows, *self.fixed_item)
        if self.is_integer:
            return rng.integers(int(self.low), int(self.high), shape, dtype=self.dtype, endpoint=True)
        drawn = rng.uniform(self.low, self.high, shape) if self.is_bounded else rng.standard_normal(shape)
        return drawn.astype(self.dtype)

    def out_of_range(self, value: Array) -> Array | None:
        """Return a mask of the numbers that lie outside the `limits`, or None if there are none.

        Args:
            value: finite numbers of any shape.

        Returns:
            A bool mask of the same shape, or None.
        """
        if not self.is_bounded:
            return None
        low, high = self.limits
        if value.min() >= low and value.max() <= high:
            return None
        mask: Array = (value < low) | (value > high)
        return mask


def all_finite(value: Array) -> bool:
    """Whether every number of an array is finite."""
    import numpy as np

    if value.size <= _SMALL or value.dtype != np.float32:
        return bool(np.count_nonzero(np.isfinite(value)) == value.size)
    # As unsigned integers, negative floats come after all others, and in either half infinity and NaN come last. So one
    # reading is enough for images, and nothing is written.
    most = int(value.view(np.uint32).max())
    if most < _INFINITY_BITS:
        return True
    return most < _MINUS_INFINITY_BITS and int(value.view(np.int32).max()) < _INFINITY_BITS


def as_shape(sizes: Any, where: str) -> Shape:
    """Return a shape from numbers (numpy's too) and expressions; raise `ModelError` for anything else."""
    shape: list[Size] = []
    try:
        for size in sizes:
            if isinstance(size, bool):
                raise TypeError
            shape.append(str(Expression.parse(size)) if isinstance(size, str) else operator.index(size))
    except TypeError:
        raise ModelError("bad contract", where=where, expected="positive sizes", got=sizes) from None
    if not shape or any(isinstance(size, int) and size < 1 for size in shape):
        raise ModelError("bad contract", where=where, expected="positive sizes", got=sizes)
    return tuple(shape)
