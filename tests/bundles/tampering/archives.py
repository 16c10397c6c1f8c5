"""Bundles taken apart and put together again, as kinds of tampering need it."""

from __future__ import annotations

import io
import random
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

from vae_export.bundles.archive import read_archive, write_archive
from vae_export.io.atomic import sha256

SUMS, SIGNATURE, MANIFEST, CERTIFICATE = "SHA256SUMS", "SHA256SUMS.sig", "manifest.json", "certificate.json"


@dataclass(frozen=True)
class Tampered:
    """Attributes:
    data: the bytes of the bundle.
    named: what the error must name one of; empty where the file as a whole is wrong.
    """

    data: bytes
    named: tuple[str, ...]


Kind = Callable[[bytes, random.Random], Tampered]


def files_of(data: bytes) -> dict[str, bytes]:
    return {name: bytes(view) for name, view in read_archive(data, "good").items()}


def summed(files: dict[str, bytes]) -> bytes:
    """An archive with a list of hashes that fits its files: what somebody makes who knows the format."""
    rest = {name: data for name, data in files.items() if name not in (SUMS, SIGNATURE)}
    sums = "".join(f"{sha256(data)}  {name}\n" for name, data in rest.items())
    return write_archive({SUMS: sums.encode(), **rest})


def picked(data: bytes, rng: random.Random) -> tuple[dict[str, bytes], str]:
    files = files_of(data)
    return files, rng.choice([name for name in files if name != SUMS])


def flip(data: bytes, position: int, rng: random.Random) -> bytes:
    return data[:position] + bytes([data[position] ^ 1 << rng.randrange(8)]) + data[position + 1 :]


def renamed_into(data: bytes, rng: random.Random, name: str) -> Tampered:
    """One more entry, under a name that no writer of ours lets through."""
    files = files_of(data)
    return Tampered(zipped([*files.items(), (name, rng.randbytes(3))]), ())


def zipped(items: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """As close to the canonical form as a ZIP library gets."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in items:
            info = zipfile.ZipInfo("x", (1980, 1, 1, 0, 0, 0))
            info.filename = name  # the constructor would cut it at a NUL
            info.create_system, info.external_attr = 3, 0o100644 << 16
            archive.writestr(info, data, method)
    return buffer.getvalue()


def with_modes(files: dict[str, bytes], modes: dict[str, int]) -> bytes:
    data = bytearray(write_archive(files))
    for name, mode in modes.items():
        position = data.rindex(name.encode()) - 46
        while data[position : position + 4] != b"PK\x01\x02":
            position = data.rindex(name.encode(), 0, position + 46) - 46
        struct.pack_into("<I", data, position + 38, mode << 16)
    return bytes(data)


def file_at(data: bytes, position: int) -> tuple[str, ...]:
    """The file whose header or data a byte is part of; none for the first four, which say what kind of file it is, and
    for a byte of the directory."""
    if position < 4:
        return ()
    offset = 0
    for name, view in read_archive(data, "good").items():
        offset += 30 + len(name) + len(view)
        if position < offset:
            return (name,)
    return ()
