"""The examples' readers, which are not strict ones: damage is refused, or changes nothing that is read."""

from __future__ import annotations

import random
from pathlib import Path
from types import ModuleType

import pytest

from vae_export.bundle.archive import read_archive, write_archive
from vae_export.io.atomic import sha256

ROOT = Path(__file__).parent.parent.parent
#: Of each kind of damage below.
TRIES = 100


@pytest.fixture(scope="module")
def small() -> bytes:
    """A bundle of few bytes, so that most damage hits what matters."""
    files = {"manifest.json": b'{"format": "vae-export/1", "files": []}', "decoder.onnx": bytes(range(64))}
    sums = "".join(f"{sha256(data)}  {name}\n" for name, data in files.items())
    return write_archive({"SHA256SUMS": sums.encode(), **files})


def damages(data: bytes) -> list[bytes]:
    """Bits flipped, bytes cut off, bytes repeated, bytes zeroed; the same ones each time."""
    draw = random.Random(0)
    found = []
    for _ in range(TRIES):
        place, length = draw.randrange(len(data)), draw.randrange(1, 9)
        flipped = bytearray(data)
        flipped[place] ^= 1 << draw.randrange(8)
        found += [bytes(flipped), data[:place], data[:place] + data[place : place + length] + data[place:]]
        found.append(data[:place] + bytes(length) + data[place + length :])
    return [bytes(damage) for damage in found if damage != data]


def test_python_reader_refuses_damage_or_reads_the_same_files(
    small: bytes, example: ModuleType, tmp_path: Path
) -> None:
    whole = {name: bytes(data) for name, data in read_archive(small, "small").items() if name != "SHA256SUMS"}
    path = tmp_path / "damaged.zip"
    accepted = 0
    for damage in damages(small):
        path.write_bytes(damage)
        try:
            bundle = example.Bundle(path)
        except ValueError:
            continue
        accepted += 1
        assert bundle._files == whole
    assert accepted < TRIES  # a quarter of what was tried, and most of that is a date or an attribute
