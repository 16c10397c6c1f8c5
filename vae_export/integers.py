"""Whole numbers that callers give: Python's own or NumPy's, in range, or an error that says what was expected."""

from __future__ import annotations

import operator
from typing import SupportsIndex

from vae_export.errors import UsageError


def integer(what: str, value: SupportsIndex, least: int, most: int | None = None, *, words: str | None = None) -> int:
    """`value` as Python's integer.

    Args:
        what: is given, for the message: "bad WHAT".
        least, most: its range; without `most` there is no end.
        words: of the range, where figures are hard to read.

    Raises `UsageError` for anything else, True and False among it.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least or (most is not None and number > most):
        end = "up" if most is None else f"to {most:,}"
        raise UsageError(f"bad {what}", expected=f"an integer from {words or f'{least} {end}'}", got=value)
    return number
