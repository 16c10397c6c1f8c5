"""The noise is what docs/bundle-format.md says: its test vectors are read from there."""

from __future__ import annotations

import math
import re
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.commands import ROOT
from vae_export.errors import UsageError
from vae_export.rng import normal, philox, philox_words, sample, sample_codes

SPECIFICATION = Path(ROOT, "docs/bundle-format.md").read_text("utf-8").partition("### Test vectors")[2]
HEX4, HEX2 = r"`((?:[0-9a-f]{8} ?){4})`", r"`((?:[0-9a-f]{8} ?){2})`"
PHILOX = re.findall(rf"\| {HEX4} \| {HEX2} \| {HEX4} \|", SPECIFICATION)
NORMAL = re.findall(r"\| `([0-9a-f]{8})` \| (\S+) \| `([0-9a-f]{8})` \|", SPECIFICATION)
SAMPLES = re.findall(rf"\| Z = (\d+), seed (\d+), from row (\d+) on \| (.*?) \| {HEX4} \|", SPECIFICATION)

CODES = re.findall(r"\| K = (\d+), Z = (\d+), seed (\d+), from row (\d+) on \| (.*?) \|", SPECIFICATION)


def bits(values: np.ndarray) -> str:
    return " ".join(f"{word:08x}" for word in values.view(np.uint32))


def test_specification_has_vectors_of_each_kind() -> None:
    assert (len(PHILOX), len(NORMAL), len(SAMPLES), len(CODES)) == (3, 13, 5, 3)


@pytest.mark.parametrize(("counter", "key", "expected"), PHILOX)
def test_words_are_those_of_random123(counter: str, key: str, expected: str) -> None:
    state = np.array([int(word, 16) for word in counter.split()], np.uint64).reshape(4, 1)
    low, high = (int(word, 16) for word in key.split())
    assert bits(philox(state, (low, high)).ravel()) == expected


@pytest.mark.parametrize(("word", "shown", "expected"), NORMAL)
def test_normal_numbers_are_those_of_the_specification(word: str, shown: str, expected: str) -> None:
    value = normal(np.array([int(word, 16)], np.uint32))
    assert bits(value) == expected
    assert np.float32(shown) == value[0]


@pytest.mark.parametrize(("size", "seed", "row", "shown", "expected"), SAMPLES)
def test_samples_are_those_of_the_specification(size: str, seed: str, row: str, shown: str, expected: str) -> None:
    values = sample((4, int(size)), int(seed), start=int(row)).ravel()[:4]
    assert bits(values) == expected
    assert [np.float32(text) for text in shown.split(", ")] == values.tolist()


@pytest.mark.parametrize(("count", "size", "seed", "row", "shown"), CODES)
def test_codes_are_those_of_the_specification(count: str, size: str, seed: str, row: str, shown: str) -> None:
    codes = sample_codes((1, int(size)), int(count), int(seed), start=int(row))
    assert codes.dtype == np.int64
    assert codes.ravel().tolist() == [int(text) for text in shown.split(", ")]


def test_codes_are_equally_likely_and_do_not_depend_on_start() -> None:
    codes = sample_codes((40_000, 3), 5, 1)
    assert sample_codes((7, 3), 5, 1, start=39_993).tobytes() == codes[-7:].tobytes()
    counts = np.bincount(codes.ravel())
    assert len(counts) == 5
    assert np.abs(counts / codes.size - 0.2).max() < 0.005
    assert sample_codes((2, 2), 2**32, 0).ravel().tolist() == philox_words(0, 4, 0).tolist()
    with pytest.raises(UsageError, match="bad number of codes; expected an integer from 1 to 4,294,967,296, got 0"):
        sample_codes((1, 1), 0, 0)


@given(st.integers(0, 2**32 - 1))
def test_transform_inverts_normal_distribution(word: int) -> None:
    """Held against Python's own, which has another logarithm: at most one float32 apart."""
    exact = NormalDist().inv_cdf((word + 0.5) / 2**32)
    value = float(normal(np.array([word], np.uint32))[0])
    assert abs(value - exact) <= float(np.spacing(np.float32(abs(exact))))
    assert abs(value) < 6.34


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.integers(1, 9), st.integers(1, 9), st.integers(1, 7))
def test_rows_are_the_same_wherever_they_are_drawn(seed: int, start: int, skipped: int, rows: int, size: int) -> None:
    whole = sample((skipped + rows, size), seed, start=start)
    assert whole[skipped:].tobytes() == sample((rows, size), seed, start=start + skipped).tobytes()


def test_last_row_of_the_counter_is_drawn() -> None:
    last = philox_words(2**66 - 3, 3, 7)
    counter = np.array([[2**32 - 1], [2**32 - 1], [0], [0]], np.uint64)
    assert last.tolist() == philox(counter, (7, 0)).ravel()[1:].tolist()
    with pytest.raises(UsageError, match="too many rows"):
        sample((2, 1), 0, start=2**66 - 1)


def test_shape_of_several_axes_is_row_major() -> None:
    assert sample((3, 2, 2, 2), 5).tobytes() == sample((3, 8), 5).tobytes()


def test_many_numbers_are_standard_normal() -> None:
    numbers = np.sort(sample((100_000, 2), 0).ravel().astype(np.float64))
    # Kolmogorov and Smirnov: 1.95 / sqrt(n) is exceeded by chance once in a thousand, and the seed is fixed.
    distribution = np.array([0.5 * (1 + math.erf(x / math.sqrt(2))) for x in numbers[::100]])
    assert np.abs(distribution - np.arange(len(numbers))[::100] / len(numbers)).max() < 1.95 / math.sqrt(len(numbers))
    assert abs(np.corrcoef(sample((100_000, 2), 1).T)[0, 1]) < 0.01


def test_seeds_are_streams_of_their_own() -> None:
    one, other = (sample((1000,), seed) for seed in (0, 1))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.1
    assert sample((4,), 2**32).tolist() != sample((4,), 0).tolist()


@pytest.mark.parametrize("seed", [-1, 2**64, 0.0, "0", None, True])
def test_bad_seed_is_refused(seed: object) -> None:
    with pytest.raises(UsageError, match=r"bad seed; expected an integer from 0 to 2\^64 - 1"):
        sample((1, 1), seed)  # type: ignore[arg-type]
