"""Read every table of a file in ONNX Runtime's format, and find what its structure leaves out.

FlatBuffers finds values by offsets, so that a file may hold bytes to which no offset leads, and fields that ONNX
Runtime reads in no graph of ours. https://flatbuffers.dev/internals/ is the specification.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from vae_export.formats.structure import unread_bytes

#: A field: a number of so many bytes, a text, a table by name, or a list of one of these; None for one that is never
#: written.
_Field = int | str | list[int] | list[str] | None
_TEXT = "text"
#: The fields of each table in the order of ONNX Runtime's schema (onnxruntime/core/flatbuffers/schema/ort.fbs).
_TABLES: Mapping[str, Sequence[_Field]] = {
    "InferenceSession": (_TEXT, "Model", None, "KernelTypeStrResolver"),
    "Model": (8, ["OperatorSetId"], _TEXT, _TEXT, _TEXT, 8, _TEXT, "Graph", _TEXT, ["StringStringEntry"]),
    "OperatorSetId": (_TEXT, 8),
    "StringStringEntry": (_TEXT, _TEXT),
    "Graph": (["Tensor"], ["ValueInfo"], ["Node"], 4, ["NodeEdge"], [_TEXT], [_TEXT], None, None),
    "Node": (_TEXT, _TEXT, _TEXT, 4, 4, _TEXT, 4, _TEXT, [_TEXT], [_TEXT], ["Attribute"], [4], [_TEXT]),
    "NodeEdge": (4, [12], [12]),
    "Attribute": (_TEXT, _TEXT, 4, 4, 8, _TEXT, "Tensor", "Graph", [4], [8], [_TEXT], ["Tensor"], ["Graph"]),
    "Tensor": (_TEXT, _TEXT, [8], 4, [1], [_TEXT], 8),
    "ValueInfo": (_TEXT, _TEXT, "TypeInfo"),
    "TypeInfo": (_TEXT, 1, "TensorTypeAndShape"),
    "TensorTypeAndShape": (4, "Shape"),
    "Shape": (["Dimension"],),
    "Dimension": ("DimensionValue", _TEXT),
    "DimensionValue": (1, 8, _TEXT),
    "KernelTypeStrResolver": (["OpIdKernelTypeStrArgsEntry"],),
    "OpIdKernelTypeStrArgsEntry": (_TEXT, ["KernelTypeStrArgsEntry"]),
    "KernelTypeStrArgsEntry": (_TEXT, ["ArgTypeAndIndex"]),
    "ArgTypeAndIndex": (1, 4),
}
#: Fields whose values no structure has, or only where another field says so.
_VALUES = {
    ("InferenceSession", 0): "version",
    ("Graph", 3): "nodes",
    ("Node", 11): "inputs of each argument",
    ("TypeInfo", 1): "kind of a type",
    ("DimensionValue", 0): "kind of a size",
    ("DimensionValue", 1): "size",
}
#: Zeros that may follow the last value: the one behind a text, and those up to a multiple of eight.
_FILLER = 8


def further_tables(data: bytes) -> Iterator[str]:
    """Yield how often each field occurs, the values that no structure has, and bytes that no field leads to.

    Args:
        data: the file.

    Raises:
        ValueError, struct.error: a field leads out of the file, or is none of the schema.
    """
    counts, pieces, values = Counter[str](), [(0, 8)], list[str]()
    seen, left = set[tuple[str, int]](), [("InferenceSession", _target(data, 0))]
    while left:
        table, place = left.pop()
        if (table, place) in seen:
            continue
        seen.add((table, place))
        for index, field, at in _fields(data, table, place, pieces):
            counts[f"{table}.{index}"] += 1
            if field is None:
                continue
            tables, read = _read(data, field, at)
            left += tables
            pieces += read
            if (name := _VALUES.get((table, index))) is not None:
                start, length = read[-1]
                values.append(f"{name} {data[start : start + length].hex()}")
    yield from (f"field {name}, {times} times" for name, times in counts.items())
    yield from (f"{value}, {times} times" for value, times in Counter(values).items())
    end = max(start + length for start, length in pieces)
    if end < len(data) <= end + _FILLER and not any(data[end:]):
        data = data[:end]
    if more := unread_bytes(data, pieces):
        yield f"{more:,} bytes that no field leads to"


def _fields(data: bytes, table: str, place: int, pieces: list[tuple[int, int]]) -> Iterator[tuple[int, _Field, int]]:
    """Yield number, kind and place of each field that a table has, and add what was read to `pieces`."""
    schema = _TABLES[table]
    offsets = place - _number("<i", data, place)
    size = _number("<H", data, offsets)
    fields = (size - 4) // 2
    if fields > len(schema):
        raise ValueError(f"{table} has {fields} fields, not {len(schema)} at most")
    pieces += [(place, 4), (offsets, size)]
    for index in range(fields):
        if offset := _number("<H", data, offsets + 4 + 2 * index):
            field, at = schema[index], place + offset
            pieces.append((at, field if isinstance(field, int) else 4))
            yield index, field, at


def _read(data: bytes, field: _Field, at: int) -> tuple[list[tuple[str, int]], list[tuple[int, int]]]:
    """Return the tables that a field leads to, each with its name and place, and the pieces of the file it takes."""
    if isinstance(field, int):
        return [], [(at, field)]
    place = _target(data, at)
    if field == _TEXT:
        return [], [(place, 4 + _number("<I", data, place))]  # and a zero
    if isinstance(field, str):
        return [(field, place)], []
    if field is None:
        return [], []
    [item], length = field, _number("<I", data, place)
    size = item if isinstance(item, int) else 4
    if place + 4 + length * size > len(data):
        raise ValueError(f"a list of {length} items leads out of the file")
    pieces = [(place, 4 + length * size)]
    tables: list[tuple[str, int]] = []
    for number in range(0 if isinstance(item, int) else length):
        found, read = _read(data, item, place + 4 + 4 * number)
        tables += found
        pieces += read
    return tables, pieces


def _target(data: bytes, at: int) -> int:
    """Return where an offset leads."""
    return at + _number("<I", data, at)


def _number(kind: str, data: bytes, at: int) -> int:
    if at < 0:
        raise ValueError("an offset leads out of the file")
    found: int = struct.unpack_from(kind, data, at)[0]
    return found
