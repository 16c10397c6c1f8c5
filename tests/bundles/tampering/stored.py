"""Tampering with the bytes of the file, wherever they belong."""

from __future__ import annotations

import random
import struct

from tests.bundles.tampering.archives import Tampered, file_at, flip, picked
from vae_export.bundles.archive import read_archive, write_archive


def flipped_bit(data: bytes, rng: random.Random) -> Tampered:
    """Anywhere: in a file, in a header, in the directory."""
    position = rng.randrange(len(data))
    return Tampered(flip(data, position, rng), file_at(data, position))


def flipped_bit_in_headers(data: bytes, rng: random.Random) -> Tampered:
    """In a byte that belongs to no file's data: most of a bundle is data, and these are few."""
    spans = []
    for name, view in read_archive(data, "good").items():
        start = data.index(bytes(view)) if len(view) > 64 else data.index(name.encode())
        spans.append((start, start + len(view)))
    positions = [*range(data.rindex(b"PK\x01\x02") - 500, len(data)), *range(40), *(span[0] - 3 for span in spans)]
    position = rng.choice(positions)
    return Tampered(flip(data, position, rng), file_at(data, position))


def flipped_bit_with_new_crc(data: bytes, rng: random.Random) -> Tampered:
    """The container is whole again; only the hashes show it."""
    files, name = picked(data, rng)
    files[name] = flip(files[name], rng.randrange(len(files[name])), rng)
    return Tampered(write_archive(files), (name,))


def cut_off(data: bytes, rng: random.Random) -> Tampered:
    return Tampered(data[: rng.randrange(len(data))], ())


def bytes_added(data: bytes, rng: random.Random) -> Tampered:
    extra = rng.randbytes(rng.randrange(1, 100))
    return Tampered(extra + data if rng.random() < 0.5 else data + extra, ())


def changed_directory(data: bytes, rng: random.Random) -> Tampered:
    """Counts, sizes and offsets in the end record."""
    end = bytearray(data)
    offset = rng.choice([4, 6, 8, 10, 12, 16, 20])
    (value,) = struct.unpack_from("<H", end, len(end) - 22 + offset)
    struct.pack_into("<H", end, len(end) - 22 + offset, (value + rng.randrange(1, 65535)) % 65536)
    return Tampered(bytes(end), ())


def noise(data: bytes, rng: random.Random) -> Tampered:
    """No bundle at all."""
    return Tampered(
        rng.choice([b"", b"PK", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), rng.randbytes(1000), data[4:]]), ()
    )
