"""The container: a ZIP file in one canonical form, of which no byte can differ unnoticed.

docs/bundle-format.md, section 1, is the specification; the layouts below are its tables.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vae_export.errors import IntegrityError, UsageError
from vae_export.io.strict import check_distinct, check_name

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_LOCAL_MAGIC, _CENTRAL_MAGIC, _END_MAGIC = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_NEEDED, _MADE_BY, _DATE, _ATTRIBUTES = 20, 0x0314, 0x0021, 0o100644 << 16
#: What a ZIP file without its 64-bit extension can hold.
_MOST_BYTES, _MOST_ENTRIES = 1 << 32, 0xFFFF


@dataclass(frozen=True)
class _Entry:
    name: str
    crc: int
    size: int
    offset: int

    @property
    def local(self) -> bytes:
        """Its local header."""
        name = self.name.encode("ascii")
        sizes = (self.crc, self.size, self.size, len(name), 0)
        return _LOCAL.pack(_LOCAL_MAGIC, _NEEDED, 0, 0, 0, _DATE, *sizes) + name

    @property
    def central(self) -> bytes:
        """Its header in the central directory."""
        name = self.name.encode("ascii")
        sizes = (self.crc, self.size, self.size, len(name), 0, 0, 0, 0, _ATTRIBUTES, self.offset)
        return _CENTRAL.pack(_CENTRAL_MAGIC, _MADE_BY, _NEEDED, 0, 0, 0, _DATE, *sizes) + name

    @property
    def data(self) -> slice:
        start = self.offset + len(self.local)
        return slice(start, start + self.size)


def write_archive(files: Mapping[str, bytes]) -> bytes:
    """The archive of these files, in this order; equal files give equal bytes. `UsageError` if they are too large."""
    check_distinct(map(check_name, files))
    body, entries = bytearray(), []
    for name, data in files.items():
        if len(body) + len(data) >= _MOST_BYTES or len(files) >= _MOST_ENTRIES:
            raise UsageError("too much for one bundle", where=name, expected=f"less than {_MOST_BYTES:,} bytes")
        entry = _Entry(name, zlib.crc32(data), len(data), len(body))
        entries.append(entry)
        body += entry.local + data
    return bytes(body) + _directory(entries, len(body))


def read_archive(data: bytes, where: Path | str) -> dict[str, memoryview]:
    """The files of an archive, in order; raises `IntegrityError` for anything out of form, naming the file.

    Data are not looked at: hold them against their hashes, then call `check_crcs`.
    """
    return {entry.name: memoryview(data)[entry.data] for entry in _entries(data, where)}


def check_crcs(data: bytes, where: Path | str) -> None:
    """Raise `IntegrityError` for a file whose CRC-32 is not the one that its header states."""
    for entry in _entries(data, where):
        if (crc := zlib.crc32(memoryview(data)[entry.data])) != entry.crc:
            raise IntegrityError(
                "file has another CRC-32 than its header",
                where=f"{where}, {entry.name}",
                expected=f"{entry.crc:08x}",
                got=f"{crc:08x}",
                do="fetch the bundle again",
            )


def _entries(data: bytes, where: Path | str) -> list[_Entry]:
    start, count = _end(data, where)
    entries: list[_Entry] = []
    position = 0
    for entry in _central(data, start, count, where):
        here = f"{where}, {entry.name}"
        if entry.offset != position or entry.data.stop > start:
            raise IntegrityError("file is not where it should be", where=here, expected=position, got=entry.offset)
        if data[position : entry.data.start] != entry.local:
            raise IntegrityError("file has a header out of form", where=here, do="fetch the bundle again")
        entries.append(entry)
        position = entry.data.stop
    check_distinct(entry.name for entry in entries)
    if position != start or data[start:] != _directory(entries, start):
        raise IntegrityError("bundle is out of form", where=f"{where}, central directory", do="fetch it again")
    return entries


def _directory(entries: list[_Entry], start: int) -> bytes:
    central = b"".join(entry.central for entry in entries)
    return central + _END.pack(_END_MAGIC, 0, 0, len(entries), len(entries), len(central), start, 0)


def _end(data: bytes, where: Path | str) -> tuple[int, int]:
    """Where the central directory starts, and how many entries it says it has."""
    if not data.startswith(_LOCAL_MAGIC):
        raise IntegrityError("not a bundle", where=where, expected="a ZIP file made by `vae-export bundle`")
    magic, *_, count, size, start, comment = (
        _END.unpack_from(data, len(data) - _END.size) if len(data) >= _END.size else (b"",) * 8
    )
    if magic != _END_MAGIC or comment or start + size + _END.size != len(data):
        raise IntegrityError("bundle is cut off or has bytes after its end", where=where, do="fetch it again")
    return start, count


def _central(data: bytes, position: int, count: int, where: Path | str) -> Iterator[_Entry]:
    """What the central directory says, header by header."""
    end = len(data) - _END.size
    for number in range(count):
        here = f"{where}, entry {number + 1} of the central directory"
        if position + _CENTRAL.size > end:
            raise IntegrityError("bundle is cut off", where=here, do="fetch it again")
        fields = _CENTRAL.unpack_from(data, position)
        crc, size, length, offset = fields[7], fields[8], fields[10], fields[-1]
        raw = data[position + _CENTRAL.size : min(position + _CENTRAL.size + length, end)]
        entry = _Entry(check_name(raw.decode("latin-1")), crc, size, offset)
        if data[position : position + len(entry.central)] != entry.central:
            raise IntegrityError(
                "file has a header out of form",
                where=f"{where}, {entry.name}",
                expected="a plain file, stored",
                do="fetch the bundle again",
            )
        yield entry
        position += len(entry.central)
