"""A rosette drawn from the hashes of the files, as on a banknote: the same files give the same one, others another."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

_POINTS = 360


@dataclass(frozen=True)
class Ring:
    """Attributes:
    path: a closed curve around (0, 0), at most 100 from it.
    turns: degrees by which it is turned, once for each copy.
    """

    path: str
    turns: tuple[float, ...]


def seal(files: Mapping[str, str]) -> tuple[Ring, ...]:
    """Three rings for files by name and SHA-256."""
    digest = hashlib.sha256("".join(f"{name}\0{files[name]}\0" for name in sorted(files)).encode()).digest()
    numbers = [byte / 255 for byte in digest]
    return tuple(
        _ring(radius, depth * (0.6 + 0.4 * numbers[place]), 7 + digest[place + 8] % 9, numbers[place + 16], copies)
        for place, (radius, depth, copies) in enumerate(((86, 13, 6), (62, 20, 8), (46, 9, 5)))
    )


def _ring(radius: float, depth: float, lobes: int, mixed: float, copies: int) -> Ring:
    points = []
    for step in range(_POINTS):
        angle = math.tau * step / _POINTS
        wave = math.sin(lobes * angle) + 0.35 * mixed * math.sin(3 * lobes * angle)
        reach = radius + depth * wave / (1 + 0.35 * mixed)
        points.append(f"{reach * math.cos(angle):.1f} {reach * math.sin(angle):.1f}")
    return Ring(f"M{'L'.join(points)}Z", tuple(round(360 / lobes * copy / copies, 3) for copy in range(copies)))
