"""The inputs of a task: rows of data or latents, further latents, and conditions, each with its own reader."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vae_export.contract import Array, Condition, Contract
from vae_export.errors import DataError, UsageError
from vae_export.pipeline.readers import PriorReader, Reader, open_array, open_images, open_latents
from vae_export.pipeline.readers.open import ARRAYS
from vae_export.tensors import TensorSpec, sizes_at


@dataclass(frozen=True)
class Inputs:
    """The inputs of a task.

    Attributes:
        reader: the rows of the first input: data, a latent or codes.
        others: the rows of further latents and of conditions, by name.
        sizes: values of the contract's symbols, which all rows have.
    """

    reader: Reader
    others: Mapping[str, Reader] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ConditionOptions:
    """The conditions of a command: for each name a number or numbers for all rows, or the path of an array of rows."""

    values: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, options: Sequence[str]) -> ConditionOptions:
        """Parse options such as "label=3", "style=0.5,-1" and "label=labels.npy"; raise `UsageError` for others."""
        return cls(dict(_pair(option, "--condition", "NAME=VALUE, such as label=3") for option in options))


def prior_inputs(contract: Contract, rows: int, seed: int, sizes: Mapping[str, int], given: ConditionOptions) -> Inputs:
    """Draw latents from the prior of the contract.

    Args:
        contract: shapes, prior and conditions.
        rows: number of rows.
        seed: 0 to 2^64 - 1.
        sizes: values of symbols; others have their usual value.
        given: the decoder's conditions.

    Raises:
        UsageError: an unknown size, a size out of bounds, or conditions that do not fit.
        ModelError: the prior is given by the user.
    """
    known = contract.sizes(sizes)
    first, *others = (PriorReader(rows, seed, contract.at(known), latent.name) for latent in contract.latents)
    latents = {tensor.name: reader for tensor, reader in zip(contract.latents[1:], others, strict=True)}
    return Inputs(first, latents | _conditions(contract, ("decoder",), given, rows, known), known)


def latent_inputs(contract: Contract, path: Path, name: str | None, given: ConditionOptions) -> Inputs:
    """Open latents or codes.

    Args:
        contract: shapes and conditions.
        path: the file or folder; it holds all latents by name where there are several.
        name: the array, column or files, where there is one latent; None finds it.
        given: the decoder's conditions.

    Raises:
        DataError, MissingExtraError: as for `open_latents`.
        UsageError: conditions that do not fit.
    """
    sizes: dict[str, int] = {}
    if len(contract.latents) > 1:
        if path.suffix == ".npy" or name is not None:
            expected = " and ".join(f"'{latent.name}'" for latent in contract.latents)
            raise UsageError("several latents are needed", where=path, expected=f"an .npz or a folder with {expected}")
        readers = [_latent_by_name(path, latent, sizes) for latent in contract.latents]
    else:
        readers = [open_latents(path, contract.latents[0], field=name, sizes=sizes)]
    first, *others = readers
    latents = dict(zip([latent.name for latent in contract.latents[1:]], others, strict=True))
    return _checked(first, latents | _conditions(contract, ("decoder",), given, first.rows, sizes), sizes)


def data_inputs(
    contract: Contract, path: Path, name: str | None, given: ConditionOptions, parts: Sequence[str], *, fit: bool
) -> Inputs:
    """Open images or other data.

    Args:
        contract: shapes and conditions.
        path: the file or folder.
        name: the array, column or files; None finds it.
        given: the conditions of these parts.
        parts: "encoder", and "decoder" where the data is reconstructed.
        fit: crop, resize and convert image files as needed.

    Raises:
        DataError, MissingExtraError: as for `open_images`.
        UsageError: conditions that do not fit.
    """
    sizes: dict[str, int] = {}
    reader = open_images(path, contract.data, field=name, fit=fit, sizes=sizes)
    return _checked(reader, _conditions(contract, parts, given, reader.rows, sizes), sizes)


class ConstantReader:
    """One row that stands for all rows."""

    def __init__(self, row: Array, rows: int, where: str) -> None:
        self._row, self._where = row, where
        self.rows, self.item, self.dtype = rows, row.shape, row.dtype

    def read(self, start: int, stop: int) -> Array:
        """Return the row for each of the rows start to stop - 1, read-only."""
        return np.broadcast_to(self._row, (stop - start, *self.item))

    def locate(self, row: int) -> str:
        """Return the option, for a message; all rows are the same."""
        return self._where if row >= 0 else ""


def parse_sizes(options: Sequence[str]) -> dict[str, int]:
    """Parse options such as "h=32"; raise `UsageError` for others."""
    pairs = (_pair(option, "--size", "NAME=NUMBER, such as h=32") for option in options)
    sizes = {}
    for name, text in pairs:
        if not text.isdecimal():
            raise UsageError("bad size", where=f"--size {name}={text}", expected="a positive integer")
        sizes[name] = int(text)
    return sizes


def _pair(option: str, where: str, expected: str) -> tuple[str, str]:
    name, sign, value = option.partition("=")
    if not (name and sign and value):
        raise UsageError("bad option", where=where, expected=expected, got=option)
    return name, value


def _latent_by_name(path: Path, latent: TensorSpec, sizes: dict[str, int]) -> Reader:
    """Open a latent by its own name, or by that of its mean, which `encode` writes."""
    try:
        return open_latents(path, latent, field=latent.name, sizes=sizes)
    except DataError as error:
        if error.what != "no such array":
            raise
        return open_latents(path, latent, field=f"{latent.name}_mean", sizes=sizes)


def _checked(reader: Reader, others: Mapping[str, Reader], sizes: Mapping[str, int]) -> Inputs:
    for name, other in others.items():
        if other.rows != reader.rows:
            expected = f"{reader.rows} rows, as in {reader.locate(0)}"
            raise DataError(
                f"'{name}' has another number of rows", where=other.locate(0), expected=expected, got=other.rows
            )
    return Inputs(reader, others, sizes)


def _conditions(
    contract: Contract, parts: Iterable[str], given: ConditionOptions, rows: int, sizes: Mapping[str, int]
) -> dict[str, Reader]:
    """Return a reader for each condition that one of the parts takes; raise `UsageError` if one is missing."""
    needed = {item.name: item for item in contract.conditions if set(parts) & set(item.parts)}
    for name in given.values:
        if name not in needed:
            raise UsageError("unknown condition", expected=" | ".join(needed) or "none", got=name)
    readers: dict[str, Reader] = {}
    for name, condition in needed.items():
        if name not in given.values:
            do = f"pass --condition {name}=VALUE, or an array of rows: --condition {name}=FILE.npy"
            raise UsageError("condition is missing", where=str(condition.tensor), do=do)
        readers[name] = _condition(condition, given.values[name], rows, sizes)
    return readers


def _condition(condition: Condition, text: str, rows: int, sizes: Mapping[str, int]) -> Reader:
    tensor = condition.tensor
    if Path(text).suffix in ARRAYS or Path(text).is_dir():
        return open_array(Path(text).absolute(), tensor, field=None, sizes=dict(sizes))
    where, item = f"--condition {condition.name}={text}", sizes_at(tensor.item, sizes)
    try:
        numbers = [int(part) if tensor.is_integer else float(part) for part in text.split(",")]
        row = np.array(numbers, tensor.dtype).reshape(item)  # type: ignore[arg-type]
        tensor.check(np.ascontiguousarray(row[None]))
    except (ValueError, OverflowError) as error:
        raise UsageError("bad condition", where=where, expected=str(tensor)) from error
    if tensor.out_of_range(row) is not None:
        raise UsageError("condition out of range", where=where, expected=f"{tensor.low:g} to {tensor.high:g}", got=text)
    return ConstantReader(row, rows, where)
