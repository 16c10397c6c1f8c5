"""Folders of grey or colour images of any size are read, and unreadable files are named."""

from __future__ import annotations

import os
import shutil
import struct
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from train.config import DataOptions
from train.data import image_folder as folder_module
from train.data.datasets import load
from train.data.image_folder import read_folder
from vae_export.errors import DataError, StorageError, UsageError
from vae_export.io import image_files
from vae_export.io.image_files import read_image

RAMP = np.linspace(0, 255, 28 * 28).reshape(28, 28).round().astype(np.uint8)


def _colour(path: Path, size: tuple[int, int] = (40, 30), colour: str = "orange") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def test_grey_images_stored_as_colour_make_one_channel(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    Image.fromarray(RAMP).convert("RGB").save(tmp_path / "b.png")
    images = read_folder(tmp_path, 28).pixels
    assert images.shape == (2, 1, 28, 28)
    assert torch.equal(images[0, 0], torch.from_numpy(RAMP))
    assert torch.equal(images[0], images[1])


def test_one_colour_image_makes_three_channels(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    _colour(tmp_path / "sub" / "b.png")
    images = read_folder(tmp_path, 28).pixels
    assert images.shape == (2, 3, 28, 28)
    assert images[1, :, 14, 14].tolist() == [255, 165, 0]


def test_images_are_cropped_to_their_middle_and_resized(tmp_path: Path) -> None:
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(np.full((64, 64), 200, np.uint8)).save(tmp_path / "square.png")
    read = read_folder(tmp_path, 10)
    images = read.pixels
    assert images.shape == (2, 1, 10, 10)
    assert (images == 200).all()
    assert (read.cropped, read.resized, read.skipped) == (1, 1, 0)  # wide.png is as high as asked for
    assert read.describe() == "2 grey images of 10 x 10: 1 cropped to the middle, 1 resized"


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path, suffix: str) -> None:
    levels = np.array([[0, 256, 257], [32767, 32896, 65535], [1000, 5000, 60000]], np.uint16)
    file = tmp_path / f"deep.{suffix}"
    if suffix == "pgm":
        file.write_bytes(b"P5 3 3 65535\n" + levels.astype(">u2").tobytes())
    else:
        Image.fromarray(levels).save(file)
    assert read_image(file, (3, 3))[..., 0].tolist() == [[0, 1, 1], [127, 128, 255], [4, 19, 233]]


def test_big_endian_sixteen_bits_are_read(tmp_path: Path) -> None:
    import io

    buffer = io.BytesIO()
    Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 257, 65535)).save(buffer, "TIFF")
    (tmp_path / "deep.tif").write_bytes(buffer.getvalue())
    assert buffer.getvalue()[:2] == b"MM"
    assert sorted(set(read_image(tmp_path / "deep.tif", (1, 1)).flatten())) != [0]


def test_transparent_pixels_become_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "clear.png", (4, 4)) == 255).all()


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    upright = np.zeros((16, 16, 3), np.uint8)
    upright[:8] = 255
    image = Image.fromarray(np.rot90(upright))
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees clockwise"
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    read = read_image(tmp_path / "turned.jpg", (16, 16))
    assert read[:6].min() > 200
    assert read[10:].max() < 50


def test_hidden_files_are_ignored(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x").write_bytes(b"x")
    assert len(read_folder(tmp_path, 8).pixels) == 1


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _bomb(file: Path) -> None:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 1, 0, 0, 0, 0)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"") + _chunk(b"IEND", b""))


def _large(file: Path) -> None:
    header = struct.pack(">IIBBBBB", 10_000, 9_000, 1, 0, 0, 0, 0)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"") + _chunk(b"IEND", b""))


def _text(file: Path) -> None:
    file.write_text("not an image")


def _nothing(file: Path) -> None:
    file.write_bytes(b"")


def _truncated(file: Path) -> None:
    Image.effect_noise((64, 64), 50).save(file, "PNG")
    file.write_bytes(file.read_bytes()[:-500])


def _floats(file: Path) -> None:
    Image.new("F", (8, 8), 0.5).save(file, "TIFF")


def _postscript(file: Path) -> None:
    Image.new("RGB", (8, 8)).save(file, "EPS")


@pytest.mark.parametrize("spoil", [_bomb, _large, _text, _nothing, _truncated, _floats, _postscript])
def test_unreadable_file_is_named(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    spoil(tmp_path / "spoilt file.png")
    with pytest.raises(DataError) as error:
        read_folder(tmp_path, 28)
    assert "spoilt file.png" in str(error.value)
    assert "\n" not in str(error.value)


def test_empty_or_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^no images: .*; say where the images are: --data-dir FOLDER"):
        read_folder(tmp_path, 28)
    with pytest.raises(DataError, match=r"^no such folder: "):
        read_folder(tmp_path / "nowhere", 28)


def test_too_many_images_for_the_memory_are_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "available_memory", lambda: 3 * 28 * 28)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("never opened")
    with pytest.raises(DataError, match="leave --in-memory out"):
        read_folder(tmp_path, 28, in_memory="yes")


@pytest.mark.parametrize("colour", [False, True])
def test_images_that_do_not_fit_are_the_same_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, colour: bool
) -> None:
    folder, scratch = tmp_path / "images", tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("train.data.pixel_file.scratch_folder", lambda: scratch)
    for index in range(25):
        _colour(folder / f"{index:02d}.png", (20, 20), f"rgb({index * 10}, {index * 10}, {index * 10 * (not colour)})")
    if not colour:  # all are grey but the one that cannot be read
        _text(folder / "07a.png")
    options = DataOptions("folder", folder, image_size=16, skip_unreadable=not colour)
    in_memory = load(options)
    monkeypatch.setattr(folder_module, "available_memory", lambda: 2 * 2 * 25 * 3 * 16 * 16 - 1)
    told: list[str] = []
    on_disk = load(options, report=told.append)
    assert (in_memory.in_memory, on_disk.in_memory) == (True, False)
    assert "on the disk" in told[-1]
    assert on_disk.image_shape == (3 if colour else 1, 16, 16)
    for split in ("train", "validation", "test"):
        assert torch.equal(on_disk.split(split), in_memory.split(split))
    assert on_disk.sha256 == in_memory.sha256
    assert list(scratch.iterdir()) == []
    with pytest.raises(UsageError, match="held in memory"):
        load(replace(options, protocol="static"))
    assert load(replace(options, protocol="dynamic")).protocol == "dynamic"


def test_full_disk_is_said_before_decoding(tmp_path: Path) -> None:
    _text(tmp_path / "never opened.png")
    usage = shutil.disk_usage(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: usage._replace(free=2 * 3 * 28 * 28 - 1))
        with pytest.raises(StorageError, match=r"no room for pixels.* set TMPDIR"):
            read_folder(tmp_path, 28, in_memory="no")


def test_files_are_decoded_in_their_order_by_several_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "_AHEAD", 3)
    for index in range(8):
        _colour(tmp_path / f"{index}.png", (8, 8), f"rgb({index}, 200, 7)")
    seen: set[int] = set()
    real = image_files.read_fitted

    def slow_at_first(file: Path, size: tuple[int, int]) -> object:
        seen.add(threading.get_ident())
        time.sleep(0.02 if file.stem in "036" else 0)  # the first of each group ends last
        return real(file, size)

    monkeypatch.setattr(folder_module, "read_fitted", slow_at_first)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert read_folder(tmp_path, 8).pixels[:, 0, 0, 0].tolist() == list(range(8))
    assert threading.get_ident() not in seen
    assert len(seen) > 1


def test_unreadable_files_are_skipped_and_named_where_asked(tmp_path: Path) -> None:
    _colour(tmp_path / "a.png")
    _truncated(tmp_path / "b.png")
    _colour(tmp_path / "c.png", colour="blue")
    told: list[str] = []
    read = read_folder(tmp_path, 8, skip_unreadable=True, report=told.append)
    assert read.pixels[:, 2, 0, 0].tolist() == [0, 255]
    assert read.skipped == 1
    assert len(told) == 1
    assert told[0].startswith("skipped: not a readable image: ")
    assert "b.png" in told[0]
    with pytest.raises(DataError, match="--skip-unreadable"):
        read_folder(tmp_path, 8)
    with pytest.raises(DataError, match="1 files that cannot be read"):
        for name in "ac":
            (tmp_path / f"{name}.png").unlink()
        read_folder(tmp_path, 8, skip_unreadable=True)


@pytest.mark.parametrize(("sides", "expected"), [((200, 90), 64), ((40, 64), 32), ((28, 28), 28), ((10, 300), 28)])
def test_size_follows_from_the_images_where_none_was_asked_for(
    tmp_path: Path, sides: tuple[int, int], expected: int
) -> None:
    Image.new("L", sides, 7).save(tmp_path / "a.png")
    assert folder_module.preview_folder(tmp_path) == folder_module.FolderPreview(expected, is_colour=False)
    assert read_folder(tmp_path, None).pixels.shape == (1, 1, expected, expected)


def test_glance_sees_colour_and_ignores_broken_files(tmp_path: Path) -> None:
    _text(tmp_path / "a.png")
    _colour(tmp_path / "b.png", size=(64, 64))
    assert folder_module.preview_folder(tmp_path) == folder_module.FolderPreview(64, is_colour=True)
