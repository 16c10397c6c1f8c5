"""Conditions of a call: an array with a row for each row of data, or one value for all rows."""

from __future__ import annotations

import operator

import numpy as np

from vae_export.contract import Array
from vae_export.errors import ModelError
from vae_export.tensors import TensorSpec


def condition_rows(tensor: TensorSpec, value: object, rows: int) -> object:
    """Return a condition with one row for each row of data.

    Args:
        tensor: name, dtype and shape of the condition.
        value: an array (N, *item), which is returned as it is; or one row for all: an array (*item), or a number where
            a row is one number.
        rows: the number of rows.

    Returns:
        An array (rows, *item), read-only where one row stands for all; or a value that the contract's check refuses.

    Raises:
        ModelError: a number that the dtype cannot hold.
    """
    if isinstance(value, np.ndarray) and value.ndim:
        return np.broadcast_to(value, (rows, *value.shape)) if value.ndim == len(tensor.item) else value
    if tensor.item or not isinstance(value, int | float | np.number | np.ndarray):
        return value
    return np.broadcast_to(_number(tensor, value), (rows,))


def _number(tensor: TensorSpec, value: object) -> Array:
    try:
        number = operator.index(value) if tensor.is_integer else float(value)  # type: ignore[arg-type]
        return np.asarray(number, tensor.dtype)
    except (TypeError, OverflowError) as error:
        where = f"tensor '{tensor.name}'"
        raise ModelError("wrong number", where=where, expected=tensor.dtype, got=repr(value)) from error
