"""The contract: names, dtypes, shapes, ranges and roles of the inputs and outputs of each exported graph.

Exporters take tensor names from the contract, and parity draws inputs that fit it. The runtime checks arguments against
it. The manifest and the metadata of every file store it. This module does not import torch, because applications use it
too.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Literal, cast, get_args

from vae_export.errors import ModelError, UsageError
from vae_export.io.strict_json import has_values
from vae_export.likelihood import MAX_LEVEL as MAX_LEVEL
from vae_export.likelihood import Array as Array
from vae_export.likelihood import Likelihood
from vae_export.tensors import BATCH, Dtype, Expression, Role, Shape, Size, Symbol, TensorSpec, as_shape, sizes_at

Part = Literal["encoder", "decoder", "autoencoder", "decoder-uint8-hwc", "decoder-uint8-chw"]
#: The parts that every VAE has. They are exported by default.
PARTS: tuple[Part, ...] = ("encoder", "decoder", "autoencoder")
#: Layouts of an 8-bit image: channels last, as a canvas expects them, or channels first.
Pixels = Literal["uint8-hwc", "uint8-chw"]
#: The decoder part that returns uint8 pixels in each layout. The keys are the values of --pixels.
PIXELS: Mapping[Pixels, Part] = {"uint8-hwc": "decoder-uint8-hwc", "uint8-chw": "decoder-uint8-chw"}
#: Every part that a file can hold.
EVERY_PART: tuple[Part, ...] = (*PARTS, *PIXELS.values())
#: The outputs of an encoder: mean and logvar of a Gaussian, a latent without a distribution, or integer codes.
Encoding = Literal["gaussian", "deterministic", "codes"]
#: The distribution of latents: N(0, I), each code equally likely, or one that the contract does not know.
Prior = Literal["standard normal", "uniform", "given by the user"]
NORMAL: Prior = "standard normal"
#: The number of different integers that data and codes may have: a random word of 32 bits chooses between them.
MOST_INTEGERS = 1 << 32
#: The lowest and the highest integer of a type in a bundle. float64 holds them: JavaScript has no other numbers.
_HELD = {"int32": (-1 << 31, (1 << 31) - 1), "int64": (1 - (1 << 53), (1 << 53) - 1)}

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class PartSpec:
    """The inputs and outputs of one graph, in order.

    Attributes:
        part: the part.
        inputs, outputs: the tensors.
        symbols: bounds of the symbols in the shapes.
    """

    part: Part
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    symbols: Mapping[str, Symbol] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the tensors as they stand in a manifest and in the metadata of a file."""
        return {
            "inputs": [tensor.to_json() for tensor in self.inputs],
            "outputs": [tensor.to_json() for tensor in self.outputs],
        }

    def check_inputs(self, inputs: Mapping[str, Array]) -> int:
        """Check the names of the inputs, and each array with `TensorSpec.check`.

        Args:
            inputs: arrays by name.

        Returns:
            The number of rows.

        Raises:
            ModelError: a name is missing or unknown, an array does not fit, or a size is beyond its bounds.
        """
        names = [tensor.name for tensor in self.inputs]
        if set(inputs) != set(names):
            raise ModelError("wrong inputs", where=self.part, expected=names, got=sorted(inputs))
        rows: int | None = None
        sizes: dict[str, int] = {}
        for tensor in self.inputs:
            try:
                tensor.check(inputs[tensor.name], batch=rows, sizes=sizes)
            except ModelError as error:
                do = tensor.conversion(inputs[tensor.name])
                where, expected, got = error.where, error.expected, error.got
                raise ModelError(error.what, where=where, expected=expected, got=got, do=do) from error
            rows = len(inputs[tensor.name])
        for name, value in sizes.items():
            symbol = self.symbols.get(name, Symbol())
            if not symbol.allows(value):
                raise ModelError("size out of bounds", where=f"{self.part}, {name}", expected=symbol.bounds, got=value)
        return rows or 0

    def sizes(self, inputs: Mapping[str, Array]) -> dict[str, int]:
        """Return the value of each symbol for inputs that `check_inputs` has accepted, without the batch."""
        sizes: dict[str, int] = {}
        for tensor in self.inputs:
            tensor.fits(inputs[tensor.name].shape, sizes)
        return sizes

    def at(self, values: Mapping[str, int]) -> PartSpec:
        """Return the part with symbols replaced by numbers."""

        def fixed(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
            return tuple(replace(tensor, item=sizes_at(tensor.item, values)) for tensor in tensors)

        symbols = {name: symbol for name, symbol in self.symbols.items() if name not in values}
        return replace(self, inputs=fixed(self.inputs), outputs=fixed(self.outputs), symbols=symbols)

    def check_ranges(self, inputs: Mapping[str, Array]) -> None:
        """Raise `ModelError` for an input out of range, such as pixels in [0, 255] where the encoder expects [0, 1].

        Args:
            inputs: arrays by name, which `check_inputs` has accepted.
        """
        import numpy as np

        for tensor in self.inputs:
            value, low, high = inputs[tensor.name], tensor.low, tensor.high
            if (mask := tensor.out_of_range(value)) is not None:
                index = tuple(int(i) for i in np.argwhere(mask)[0])
                where = f"tensor '{tensor.name}' at {index}"
                if tensor.name != "image":
                    expected = f"{'integers' if tensor.is_integer else 'numbers'} in [{low:g}, {high:g}]"
                    raise ModelError("out of range", where=where, expected=expected, got=value[index])
                do = "scale 8-bit levels by 1/255" if (low, high) == (0, 1) else "scale the pixels"
                expected = f"pixels in [{low:g}, {high:g}]"
                raise ModelError("out of range", where=where, expected=expected, got=value[index], do=do)


def float_part(part: Part) -> Part:
    """Return "decoder" for a decoder with uint8 pixels, and any other part unchanged."""
    return "decoder" if part in PIXELS.values() else part


@dataclass(frozen=True)
class Condition:
    """An input beside data and latents, such as a class label.

    Attributes:
        name: its name in every file.
        shape: the shape of one row; () for one number a row.
        dtype: "float32", "int32" or "int64".
        low, high: the range; for integers the lowest and the highest value. Infinite for floats without a range.
        parts: the modules that take it. The autoencoder takes every condition.
    """

    name: str
    shape: Shape = ()
    dtype: Dtype = "float32"
    low: float = -math.inf
    high: float = math.inf
    parts: tuple[Literal["encoder", "decoder"], ...] = ("encoder", "decoder")

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", as_shape(self.shape, self.name) if len(self.shape) else ())
        object.__setattr__(self, "parts", tuple(self.parts))
        if self.dtype not in ("float32", "int32", "int64"):
            raise ModelError("bad dtype", where=f"condition '{self.name}'", expected="float32 | int32 | int64")
        if self.dtype != "float32" and not (math.isfinite(self.low) and math.isfinite(self.high)):
            expected = "the lowest and the highest value"
            raise ModelError("range is missing", where=f"condition '{self.name}'", expected=expected)
        if not self.low <= self.high or not self.parts or set(self.parts) - {"encoder", "decoder"}:
            raise ModelError("bad condition", where=self.name, expected="low <= high; parts encoder, decoder", got=self)

    @property
    def tensor(self) -> TensorSpec:
        return TensorSpec(self.name, self.shape, self.low, self.high, self.dtype, "condition")


@dataclass(frozen=True)
class Contract:
    """Shapes, ranges and roles of the data and latents of a VAE.

    An image VAE of one Gaussian latent needs the first two or three arguments only.

    Attributes:
        data_shape: the shape of one row: (C, H, W) of an image, channels first, or any other.
        latent_shape: (Z,), or (C, H, W) where latents are feature maps. With several latents, shapes by name.
        data_range: lowest and highest value: [0, 1] for our models, [-1, 1] for diffusers' AutoencoderKL; None where
            values are not bounded.
        likelihood: p(x|z); some likelihoods add a second output to the decoder. None means that it is not stated;
            figures in nats then use `Likelihood.usual`.
        data_name: the name of the data in every file; the default is "image" for three sizes of floats, and otherwise
            "data".
        data_dtype: "float32", or "int64" or "int32" for integers in the data's range, such as tokens of text.
        output_shape, output_range: shape and range of what the decoder gives, where they differ from the data's.
            The shape None takes both from the data. A decoder such as diffusers' that may leave the range has the shape
            of the data and the range None. A decoder gives floats, so that integers need a shape: (T, K) for the logits
            of T tokens out of K.
        encoding: what the encoder gives: "gaussian" for mean and logvar, "deterministic" for a latent, "codes" for
            integers.
        codebook_size: the number of different codes, with the encoding "codes".
        code_dtype: "int64" or "int32".
        conditions: further inputs of the encoder and decoder.
        prior: the distribution of latents; `sample` refuses to draw from a prior "given by the user".
        symbols: bounds of the symbols in the shapes, and of the batch N. A symbol without bounds may be 1 and up.
        scaling_factor, shift_factor: latents of a diffusion model are (latent - shift) * scaling. The graphs do not
            apply them; the runtime offers them.

    Raises:
        ModelError: a shape, the range or the likelihood is not valid.
    """

    data_shape: Shape
    latent_shape: Shape | Mapping[str, Shape]
    data_range: tuple[float, float] | None = (0.0, 1.0)
    likelihood: Likelihood | None = None
    _: KW_ONLY
    data_name: str = ""
    data_dtype: Dtype = "float32"
    output_shape: Shape | None = None
    output_range: tuple[float, float] | None = None
    encoding: Encoding = "gaussian"
    codebook_size: int | None = None
    code_dtype: Dtype = "int64"
    conditions: tuple[Condition, ...] = ()
    prior: Prior | None = None
    symbols: Mapping[str, Symbol] = field(default_factory=dict)
    scaling_factor: float = 1.0
    shift_factor: float = 0.0

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "_specs", {})  # specs are asked for at every call of a model
        set_(self, "data_shape", as_shape(self.data_shape, "data_shape"))
        if isinstance(self.latent_shape, Mapping):
            latents = {name: as_shape(shape, name) for name, shape in self.latent_shape.items()}
            set_(self, "latent_shape", next(iter(latents.values())) if list(latents) == [self._only] else latents)
        else:
            set_(self, "latent_shape", as_shape(self.latent_shape, "latent_shape"))
        looks_like_image = len(self.data_shape) == 3 and self.data_dtype == "float32"
        set_(self, "data_name", self.data_name or ("image" if looks_like_image else "data"))
        if self.output_shape is not None:
            set_(self, "output_shape", as_shape(self.output_shape, "output_shape"))
        elif self.output_range is not None:
            set_(self, "output_shape", self.data_shape)
        if self.prior is None:
            set_(self, "prior", "uniform" if self.encoding == "codes" else NORMAL)
        set_(self, "conditions", tuple(self.conditions))
        self._check_ranges()
        self._check_latents()
        self._check_integers()
        self._check_tensors()
        self._check_symbols()

    def _check_ranges(self) -> None:
        """Raise `ModelError` for a range that is none, and for a likelihood that does not fit the range of the data."""
        for name, bounds in (("data_range", self.data_range), ("output_range", self.output_range)):
            if bounds is None:
                continue
            low, high = bounds
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ModelError("bad contract", where=name, expected="low < high", got=bounds)
            object.__setattr__(self, name, (float(low), float(high)))
        is_float = self.data_dtype == "float32"
        if is_float and (self.output_shape, self.output_range) == (self.data_shape, self.data_range):
            object.__setattr__(self, "output_shape", None)
            object.__setattr__(self, "output_range", None)
        if not isinstance(self.likelihood, Likelihood | None):
            raise ModelError("bad contract", where="likelihood", expected="a Likelihood", got=self.likelihood)
        if self.likelihood == Likelihood("bernoulli") and self.data_range != (0.0, 1.0):
            got = f"range {self.data_range}"
            raise ModelError("bad contract", where="likelihood bernoulli", expected="values in [0, 1]", got=got)

    def _check_latents(self) -> None:
        """Raise `ModelError` for an unknown encoding or prior, and for codes without a number of codes."""
        for name, known in (("encoding", get_args(Encoding)), ("prior", get_args(Prior))):
            if (got := getattr(self, name)) not in known:
                raise ModelError("bad contract", where=name, expected=" | ".join(known), got=got)
        size = self.codebook_size
        if (self.encoding == "codes") != (size is not None) or (size is not None and operator.index(size) < 1):
            expected = 'the number of codes, with the encoding "codes" alone'
            raise ModelError("bad contract", where="codebook_size", expected=expected, got=size)
        if self.prior == (NORMAL if self.encoding == "codes" else "uniform"):
            expected = '"uniform" over codes, "standard normal" over other latents, or "given by the user"'
            raise ModelError("bad contract", where="prior", expected=expected, got=self.prior)

    def _check_integers(self) -> None:
        """Raise `ModelError` for integers as data without a range, a shape of the output, or with a likelihood."""
        if self.data_dtype not in ("float32", "int32", "int64"):
            raise ModelError(
                "bad contract", where="data_dtype", expected="float32 | int32 | int64", got=self.data_dtype
            )
        if self.data_dtype == "float32":
            return
        low, high = self.data_range or (0.5, 0.5)
        if not (low.is_integer() and high.is_integer() and high - low < MOST_INTEGERS):
            expected = "the lowest and the highest integer, of 2^32 at most"
            raise ModelError("bad contract", where="data_range", expected=expected, got=self.data_range)
        if self.output_shape is None:
            expected = "the shape of what the decoder gives, since it gives no integers"
            raise ModelError("bad contract", where="output_shape", expected=expected, got=None)
        if self.likelihood is not None:
            expected = "none, since the data is integers"
            raise ModelError("bad contract", where="likelihood", expected=expected, got=self.likelihood)

    def _check_tensors(self) -> None:
        for part in PARTS:
            names = [tensor.name for tensors in (self.spec(part).inputs, self.spec(part).outputs) for tensor in tensors]
            for name in names:
                if _NAME.fullmatch(name) is None:
                    raise ModelError("bad contract", where="name of a tensor", expected="letters, digits, _", got=name)
            if len(set(names)) != len(names):
                raise ModelError("bad contract", where=f"{part}, names", expected="different names", got=names)
            for tensor in (*self.spec(part).inputs, *self.spec(part).outputs):
                lowest, most = _HELD.get(tensor.dtype, (-math.inf, math.inf))
                if not lowest <= tensor.low <= tensor.high <= most:
                    expected, got = f"{lowest:,} to {most:,} at most", f"{tensor.low:,} to {tensor.high:,}"
                    raise ModelError("bad contract", where=tensor.name, expected=expected, got=got)

    def _check_symbols(self) -> None:
        shapes = [shape[1:] for shape in self._shapes]
        used = [Expression.parse(size).symbol for shape in shapes for size in shape if isinstance(size, str)]
        if BATCH in used:
            raise ModelError("bad contract", where="shapes", expected=f"{BATCH} as the batch axis only", got=shapes)
        symbols = {name: self.symbols.get(name, Symbol()) for name in dict.fromkeys(used)}
        if BATCH in self.symbols:
            symbols[BATCH] = self.symbols[BATCH]
        if unknown := [name for name in self.symbols if name not in symbols]:
            raise ModelError("bad contract", where="symbols", expected="symbols of the shapes", got=unknown)
        object.__setattr__(self, "symbols", symbols)
        vars(self)["_specs"].clear()  # they hold the bounds

    @property
    def _only(self) -> str:
        """The name of a latent that is alone."""
        return "codes" if self.encoding == "codes" else "latent"

    @property
    def data(self) -> TensorSpec:
        """The input of the encoder."""
        return self._tensor(self.data_name, self.data_shape, "data", self.data_range, self.data_dtype)

    @property
    def output(self) -> TensorSpec:
        """The output of the decoder: the data, with a range of its own or none; "output" if shape or dtype differ."""
        if self.output_shape is None:
            return self.data
        is_data = self.output_shape == self.data_shape and self.data_dtype == "float32"
        name = self.data_name if is_data else "output"
        return self._tensor(name, self.output_shape, "data", self.output_range)

    @property
    def latents(self) -> tuple[TensorSpec, ...]:
        """The inputs of the decoder: one latent or several, or codes."""
        shapes = self.latent_shape if isinstance(self.latent_shape, Mapping) else {self._only: self.latent_shape}
        if self.codebook_size is None:
            return tuple(self._tensor(name, shape, "latent") for name, shape in shapes.items())
        bounds = 0.0, self.codebook_size - 1.0
        return tuple(self._tensor(name, shape, "codes", bounds, self.code_dtype) for name, shape in shapes.items())

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """The data, what the decoder gives where that is another tensor, the latents and the conditions."""
        output = () if self.output == self.data else (self.output,)
        conditions = (replace(item.tensor, batch=self._batch) for item in self.conditions)
        return (self.data, *output, *self.latents, *conditions)

    @property
    def gives_data(self) -> bool:
        """Whether the decoder gives data of the shape that the encoder takes."""
        return self.output.name == self.data.name

    @property
    def is_image(self) -> bool:
        """Whether the decoder gives images of 1 to 4 channels, which can be shown: clipped to `image_range`."""
        channels = self.data_shape[0]
        return self.output.name == "image" and self.data_range is not None and channels in (1, 2, 3, 4)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image; raise `ModelError` if the data is no image or has open sizes."""
        item = self.output.fixed_item
        if self.output.name != "image" or len(item) != 3:
            raise ModelError("data is not an image", got=str(self.output))
        return item

    @property
    def image_range(self) -> tuple[float, float]:
        """Lowest and highest value of a decoded pixel: the range of the output, or that of the data if it has none.

        Raises:
            ModelError: neither has a range.
        """
        bounds = self.output_range or self.data_range
        if bounds is None:
            raise ModelError("data has no range", got=str(self.data), do="state the data_range of the contract")
        return bounds

    @property
    def is_plain(self) -> bool:
        """Whether version 1 of the format can express this contract: images of one size, one Gaussian latent."""
        if isinstance(self.latent_shape, Mapping) or self.data_range is None or len(self.data_shape) != 3:
            return False
        plain = Contract(self.data_shape, self.latent_shape, self.data_range, self.likelihood)
        return self == plain and not self.symbols

    @property
    def max_batch(self) -> int | None:
        """The largest number of rows that the graphs take at a time, or None."""
        return self.symbols[BATCH].high if BATCH in self.symbols else None

    @property
    def free_symbols(self) -> dict[str, Symbol]:
        """The symbols of sizes, without the batch."""
        return {name: symbol for name, symbol in self.symbols.items() if name != BATCH}

    def at(self, values: Mapping[str, int] | None = None) -> Contract:
        """Return the contract with its sizes in numbers; the batch stays free.

        Args:
            values: values of symbols; each symbol that is not given takes its usual value.
        """
        if not self.free_symbols:
            return self
        known = {name: symbol.usual_value for name, symbol in self.free_symbols.items()} | dict(values or {})
        return self._with_shapes(known)

    def sizes(self, chosen: Mapping[str, int]) -> dict[str, int]:
        """Return a value for each free symbol: the chosen one, or the usual one.

        Args:
            chosen: values of symbols.

        Raises:
            UsageError: there is no such symbol, or a value is out of its bounds.
        """
        sizes = {name: symbol.usual_value for name, symbol in self.free_symbols.items()}
        for name, value in chosen.items():
            if name not in sizes:
                expected = " | ".join(sizes) or "no --size: all sizes are fixed"
                raise UsageError("unknown size", expected=expected, got=name)
            if not (symbol := self.symbols[name]).allows(value):
                raise UsageError("size out of bounds", where=name, expected=symbol.bounds, got=value)
        return sizes | dict(chosen)

    def fixed(self, values: Mapping[str, int]) -> Contract:
        """Return the contract with these symbols replaced by numbers, where a graph cannot leave them free."""
        sizes = {name: value for name, value in values.items() if name != BATCH}
        contract = self._with_shapes(sizes) if sizes else self
        return contract.narrowed({BATCH: Symbol(values[BATCH], values[BATCH])}) if BATCH in values else contract

    def narrowed(self, bounds: Mapping[str, Symbol]) -> Contract:
        """Return the contract with narrower bounds of symbols."""
        return replace(self, symbols={**self.symbols, **bounds})

    def is_narrowing_of(self, other: Contract) -> bool:
        """Whether this is the other contract, perhaps with narrower bounds of symbols and with symbols fixed."""
        fixed = self._fixed_symbols_of(other)
        if fixed is None:
            return False
        bounds = {name: Symbol(value, value) for name, value in fixed.items()} | dict(self.symbols)
        within = all(
            wide.low <= symbol.low and (symbol.high or math.inf) <= (wide.high or math.inf)
            for name, symbol in bounds.items()
            for wide in [other.symbols.get(name, Symbol())]
        )
        if not within:
            return False
        narrowed = other.fixed(fixed)
        return narrowed.free_symbols.keys() == self.free_symbols.keys() and self == narrowed.narrowed(self.symbols)

    def _fixed_symbols_of(self, other: Contract) -> dict[str, int] | None:
        """Return the values of another contract's symbols where this has numbers; None if no value gives a number."""
        values: dict[str, int] = {}
        for mine, theirs in zip(self._shapes, other._shapes, strict=False):
            for size, symbolic in zip(mine, theirs, strict=False):
                if isinstance(size, int) and isinstance(symbolic, str):
                    expression = Expression.parse(symbolic)
                    value = expression.solve(size)
                    if value is None or value < 1:
                        return None
                    values[expression.symbol] = value
        return values

    @property
    def _shapes(self) -> list[Shape]:
        """The shapes of all inputs and outputs of `PARTS`, with the batch axis."""
        specs = map(self.spec, PARTS)
        return [tensor.shape for spec in specs for tensor in (*spec.inputs, *spec.outputs)]

    def _with_shapes(self, values: Mapping[str, int]) -> Contract:
        latent = self.latent_shape
        return replace(
            self,
            data_shape=sizes_at(self.data_shape, values),
            latent_shape=(
                {name: sizes_at(shape, values) for name, shape in latent.items()}
                if isinstance(latent, Mapping)
                else sizes_at(latent, values)
            ),
            output_shape=None if self.output_shape is None else sizes_at(self.output_shape, values),
            conditions=tuple(replace(item, shape=sizes_at(item.shape, values)) for item in self.conditions),
            symbols={name: symbol for name, symbol in self.symbols.items() if name not in values},
        )

    def spec(self, part: Part) -> PartSpec:
        """Return the inputs and outputs of a part; raise `ModelError` for an unknown part."""
        if part not in EVERY_PART:
            raise ModelError("unknown part", expected=" | ".join(EVERY_PART), got=part)
        specs = cast(dict[Part, PartSpec], vars(self)["_specs"])
        if part not in specs:
            specs[part] = self._make_spec(part)
        return specs[part]

    def _make_spec(self, part: Part) -> PartSpec:
        inputs: tuple[TensorSpec, ...] = (self.data,)
        outputs = self._encoded
        if float_part(part) == "decoder":
            inputs, outputs = self.latents, (self.output, *self._spread(self.output.name))
        elif part == "autoencoder":
            drawn = self.latents if self.encoding == "gaussian" else ()
            if drawn:
                inputs = (*inputs, *self._per_latent("noise", "noise"))
            reconstruction = replace(self.output, name="reconstruction")
            outputs = (reconstruction, *outputs, *drawn, *self._spread("reconstruction"))
        if part in PIXELS.values():
            channels, *sizes = self.output.item
            item = (*sizes, channels) if part == PIXELS["uint8-hwc"] else self.output.item
            outputs = (TensorSpec("pixels", item, 0, MAX_LEVEL, "uint8", batch=self._batch),)
        for condition in self.conditions:
            if part == "autoencoder" or float_part(part) in condition.parts:
                inputs = (*inputs, replace(condition.tensor, batch=self._batch))
        return PartSpec(part, inputs, outputs, self.symbols)

    @property
    def _batch(self) -> Size:
        """The batch axis: N, or a number where it is fixed."""
        symbol = self.symbols.get(BATCH)
        return symbol.low if symbol is not None and symbol.is_fixed else BATCH

    def _tensor(
        self,
        name: str,
        item: Shape,
        role: Role,
        bounds: tuple[float, float] | None = None,
        dtype: Dtype = "float32",
    ) -> TensorSpec:
        low, high = (-math.inf, math.inf) if bounds is None else bounds
        return TensorSpec(name, item, low, high, dtype, role, self._batch)

    @property
    def _encoded(self) -> tuple[TensorSpec, ...]:
        """The outputs of the encoder: mean and logvar of each latent, or the latents or codes themselves."""
        if self.encoding != "gaussian":
            return self.latents
        pairs = zip(self._per_latent("mean", "statistic"), self._per_latent("logvar", "statistic"), strict=True)
        return tuple(tensor for pair in pairs for tensor in pair)

    def _per_latent(self, name: str, role: Role) -> tuple[TensorSpec, ...]:
        """Return a tensor of the shape of each latent: "mean", or "latent1_mean" where there are several latents."""
        alone = not isinstance(self.latent_shape, Mapping)
        return tuple(
            replace(latent, name=name if alone else f"{latent.name}_{name}", role=role) for latent in self.latents
        )

    def _spread(self, name: str) -> tuple[TensorSpec, ...]:
        """Return the decoder's second output, with one number for each value, or () if the likelihood has none."""
        if self.likelihood is None or self.likelihood.spread is None:
            return ()
        return (self._tensor(f"{name}_{self.likelihood.spread}", self.output.item, "statistic"),)

    def to_json(self) -> dict[str, Any]:
        """Return the contract for a manifest: in the first version of the format if that can express it."""
        likelihood = None if self.likelihood is None else self.likelihood.to_json()
        if self.is_plain:
            return {
                "image_shape": list(self.data_shape),
                "image_range": list(self.data_range or ()),
                "latent_shape": list(cast(Shape, self.latent_shape)),
                "prior": self.prior,
                "likelihood": likelihood,
            }
        return {
            "data": self.data.to_json(),
            "output": None if self.output_shape is None else self.output.to_json(),
            "latents": [latent.to_json() for latent in self.latents],
            "conditions": [item.tensor.to_json() | {"parts": list(item.parts)} for item in self.conditions],
            "encoding": self.encoding,
            "prior": self.prior,
            "symbols": {name: symbol.to_json() for name, symbol in self.symbols.items()},
            "likelihood": likelihood,
            "scaling_factor": self.scaling_factor,
            "shift_factor": self.shift_factor,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Contract:
        """Return the contract that `to_json` wrote; raise `ModelError` for any other document."""
        try:
            stated = data.get("likelihood")  # the first versions wrote no likelihood
            likelihood = None if stated is None else Likelihood.from_json(stated)
            if "data" in data:
                return cls._from_second_version(data, likelihood)
            if data["prior"] != NORMAL:
                raise ValueError(f"prior is {data['prior']!r}, not {NORMAL!r}")
            low, high = data["image_range"]
            if not all(type(bound) in (int, float) for bound in (low, high)):
                raise ValueError(f"image_range is {data['image_range']!r}")
            for shape in (data["image_shape"], data["latent_shape"]):
                if not all(type(size) is int for size in shape):
                    raise ValueError(f"shape is {shape!r}")
            if len(data["image_shape"]) != 3:
                raise ValueError(f"image_shape is {data['image_shape']!r}")
            return cls(data["image_shape"], data["latent_shape"], (float(low), float(high)), likelihood)
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
            raise ModelError("contract cannot be read", got=repr(error)) from error

    @classmethod
    def _from_second_version(cls, data: Mapping[str, Any], likelihood: Likelihood | None) -> Contract:
        tensor, output = TensorSpec.from_json(data["data"], "data"), data["output"]
        latents = [TensorSpec.from_json(item, "latent") for item in data["latents"]]
        codebook = latents[0] if data["encoding"] == "codes" else None
        symbols = {name: Symbol(item["min"], item["max"], item["usual"]) for name, item in data["symbols"].items()}
        conditions = []
        for item in data["conditions"]:
            found = TensorSpec.from_json(item, "condition")
            conditions.append(
                Condition(found.name, found.item, found.dtype, found.low, found.high, tuple(item["parts"]))
            )
        decoded = None if output is None else TensorSpec.from_json(output, "data")
        contract = cls(
            tensor.item,
            {latent.name: latent.item for latent in latents},
            (tensor.low, tensor.high) if tensor.is_bounded else None,
            likelihood,
            data_name=tensor.name,
            data_dtype=tensor.dtype,
            output_shape=None if decoded is None else decoded.item,
            output_range=(decoded.low, decoded.high) if decoded is not None and decoded.is_bounded else None,
            encoding=data["encoding"],
            codebook_size=None if codebook is None else int(codebook.high) + 1,
            code_dtype="int64" if codebook is None else codebook.dtype,
            conditions=tuple(conditions),
            prior=data["prior"],
            symbols=symbols,
            scaling_factor=float(data["scaling_factor"]),
            shift_factor=float(data["shift_factor"]),
        )
        expected = contract.to_json()
        if "likelihood" not in data:
            del expected["likelihood"]
        if not has_values(data, expected):
            raise ValueError("contract is not written in its canonical form")
        return contract


def check_integers(contract: Mapping[str, Any]) -> None:
    """Check the types of a contract of the second version, as docs/bundle-format.md, section 3, states them.

    `Contract.from_json` compares values, and 8.0 is equal to 8.

    Raises:
        ValueError: a size or a bound is no whole number below 2^53, integers have a range of fractions or beyond 2^53,
            the codes are no integers or more than 2^32, or there is no latent.
        LookupError, TypeError: a key is missing or has another type.
    """
    output = contract["output"]
    tensors = [contract["data"], *([] if output is None else [output]), *contract["latents"], *contract["conditions"]]
    sizes = [size for tensor in tensors for size in tensor["shape"] if not isinstance(size, str)]
    bounds = [item[key] for item in contract["symbols"].values() for key in ("min", "max", "usual")]
    for value in [*sizes, *(bound for bound in bounds if bound is not None)]:
        if type(value) is not int or not 0 < value < 1 << 53:
            raise ValueError(f"size or bound is {value!r}")
    ranges = [bound for tensor in tensors if tensor["dtype"] != "float32" for bound in tensor["range"]]
    if not all(float(bound).is_integer() and abs(bound) < 1 << 53 for bound in ranges):
        raise ValueError(f"range of integers is {ranges}")
    if not contract["latents"]:
        raise ValueError("there are no latents")
    for latent in contract["latents"] if contract["encoding"] == "codes" else ():
        if latent["dtype"] not in ("int32", "int64") or not 0 <= latent["range"][1] < MOST_INTEGERS:
            raise ValueError(f"codes are {latent['dtype']} in {latent['range']}")
