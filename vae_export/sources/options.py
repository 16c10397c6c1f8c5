"""Options about a model beside its name: shapes, ranges, conditions and weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vae_export.contract import Array, Condition
from vae_export.errors import UsageError, VaeExportError
from vae_export.tensors import Dtype, Shape, as_shape

#: How a range without bounds is written.
UNBOUNDED = "none"


@dataclass(frozen=True)
class ModelOptions:
    """The facts that a user states about a model; None and empty values are inferred.

    Attributes:
        weights: files of weights by the part that they hold, "" for files of all parts.
        weights_key: the entry of a file of weights to read, such as "ema"; a dotted path.
        data_shape: the shape of one row of the data, in numbers or expressions.
        latent_shape: the shape of one row of the latent; of several latents, the shapes by name.
        data_range: lowest and highest value; (-inf, inf) for data without a range.
        encoder_outputs: what the encoder returns, in order; see `vae_export.sources.module_outputs.MEANINGS`.
        decoder_output: the path of the data in what the decoder returns, such as "0"; see
            `vae_export.sources.module_outputs.follow_path`.
        conditions: further inputs.
        codebook_size: the number of codes of a model that gives codes.
        tokens: K of data that is integers of 0 to K - 1, such as tokens of text; None for floats.
        images: real data to verify with, as `Source.images`.
    """

    weights: Mapping[str, str] | None = None
    weights_key: str | None = None
    data_shape: Shape | None = None
    latent_shape: Shape | Mapping[str, Shape] | None = None
    data_range: tuple[float, float] | None = None
    encoder_outputs: tuple[str, ...] | None = None
    decoder_output: str | None = None
    conditions: tuple[Condition, ...] = ()
    codebook_size: int | None = None
    tokens: int | None = None
    images: Array | None = None

    @property
    def latents(self) -> int:
        """The number of latents, as far as it is stated."""
        return len(self.latent_shape) if isinstance(self.latent_shape, Mapping) else 1

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The stated range as `Contract.data_range` has it: None without bounds."""
        return None if self.data_range is None or math.inf in self.data_range else self.data_range


def parse_shape(text: str, option: str) -> Shape:
    """Return a shape that is written as 3x64x64 or 3x8*hx8*w; raise `UsageError` for any other text.

    Args:
        text: the sizes with x between them. The letter x is no name of a symbol.
        option: the option that it comes from.
    """
    sizes = [int(size) if size.isdecimal() else size for size in re.split(r"\s*[x×,]\s*", text.strip())]
    try:
        return as_shape(sizes, option)
    except VaeExportError as error:
        expected = "sizes with x between them, such as 3x64x64 or 3x8*hx8*w"
        raise UsageError("bad shape", where=option, expected=expected, got=text) from error


def parse_latents(text: str) -> Shape | dict[str, Shape]:
    """Return the shape of a latent, or of several by name, written as z1=8,z2=4x4x4; raise `UsageError` otherwise."""
    if "=" not in text:
        return parse_shape(text, "--latent-shape")
    found: dict[str, Shape] = {}
    for item in re.split(r"[,;\s]+(?=\w+\s*=)", text.strip()):
        name, _, shape = item.partition("=")
        if not name.strip().isidentifier() or name.strip() in found:
            expected = "different names with shapes, such as z1=8,z2=4x4x4"
            raise UsageError("bad shape", where="--latent-shape", expected=expected, got=text)
        found[name.strip()] = parse_shape(shape, "--latent-shape")
    return found


def parse_range(text: str) -> tuple[float, float]:
    """Return a range that is written as 0,1 or -1,1 or none; raise `UsageError` for any other text."""
    if text.strip().lower() == UNBOUNDED:
        return -math.inf, math.inf
    try:
        low, high = (float(number) for number in re.split(r"[,:]", text))
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        expected = f"two numbers such as 0,1 or -1,1, or {UNBOUNDED}"
        raise UsageError("bad range", where="--data-range", expected=expected, got=text)
    return low, high


def parse_condition(text: str) -> Condition:
    """Return a condition that is written as NAME:DTYPE:CLASSES, NAME:DTYPE:LOW..HIGH or NAME:float32:SHAPE.

    Args:
        text: label:int64:10 for integers of 0 to 9, one a row; label:int64:1..10 for integers of 1 to 10;
            label:int64:10:4x4 for a map of them; label:float32:10 for ten numbers a row; label:float32 for one.

    Raises:
        UsageError: the text is neither.
    """
    name, *rest = text.split(":")
    dtype = rest[0] if rest else ""
    try:
        if dtype in ("int64", "int32") and len(rest) in (2, 3):
            shape = parse_shape(rest[2], "--condition") if len(rest) == 3 else ()
            integers: Dtype = "int64" if dtype == "int64" else "int32"
            low, high = _integer_range(rest[1])
            return Condition(name, shape, integers, low, high)
        if dtype == "float32" and len(rest) in (1, 2):
            return Condition(name, parse_shape(rest[1], "--condition") if len(rest) == 2 else ())
    except (ValueError, VaeExportError) as error:
        raise UsageError("bad condition", where="--condition", got=text, do=str(error)) from error
    expected = "NAME:int64:CLASSES, NAME:int64:LOW..HIGH or NAME:float32:SHAPE, such as label:int64:10"
    raise UsageError("bad condition", where="--condition", expected=expected, got=text)


def _integer_range(text: str) -> tuple[int, int]:
    """Return the lowest and the highest of integers, written as their number or as LOW..HIGH."""
    low, dots, high = text.partition("..")
    return (int(low), int(high)) if dots else (0, int(text) - 1)


def parse_weights(texts: Sequence[str]) -> dict[str, str]:
    """Return files by the part that they hold, "" for all: FILE, or encoder=FILE and decoder=FILE."""
    found: dict[str, str] = {}
    for text in texts:
        part, _, file = text.rpartition("=")
        if part not in ("", "encoder", "decoder"):
            part, file = "", text  # a file whose name has a =
        if part in found:
            raise UsageError("two files of weights for one part", where="--weights", got=part or "all parts")
        found[part] = file
    return found
