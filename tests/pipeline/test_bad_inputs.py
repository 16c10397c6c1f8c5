"""Damaged, hostile and ambiguous files are refused, with the file and the row."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.pipeline.specs import IMAGE, LATENT, latents
from vae_export.errors import DataError
from vae_export.pipeline.readers import Reader, arrays, open_images, open_latents
from vae_export.pipeline.readers.arrays import NpyReader
from vae_export.pipeline.readers.base import ConcatenatedReader


def npy_header(shape: str, dtype: str = "<f4", *, data: bytes = b"") -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


class Canary:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("unpickled",)


def pickled_canary() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([Canary(), None], dtype=object), allow_pickle=True)
    return stream.getvalue()


def zipped(data: bytes, name: str = "latent.npy") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return stream.getvalue()


def saved(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def latents_with(row: int, value: float, dtype: type = np.float32) -> np.ndarray:
    array = latents().astype(dtype)
    array[row, 2] = value
    return array


def zipped_with_flipped_bit(data: bytes) -> bytes:
    """Return a ZIP file that stores the data, with one bit of it flipped."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("latent.npy", data)
    changed = bytearray(stream.getvalue())
    changed[30 + len("latent.npy") + len(data) - 5] ^= 1
    return bytes(changed)


BAD_LATENTS: list[tuple[str, Callable[[], bytes], str]] = [
    ("a.npy", lambda: b"", r"not a readable .npy file: \S+a\.npy"),
    ("a.npy", lambda: b"\x93NUMPY\x01\x00\xff\xffxxx", "not a readable .npy file"),
    ("a.npy", lambda: b"\x93NUMPY\x09\x00" + bytes(100), "not a readable .npy file"),
    ("a.npy", lambda: npy_header("(" * 3000), "not a readable .npy file"),
    ("a.npy", lambda: npy_header("(__import__('os').mkdir('run'), 4)"), "not a readable .npy file"),
    (
        "a.npy",
        lambda: npy_header("(1000000000000, 4)"),
        r"damaged: \S+; expected 16,000,000,000,\d+ bytes",
    ),
    ("a.npy", lambda: npy_header("(-1, 4)"), r"wrong shape|not a readable .npy file"),
    ("a.npy", lambda: npy_header("(0, 4)"), "no rows"),
    ("a.npy", lambda: npy_header("()", data=bytes(4)), "wrong shape"),
    ("a.npy", lambda: npy_header("(2, 4)", data=bytes(31)), "damaged"),
    ("a.npy", lambda: npy_header("(2, 4)", data=bytes(33)), "damaged"),
    ("a.npy", lambda: npy_header("(2, 4)", "<c8", data=bytes(64)), "wrong dtype"),
    ("a.npy", lambda: npy_header("(2, 4)", "<M8[s]", data=bytes(64)), "wrong dtype"),
    ("a.npy", lambda: saved(np.zeros((2, 4), np.int64)), r"wrong dtype: .*expected float32, got int64"),
    ("a.npy", lambda: saved(np.zeros((2, 4), np.uint8)), "wrong dtype"),
    ("a.npy", lambda: saved(np.zeros((2, 4), [("a", "f4")])), "wrong dtype"),
    ("a.npy", lambda: saved(latents()[:, :3]), r"wrong shape: .*expected 'latent' of \(N, 4\), got \(23, 3\)"),
    ("a.npy", lambda: saved(latents()[0]), r"wrong shape: .*got \(4,\)"),
    ("a.npy", lambda: saved(latents()[..., None]), "wrong shape"),
    ("a.npy", pickled_canary, "array of Python objects"),
    (
        "a.npy",
        lambda: saved(latents_with(17, np.nan)),
        r"not finite: \S+a\.npy, row 17; expected finite numbers, got nan",
    ),
    ("a.npy", lambda: saved(latents_with(22, -np.inf)), r"not finite: \S+a\.npy, row 22; .*got -inf"),
    ("a.npy", lambda: saved(latents_with(3, 1e39, np.float64)), r"not finite: \S+a\.npy, row 3"),
    ("a.npz", lambda: b"PK", "not a readable .npz file"),
    ("a.npz", lambda: zipped(saved(latents()))[:-30], "not a readable .npz file"),
    ("a.npz", lambda: zipped(pickled_canary()), "array of Python objects"),
    ("a.npz", lambda: zipped(npy_header("(1000000000000, 4)")), "damaged: .*latent"),
    ("a.npz", lambda: zipped(saved(latents_with(17, np.nan))), r"not finite: \S+a\.npz, latent\.npy, row 17"),
    ("a.npz", lambda: zipped(b"x", "readme.txt"), "no such array.*got nothing"),
    ("a.npz", lambda: zipped_with_flipped_bit(saved(latents())), "Bad CRC-32"),
    ("a.npz", lambda: zipped(npy_header("(40000000, 4)") + bytes(640_000_000)), "compression ratio too high"),
    ("a.parquet", lambda: b"PAR1PAR1", "not a readable Parquet file"),
    ("a.txt", lambda: b"1 2 3 4", "unknown file type"),
    ("a", lambda: b"", "unknown file type"),
]


@pytest.mark.parametrize(("name", "make", "message"), BAD_LATENTS, ids=range(len(BAD_LATENTS)))
def test_bad_latents_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, make: Callable[[], bytes], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(make())
    with pytest.raises(DataError, match=message) as error:
        reader = open_latents(tmp_path / name, LATENT)
        reader.read(0, reader.rows)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [name], "code in the file was run"


def test_header_that_states_gigabytes_allocates_none(tmp_path: Path) -> None:
    import tracemalloc

    (tmp_path / "a.npy").write_bytes(npy_header("(1000000000, 4)"))
    tracemalloc.start()
    with pytest.raises(DataError, match="damaged"):
        open_latents(tmp_path / "a.npy", LATENT)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_too_large_member_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", latent=latents())
    monkeypatch.setattr(arrays, "MAX_BYTES", 300)
    with pytest.raises(DataError, match="too large: .*expected up to 300 bytes"):
        open_latents(tmp_path / "a.npz", LATENT)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([[1.0, 2, 3, 4], [1.0, 2, 3]]), r"wrong row: .*latent, row 1; expected 4 numbers, got 3 numbers"),
        (pa.array([[1.0, 2, 3, 4], None]), r"wrong row: .*row 1; .*got null"),
        (pa.array([[1.0, 2, 3, None]]), r"wrong row: .*row 0; .*got a null"),
        (pa.array([[1.0, 2, 3], [1, 2, 3, 4, 5]]), r"wrong row: .*row 0"),
        (pa.array([1.0, 2.0]), "wrong type"),
        (pa.array(["a", "b"]), "wrong type"),
        (pa.array([[1.0, 2, 3]], pa.list_(pa.float32(), 3)), "wrong shape"),
        (pa.array([[1.0, 2, 3, float("nan")]]), r"not finite: .*row 0"),
        (pa.array([], pa.list_(pa.float32(), 4)), "no rows"),
    ],
)
def test_bad_parquet_columns_are_refused(tmp_path: Path, column: pa.Array, message: str) -> None:
    parquet.write_table(pa.table({"latent": column}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        reader = open_latents(tmp_path / "a.parquet", LATENT)
        reader.read(0, reader.rows)


@pytest.mark.parametrize(("value", "message"), [(1.5, "out of range"), (-0.1, "out of range"), (np.nan, "not finite")])
def test_row_with_a_bad_pixel_is_named(tmp_path: Path, value: float, message: str) -> None:
    array = np.zeros((4, 1, 6, 5), np.float32)
    array[2, 0, 3, 1] = value
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=rf"^{message}: \S+a\.npy, row 2"):
        open_images(tmp_path / "a.npy", IMAGE).read(0, 4)


def test_empty_and_mixed_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to read"):
        open_images(tmp_path, IMAGE)
    with pytest.raises(DataError, match="cannot be read: .*No such file"):
        open_images(tmp_path / "none", IMAGE)
    np.save(tmp_path / "latent-0.npy", latents())
    np.savez(tmp_path / "latent-1.npz", latent=latents())
    with pytest.raises(DataError, match=r"files of several types: .*got \.npy \.npz"):
        open_latents(tmp_path, LATENT)


def test_shard_that_differs_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "latent-0.npy", latents())
    np.save(tmp_path / "latent-1.npy", latents().astype(np.float64))
    with pytest.raises(DataError, match=r"^files differ: \S+latent-1\.npy"):
        open_latents(tmp_path, LATENT)


def test_named_pipe_is_refused_at_once(tmp_path: Path) -> None:
    for name in ("a.npy", "a.png", "a.npz", "a.parquet"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(DataError):
            open_images(tmp_path / name, IMAGE)


def test_file_that_changed_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", latents())
    reader: Reader = NpyReader(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", latents(9))
    with pytest.raises(DataError, match="file changed"):
        reader.read(0, 5)
    assert ConcatenatedReader([NpyReader(tmp_path / "a.npy")]).rows == 9
