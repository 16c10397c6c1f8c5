"""The Python example is a strict reader: no damage changes what it reads."""

from __future__ import annotations

import random
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent.parent
#: Number of tries of each kind of damage below.
TRIES = 30


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


def test_python_example_refuses_every_damage(packed: bytes, example: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "damaged.zip"
    path.write_bytes(packed)
    assert example.Bundle(path).parts
    for damage in damages(packed):
        path.write_bytes(damage)
        with pytest.raises(ValueError):
            example.Bundle(path)
