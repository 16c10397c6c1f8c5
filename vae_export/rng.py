"""Standard normal numbers and codes with equal bits in every language, as docs/bundle-format.md, section 6, specifies.

Random words come from Philox 4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC'11). Philox is a
function of a counter, so that each row can be computed alone and in any order. NumPy has only Philox 4x64. Wichura's
AS 241 turns the words into normal numbers. Its logarithm is computed here with +, -, ×, / and square root only, because
IEEE 754 fixes the rounding of those operations, and no library fixes the rounding of its `log`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex, TypeVar

import numpy as np
import numpy.typing as npt

from vae_export.errors import UsageError


def check_integer(
    what: str, value: SupportsIndex, least: int, most: int | None = None, *, range_text: str | None = None
) -> int:
    """Check an integer of Python or NumPy, and return it as a Python int.

    Args:
        what: the name of the value, for the message "bad WHAT".
        value: the value from the caller.
        least: the smallest allowed number.
        most: the largest allowed number; None for no limit.
        range_text: a text for the range in the message, for example "0 to 2^64 - 1".

    Returns:
        The value as an int.

    Raises:
        UsageError: the value is out of range, or is not an integer; True and False are not integers here.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least or (most is not None and number > most):
        end = "up" if most is None else f"to {most:,}"
        raise UsageError(f"bad {what}", expected=f"an integer from {range_text or f'{least} {end}'}", got=value)
    return number


Words = npt.NDArray[np.uint32]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Number = TypeVar("Number", np.float32, np.int64)

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
#: Number of values that are computed at a time, so that the intermediate values fit into the cache of a core.
_CHUNK = 1 << 14

# Coefficients of AS 241 (PPND16), highest power first.
_A = (
    2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457,
    13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608,
)  # fmt: skip
_B = (
    5226.495278852854561, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867,
    5394.1960214247511077, 687.1870074920579083, 42.313330701600911252, 1.0,
)  # fmt: skip
_C = (
    7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258,
    3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734,
)  # fmt: skip
_D = (
    1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
    0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1.0,
)  # fmt: skip
#: The coefficients of z^11 … z^0 in atanh(s) / s, where z = s².
_ATANH = tuple(1 / odd for odd in range(23, 0, -2))
_LN2 = 0.6931471805599453


def sample(shape: Sequence[int], seed: int, *, start: int = 0) -> Float32:
    """Draw standard normal numbers.

    Args:
        shape: the shape of the result, rows first.
        seed: 0 to 2^64 - 1.
        start: index of the first row in the sequence of this seed.

    Returns:
        float32 of this shape, row-major.

    Raises:
        UsageError: the seed or the number of rows is out of range.
    """
    return _draw(shape, seed, start, normal, np.float32)


def sample_codes(shape: Sequence[int], count: int, seed: int, *, start: int = 0) -> npt.NDArray[np.int64]:
    """Draw integers from 0 to count - 1: floor(word · count / 2^32) for each random word.

    Args:
        shape: the shape of the result, rows first.
        count: number of different codes, 1 to 2^32.
        seed: 0 to 2^64 - 1.
        start: index of the first row in the sequence of this seed.

    Returns:
        int64 of this shape, row-major.

    Raises:
        UsageError: the seed, the count or the number of rows is out of range.
    """
    factor = np.uint64(check_integer("number of codes", count, 1, 1 << 32))
    return _draw(shape, seed, start, lambda words: (words.astype(np.uint64) * factor) >> _HALF, np.int64)


def _draw(
    shape: Sequence[int], seed: int, start: int, transform: Callable[[Words], npt.NDArray[Any]], dtype: type[Number]
) -> npt.NDArray[Number]:
    """Return the transform of the words of these rows, in the sequence of the seed."""
    seed = check_seed(seed)
    start, *shape = (check_integer("number of rows", size, 0) for size in (start, *shape))
    row = math.prod(shape[1:])
    first, count = start * row, math.prod(shape)
    if first + count > 1 << 66:  # two words of the counter
        raise UsageError("too many rows", expected=f"{(1 << 66) // max(row, 1):,} at most", got=start + shape[0])
    numbers = np.empty(count, dtype)
    for begin in range(0, count, _CHUNK):
        end = min(begin + _CHUNK, count)
        numbers[begin:end] = transform(philox_words(first + begin, end - begin, seed))
    return numbers.reshape(shape)


def check_seed(seed: int) -> int:
    """Return `seed` as an int; raise `UsageError` unless it is an integer from 0 to 2^64 - 1."""
    return check_integer("seed", seed, 0, (1 << 64) - 1, range_text="0 to 2^64 - 1")


def philox_words(first: int, count: int, seed: int) -> Words:
    """Return a section of the sequence of random words of a seed.

    Args:
        first: index of the first word, 0 to 2^66 - 1.
        count: number of words.
        seed: 0 to 2^64 - 1.

    Returns:
        The words, uint32 (count,).
    """
    block, skipped = divmod(first, 4)
    blocks = (skipped + count + 3) // 4
    counter = np.zeros((4, blocks), np.uint64)
    index = np.arange(block, block + blocks, dtype=np.uint64)
    counter[0], counter[1] = index & _LOW, index >> _HALF
    made: Words = philox(counter, (seed & 0xFFFFFFFF, seed >> 32)).T.reshape(-1)[skipped : skipped + count]
    return made


def philox(counter: npt.NDArray[np.uint64], key: tuple[int, int]) -> Words:
    """Apply Philox 4x32-10 to counters.

    Args:
        counter: counters (4, M), each element a 32-bit number.
        key: two 32-bit numbers.

    Returns:
        Words, uint32 (4, M).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    m0, m1 = map(np.uint64, _MULTIPLIERS)
    for _ in range(_ROUNDS):
        p0, p1 = m0 * c0, m1 * c2
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ np.uint64(k0), p1 & _LOW, (p0 >> _HALF) ^ c3 ^ np.uint64(k1), p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3]).astype(np.uint32)


def normal(word: Words) -> Float32:
    """Convert words (M,) uint32 to standard normal numbers (M,) float32 by the inverse distribution function."""
    p = (word.astype(np.float64) + 0.5) / 4294967296.0
    q = p - 0.5
    r = 0.180625 - q * q
    numbers = (q * _horner(_A, r)) / _horner(_B, r)
    tail = np.flatnonzero(np.abs(q) > 0.425)
    if len(tail):
        below = q[tail] < 0
        r = np.sqrt(-_ln(np.where(below, p[tail], 1 - p[tail]))) - 1.6
        x = _horner(_C, r) / _horner(_D, r)
        numbers[tail] = np.where(below, -x, x)
    return numbers.astype(np.float32)


def _ln(x: Float64) -> Float64:
    """Compute the natural logarithm of numbers below 1/sqrt(2) with operations whose rounding IEEE 754 fixes."""
    mantissa, exponent = np.frexp(x)  # exact: x = mantissa · 2^exponent, 0.5 <= mantissa < 1
    small = mantissa < 0.7071067811865476
    mantissa, doublings = np.where(small, 2 * mantissa, mantissa), np.where(small, 1, 0) - exponent
    s = (mantissa - 1) / (mantissa + 1)
    logarithm: Float64 = (2 * s) * _horner(_ATANH, s * s) - doublings * _LN2
    return logarithm


def _horner(coefficients: Sequence[float], x: Float64) -> Float64:
    total = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total *= x
        total += coefficient
    return total
