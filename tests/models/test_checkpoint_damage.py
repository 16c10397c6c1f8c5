"""A file that was damaged is refused, and offers the one before it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vae_export import load_checkpoint
from vae_export.errors import CheckpointError, InputError, IntegrityError
from vae_export.runs import Run


@given(st.integers(0, 10**9), st.integers(0, 7))
@example(7, 7)  # the length of the header
@example(8, 0)
@example(-1, 0)
def test_flipped_bit_is_refused(
    tmp_path_factory: pytest.TempPathFactory, small_bytes: bytes, position: int, bit: int
) -> None:
    data = bytearray(small_bytes)
    data[position % len(data)] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "flipped"
    path.write_bytes(data)
    with pytest.raises((InputError, IntegrityError)) as caught:
        load_checkpoint(path)
    assert caught.value.exit_code in (3, 4)
    assert "\n" not in str(caught.value)


def test_flipped_bit_in_the_header_is_refused(tmp_path: Path, small_bytes: bytes) -> None:
    """Each bit of it: 1e-7 turned into 1E-7, or \\u00e9 into \\u00E9, reads the same and still is another file."""
    path = tmp_path / "flipped"
    length = struct.unpack("<Q", small_bytes[:8])[0]
    assert b"1.25e-07" in small_bytes[: 8 + length]
    assert b"u00e9" in small_bytes[: 8 + length]
    for position in range(8 + length):
        for bit in range(8) if position % 11 == 0 else (5,):
            data = bytearray(small_bytes)
            data[position] ^= 1 << bit
            path.write_bytes(data)
            with pytest.raises((InputError, IntegrityError)):
                load_checkpoint(path)


@given(st.integers(0, 10**9))
def test_truncated_file_is_refused(tmp_path_factory: pytest.TempPathFactory, small_bytes: bytes, length: int) -> None:
    path = tmp_path_factory.getbasetemp() / "truncated"
    path.write_bytes(small_bytes[: length % len(small_bytes)])
    with pytest.raises(CheckpointError, match="checkpoint cannot be read: .*expected a checkpoint of"):
        load_checkpoint(path)


def test_longer_file_is_refused(tmp_path: Path, small_bytes: bytes) -> None:
    (tmp_path / "longer").write_bytes(small_bytes + b"\0")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / "longer")


def test_damaged_checkpoint_error_names_the_previous_one(tmp_path: Path, small_bytes: bytes) -> None:
    run = Run(tmp_path)
    run.state.mkdir()
    run.previous_checkpoint.write_bytes(small_bytes)
    run.checkpoint.write_bytes(small_bytes[:1000])
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(run.checkpoint)
    assert str(caught.value).endswith(f"the one before it is {run.previous_checkpoint}")
    load_checkpoint(run.previous_checkpoint)
