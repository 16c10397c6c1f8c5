"""The readers of the examples are lenient: damage is refused, or changes nothing that they read."""

from __future__ import annotations

import random
from pathlib import Path
from types import ModuleType

import pytest

from vae_export.bundles.archive import read_archive, write_archive
from vae_export.io.atomic import sha256

ROOT = Path(__file__).parent.parent.parent
#: Number of tries of each kind of damage below.
TRIES = 100


@pytest.fixture(scope="module")
def small() -> bytes:
    """A bundle so small that most damage hits something that matters."""
    files = {"manifest.json": b'{"format": "vae-export/1", "files": []}', "decoder.onnx": bytes(range(64))}
    sums = "".join(f"{sha256(data)}  {name}\n" for name, data in files.items())
    return write_archive({"SHA256SUMS": sums.encode(), **files})


def damages(data: bytes) -> list[bytes]:
    """Return copies with bits flipped, or bytes cut off, repeated or zeroed; the same ones each time."""
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
    assert accepted < TRIES  # less than a quarter of the damage, mostly in dates and attributes
