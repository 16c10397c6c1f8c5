"""The container of a bundle: a ZIP file in one canonical form, so that every changed byte is detected.

docs/bundle-format.md, section 1, is the specification, and the layouts below are its tables. `read_archive` lists the
entries with `zipfile`. `check_canonical` then writes the archive again and compares every byte.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from vae_export.errors import IntegrityError, UsageError
from vae_export.io.file_names import check_distinct, check_name

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_LOCAL_MAGIC, _CENTRAL_MAGIC, _END_MAGIC = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_NEEDED, _MADE_BY, _DATE, _ATTRIBUTES = 20, 0x0314, 0x0021, 0o100644 << 16
#: Limits of a ZIP file without the 64-bit extension: it has fewer bytes and fewer entries.
MAX_BYTES, _MAX_ENTRIES = 1 << 32, 0xFFFF


def write_archive(files: Mapping[str, bytes | memoryview]) -> bytes:
    """Return the archive of these files, in this order; equal files give equal bytes.

    Args:
        files: the content of each file by name.

    Raises:
        UsageError: the files are too large or too many for one archive.
        IntegrityError: a name is not allowed, or occurs twice.
    """
    check_distinct(map(check_name, files))
    body: list[bytes | memoryview] = []
    central, offset = bytearray(), 0
    for path, data in files.items():
        if offset + len(data) >= MAX_BYTES or len(files) >= _MAX_ENTRIES:
            raise UsageError("bundle would be too large", where=path, expected=f"less than {MAX_BYTES:,} bytes")
        name = path.encode("ascii")
        sizes = (zlib.crc32(data), len(data), len(data), len(name), 0)
        central += _CENTRAL.pack(
            _CENTRAL_MAGIC, _MADE_BY, _NEEDED, 0, 0, 0, _DATE, *sizes, 0, 0, 0, _ATTRIBUTES, offset
        )
        central += name
        body += [_LOCAL.pack(_LOCAL_MAGIC, _NEEDED, 0, 0, 0, _DATE, *sizes), name, data]
        offset += _LOCAL.size + len(name) + len(data)
    end = _END.pack(_END_MAGIC, 0, 0, len(files), len(files), len(central), offset, 0)
    return b"".join([*body, central, end])


def read_archive(data: bytes, where: Path | str) -> dict[str, memoryview]:
    """Return the files of an archive, in order, as views of `data`.

    This function does not check headers and checksums. Compare the files with their hashes, and call `check_canonical`.

    Args:
        data: the archive.
        where: the path of the archive, for messages.

    Returns:
        The content of each file by name, in the order of the archive.

    Raises:
        IntegrityError: the archive is damaged, or a file in it is compressed.
    """
    if not data.startswith(_LOCAL_MAGIC):
        raise IntegrityError("not a bundle", where=where, expected="a ZIP file made by `vae-export bundle`")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except Exception as error:  # zipfile raises half a dozen kinds for damaged files
        raise IntegrityError(
            "bundle is cut off or damaged", where=where, got=str(error)[:200], do="fetch it again"
        ) from error
    check_distinct(check_name(entry.orig_filename) for entry in entries)
    files = {}
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            here = f"{where}, {entry.orig_filename}"
            raise IntegrityError("file is compressed", where=here, expected="a plain file, stored")
        start = entry.header_offset + _LOCAL.size + len(entry.orig_filename)
        files[entry.orig_filename] = memoryview(data)[start : start + entry.file_size]
    if sum(map(len, files.values())) > len(data):  # the entries overlap, so that hashing them could take very long
        raise IntegrityError("bundle is damaged", where=where, got="files larger than the bundle", do="fetch it again")
    return files


def check_canonical(data: bytes, files: Mapping[str, memoryview], where: Path | str) -> None:
    """Raise `IntegrityError` unless `write_archive` gives exactly `data` for the files in it.

    Args:
        data: the archive.
        files: the result of `read_archive`.
        where: the path of the archive, for messages.
    """
    if (canonical := write_archive(files)) == data:
        return
    position = _first_difference(canonical, data)
    raise IntegrityError(
        "bundle is not in the canonical form",
        where=f"{where}, {_entry_at(position, files)}",
        expected="the bytes that `vae-export bundle` writes",
        got=f"another byte at {position:,}",
        do="fetch the bundle again",
    )


def _first_difference(one: bytes, other: bytes) -> int:
    """Return the position of the first byte in which two unequal byte strings differ."""
    start, block = 0, 1 << 16
    while one[start : start + block] == other[start : start + block]:
        start += block
    pairs = zip(one[start : start + block], other[start : start + block], strict=False)
    return next((start + i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _entry_at(position: int, files: Mapping[str, memoryview]) -> str:
    """Return the name of the file whose header or data is at `position`."""
    end = 0
    for name, data in files.items():
        end += _LOCAL.size + len(name) + len(data)
        if position < end:
            return f"header of {name}"
    for name in files:
        end += _CENTRAL.size + len(name)
        if position < end:
            return f"header of {name} in the central directory"
    return "end of the central directory"
