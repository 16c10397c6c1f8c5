"""The container of a bundle: a ZIP file in one canonical form, so that every changed byte is detected.

docs/bundle-format.md, section 1, is the specification, and the layouts below are its tables. `read_archive` lists the
entries with `zipfile`. `check_canonical` then writes the archive again and compares every byte.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from vae_export.errors import IntegrityError, ModelError, UsageError
from vae_export.io.atomic import storage_errors
from vae_export.io.file_names import check_distinct, check_name

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_LOCAL_MAGIC, _CENTRAL_MAGIC, _END_MAGIC = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_NEEDED, _MADE_BY, _DATE, _ATTRIBUTES = 20, 0x0314, 0x0021, 0o100644 << 16
#: Limits of a ZIP file without the 64-bit extension: it has fewer bytes and fewer entries.
_MAX_BYTES, _MAX_ENTRIES = 1 << 32, 0xFFFF


def write_archive(files: Mapping[str, bytes | memoryview]) -> bytes:
    """Return the archive of these files, in this order; equal files give equal bytes.

    Args:
        files: the content of each file by name.

    Raises:
        UsageError: the files are too large or too many for one archive.
        IntegrityError: a name is not allowed, or occurs twice.
    """
    check_distinct(map(check_name, files))
    return b"".join(_pieces(files))


def begins_with(path: Path, name: str) -> bool:
    """Return whether a file begins as an archive whose first file has this name, be the rest of it whole or damaged."""
    with storage_errors(path), path.open("rb") as file:
        head = file.read(_LOCAL.size + len(name))
    return head.startswith(_LOCAL_MAGIC) and head[_LOCAL.size :] == name.encode("ascii")


def _pieces(files: Mapping[str, bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """Yield the headers and contents of an archive in order; raise `UsageError` if they are too many or too large."""
    central, offset = bytearray(), 0
    for path, data in files.items():
        if offset + len(data) >= _MAX_BYTES or len(files) >= _MAX_ENTRIES:
            raise UsageError("bundle would be too large", where=path, expected=f"less than {_MAX_BYTES:,} bytes")
        name = path.encode("ascii")
        sizes = (zlib.crc32(data), len(data), len(data), len(name), 0)
        central += _CENTRAL.pack(
            _CENTRAL_MAGIC, _MADE_BY, _NEEDED, 0, 0, 0, _DATE, *sizes, 0, 0, 0, _ATTRIBUTES, offset
        )
        central += name
        yield _LOCAL.pack(_LOCAL_MAGIC, _NEEDED, 0, 0, 0, _DATE, *sizes) + name
        yield data
        offset += _LOCAL.size + len(name) + len(data)
    yield bytes(central)
    yield _END.pack(_END_MAGIC, 0, 0, len(files), len(files), len(central), offset, 0)


def read_file(path: Path) -> bytes:
    """Read a file that could be an archive: its first and last bytes are checked before it is read into memory.

    Args:
        path: the file.

    Returns:
        The bytes of the file.

    Raises:
        ModelError: the file is missing, is not a plain file, or cannot be read.
        IntegrityError: the file is too large, or is not an archive.
    """
    try:
        if not path.is_file():  # a device or a pipe would never end
            got = "a folder" if path.is_dir() else "not a file" if path.exists() else "no such file"
            raise ModelError("no bundle found", where=path, expected="a file made by `vae-export bundle`", got=got)
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size >= _MAX_BYTES:
                expected = f"less than {_MAX_BYTES:,} bytes"
                raise IntegrityError("bundle is too large", where=path, expected=expected, got=f"{size:,}")
            _check_ends(file.read(len(_LOCAL_MAGIC)), _last(file, size), size, path)
            file.seek(0)
            return file.read(size)
    except OSError as error:
        raise ModelError("bundle cannot be read", where=path, got=error.strerror) from error


def _last(file: BinaryIO, size: int) -> bytes:
    file.seek(max(0, size - _END.size))
    return file.read(_END.size)


def _check_ends(first: bytes, last: bytes, size: int, where: Path | str) -> None:
    """Raise `IntegrityError` unless an archive of `size` bytes can begin and end like this."""
    if first != _LOCAL_MAGIC:
        raise IntegrityError("not a bundle", where=where, expected="a ZIP file made by `vae-export bundle`")
    if last[:4] != _END_MAGIC or len(last) != _END.size or sum(_END.unpack(last)[5:7]) + _END.size != size:
        do = "fetch it again"
        raise IntegrityError("bundle is cut off or damaged", where=where, expected="an end record at its end", do=do)


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
    _check_ends(data[: len(_LOCAL_MAGIC)], data[-_END.size :], len(data), where)
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
    position, view = 0, memoryview(data)
    for piece in _pieces(files):  # one at a time: a second archive would need as much memory again
        found = view[position : position + len(piece)]
        if (at := _first_difference(memoryview(piece), found)) is not None:
            position += at
            break
        position += len(piece)
    else:
        if position == len(data):
            return
    raise IntegrityError(
        "bundle is not in the canonical form",
        where=f"{where}, {_entry_at(position, files)}",
        expected="the bytes that `vae-export bundle` writes",
        got=f"another byte at {position:,}",
        do="fetch the bundle again",
    )


def _first_difference(one: memoryview, other: memoryview) -> int | None:
    """Return the position of the first byte in which two byte strings differ, or None if they are equal."""
    block = 1 << 16
    for start in range(0, max(len(one), len(other)), block):
        # As bytes: memoryviews are compared number by number, a hundred times as slowly.
        a, b = bytes(one[start : start + block]), bytes(other[start : start + block])
        if a != b:
            pairs = zip(a, b, strict=False)
            return start + next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
    return None


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
