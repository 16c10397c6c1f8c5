"""Read what an archive of PyTorch holds beside its graph: texts, records, code, and notes that no engine here reads."""

from __future__ import annotations

import io
import json
import keyword
import pickletools
import re
import struct
import tokenize
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

#: The archive's folder with the texts that describe a file.
_EXTRA = "/extra/"
#: Records of one word or number, and what they may hold.
_WORDS: Mapping[str, bytes] = {
    "version": rb"\d{1,9}\s?",
    "byteorder": rb"little",
    "archive_format": rb"pt2",
    "archive_version": rb"\d{1,9}",
    ".data/version": rb"\d{1,9}\s?",
    ".data/serialization_id": rb"\d{1,64}",
}
#: The records that a structure has, or that do not count, without the folder of the archive.
_OF_ANY = "|".join(["extra/.*", *map(re.escape, _WORDS)]) + "|"
SCRIPT_RECORDS = re.compile(_OF_ANY + r"code/.*\.py|constants/\d+|(data|constants)\.pkl")
PROGRAM_RECORDS = re.compile(
    _OF_ANY + r"models/model\.json|data/sample_inputs/model\.pt|"
    r"data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
)
_LOCAL_HEADER, _END_OF_ARCHIVE, _END_BYTES = 30, b"PK\x05\x06", 22
#: Field of a record's header that moves its data to a multiple of 64 bytes, and the sizes of large records.
_FILLER = re.compile(rb"(\x01\x00[\x08\x10\x18\x1c]\x00.{8,28}?)?(FB..Z*)?", re.DOTALL)
#: The sizes of a record that are known only behind it.
_DESCRIPTOR = re.compile(rb"(PK\x07\x08.{12}(.{8})?)?", re.DOTALL)
#: Flags of a record: its sizes stand behind it, and its name is UTF-8. The time of a record without one, and the size
#: from which sizes take 8 bytes.
_SIZES_BEHIND, _UTF8, _NO_TIME, _LARGE = 1 << 3, 1 << 11, (1980, 0, 0, 0, 0, 0), (1 << 32) - 1
#: The number in the name of a traced class, a definition in code, an attribute of a class, and the use of a constant.
MANGLED = re.compile(r"___torch_mangle_\d+\.")
_DEFINITION, _ATTRIBUTE = (
    re.compile(r"^ *((?:class|def) \w+)", re.MULTILINE),
    re.compile(r"^  (\w+ [=:].*)", re.MULTILINE),
)
_CONSTANT = re.compile(r"\bCONSTANTS\.c(\d+)\b")
#: Keys of a program that differ between versions of PyTorch.
_OF_VERSIONS = ("schema_version", "torch_version")
_SYMBOL = re.compile(r"\b[su]\d+\b")


def texts(data: bytes) -> dict[str, str]:
    """Return the texts that describe a file, by key."""
    with zipfile.ZipFile(io.BytesIO(data)) as records:
        return {
            name.partition(_EXTRA)[2]: records.read(name).decode("utf-8", "backslashreplace")
            for name in records.namelist()
            if _EXTRA in name
        }


def further_content(data: bytes, known: re.Pattern[str]) -> tuple[str, ...]:
    """Return what an archive holds beside the records that the structure has; nothing for an archive of ours.

    Other readers run what PyTorch passes over: a program for phones, a library, or the other of two equal names.

    Args:
        data: the archive.
        known: names of the records that the structure has, such as `SCRIPT_RECORDS`.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as records:
        listed = [(record.filename.partition("/")[2], record.file_size) for record in records.infolist()]
        start = min((record.header_offset for record in records.infolist()), default=0)
        stored = {
            name: records.read(item)
            for item, (name, _) in zip(records.infolist(), listed, strict=True)
            if name in _WORDS or name.endswith(".pkl")
        }
        notes = [f"note of record {item.filename}" for item in records.infolist() if _has_note(item)]
        between = sum(_hidden_bytes(data, records.infolist()))
        notes += [f"header of record {item.filename}" for item in records.infolist() if not _is_plain(data, item)]
    further = [f"record {name} of {size:,} bytes" for name, size in listed if known.fullmatch(name) is None]
    times = Counter(name for name, _ in listed)
    further += [f"record {name} {times[name]} times" for name in times if times[name] > 1]
    further += [
        f"record {name} with a text"
        for name, allowed in _WORDS.items()
        if name in stored and not re.fullmatch(allowed, stored[name])
    ]
    around = start + len(data) - data.rfind(_END_OF_ARCHIVE) - _END_BYTES
    further += [f"{around:,} bytes around the records"] if around else []
    further += [f"{between:,} bytes between the records"] if between else []
    further += [
        f"{more:,} bytes behind the objects of {name}"
        for name, pickled in stored.items()
        if name.endswith(".pkl") and (more := len(pickled) - pickle_size(pickled))
    ]
    return (*further, *notes)


def _has_note(record: zipfile.ZipInfo) -> bool:
    return bool(record.comment) or not _FILLER.fullmatch(record.extra)


def _is_plain(data: bytes, record: zipfile.ZipInfo) -> bool:
    """Whether the headers of a record say what PyTorch's writer says: no times, rights or versions, and one size.

    A record has two headers and may have a third behind it. Readers differ in which of them counts.
    """
    needed = 0 if record.compress_type == zipfile.ZIP_STORED else zipfile.DEFAULT_VERSION
    rights = (record.internal_attr, record.external_attr, record.reserved, record.volume)
    start, sizes = record.header_offset, (record.CRC, record.compress_size, record.file_size)
    version, flags, method, time, date, *stated = struct.unpack("<HHHHHIII", data[start + 4 : start + 26])
    name, more = struct.unpack("<HH", data[start + 26 : start + _LOCAL_HEADER])
    is_behind = bool(flags & _SIZES_BEHIND)
    end = start + _LOCAL_HEADER + name + more + record.compress_size
    return (
        not any((*rights, record.create_system, record.create_version, time, date))
        and record.extract_version == version == needed
        and record.date_time == _NO_TIME
        and (record.flag_bits, record.compress_type) == (flags, method)
        and flags | _SIZES_BEHIND | _UTF8 == _SIZES_BEHIND | _UTF8
        and tuple(stated) == ((0, 0, 0) if is_behind else sizes)
        and (not is_behind or _stated_behind(data, end, record) == sizes)
    )


def _stated_behind(data: bytes, end: int, record: zipfile.ZipInfo) -> tuple[int, ...]:
    """Return checksum and sizes of a record that ends here as the header behind it says, longer for large records."""
    form = "<4xIII" if max(record.compress_size, record.file_size) < _LARGE else "<4xIQQ"
    size = struct.calcsize(form)
    return struct.unpack_from(form, data, end) if len(data) >= end + size else ()


def _hidden_bytes(data: bytes, records: Iterable[zipfile.ZipInfo]) -> Iterator[int]:
    """Yield numbers of bytes between records, and in their headers, that are neither records nor filler."""
    end: int | None = None
    for record in sorted(records, key=lambda one: one.header_offset):
        start = record.header_offset
        name, more = struct.unpack("<HH", data[start + 26 : start + _LOCAL_HEADER])
        content = start + _LOCAL_HEADER + name + more
        filler = data[content - more : content]
        between = b"" if end is None else data[end:start]
        yield 0 if _DESCRIPTOR.fullmatch(between) else len(between)
        yield 0 if _FILLER.fullmatch(filler) else len(filler)
        end = content + record.compress_size


def pickle_size(pickled: bytes) -> int:
    """Return how many bytes the objects of a pickle take, without running it."""
    last = -1
    for _, _, place in pickletools.genops(pickled):
        last = place or 0
    return last + 1


def code_content(data: bytes) -> Iterator[str]:
    """Yield what the code of a module defines and says, and what is in no graph: comments, and unused constants.

    Code is printed from graphs, so that versions of PyTorch differ in its lines, but not in what it defines and calls.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as records:
        names = records.namelist()
        codes = [MANGLED.sub("", records.read(name).decode()) for name in names if name.endswith(".py")]
        pickled = next((records.read(name) for name in names if name.endswith("/constants.pkl")), b"")
    yield from _counted(f"definition of {name}" for code in codes for name in _DEFINITION.findall(code))
    yield from _counted(f"attribute {line.strip()}" for code in codes for line in _ATTRIBUTE.findall(code))
    yield from _counted(word for code in codes for word in _words(code))
    stored = sum("/constants/" in name for name in names)
    used = len({constant for code in codes for constant in _CONSTANT.findall(code)})
    if stored > used:
        yield f"{stored - used} constants that no code reads"
    said = {argument for _, argument, _ in (pickletools.genops(pickled) if pickled else ()) if type(argument) is str}
    yield from (f"text {text[:80]} of a constant" for text in sorted(said) if not text.isdigit())


def _words(code: str) -> Iterator[str]:
    """Yield comments, texts, and what the code calls; names of inner values differ between versions."""
    before = ""
    tokens = list(tokenize.generate_tokens(io.StringIO(code).readline))
    for token, after in zip(tokens, [*tokens[1:], tokens[-1]], strict=True):
        if token.type == tokenize.COMMENT:
            yield f"comment {token.string}"
        elif token.type == tokenize.STRING:
            yield f"text {token.string[:80]}"
        elif token.type == tokenize.NAME and _is_said(before, token.string, after.string):
            yield f"word {token.string}"
        before = token.string


def _is_said(before: str, name: str, after: str) -> bool:
    """Whether a name in code is called, looked up or a keyword, and not that of an inner value or of a constant."""
    is_constant = before == "." and _CONSTANT.fullmatch(f"CONSTANTS.{name}") is not None
    return not is_constant and (before == "." or after in (".", "(") or keyword.iskeyword(name))


def _counted(lines: Iterable[str]) -> Iterator[str]:
    """Yield each line once, with how often it occurs."""
    yield from (line if times == 1 else f"{line}, {times} times" for line, times in Counter(lines).items())


def program_content(data: bytes) -> Iterator[str]:
    """Yield a line for each value in the text of a program of torch.export, and for each record that it does not name.

    Names of inner values and of symbols are those of their places, and empty values are left out, because versions of
    PyTorch differ in both.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as records:
        names = {name.partition("/")[2]: name for name in records.namelist()}

        def document(name: str) -> Any:
            return json.loads(records.read(names[name])) if name in names else {}

        program = document("models/model.json")
        stored = {kind: document(f"data/{kind}/model_{kind}_config.json") for kind in ("weights", "constants")}
    for key in _OF_VERSIONS:
        program.pop(key, None)
    for node in program.get("graph_module", {}).get("graph", {}).get("nodes", ()):
        node.pop("name", None)
    yield from _lines(program, "program", _places(program))
    named = set()
    for kind, config in stored.items():
        for entry in config.get("config", {}).values():
            named.add(f"data/{kind}/{entry.pop('path_name', None)}")
        yield from _lines(config, kind, {})
    for name in sorted(names.keys() - named):
        if re.fullmatch(r"data/\w+/(weight|tensor)_\d+", name):
            yield f"record {name}, which the program does not name"


def program_version(data: bytes) -> str:
    """Return the version of PyTorch that a program of torch.export says wrote it; empty if it says nothing."""
    with zipfile.ZipFile(io.BytesIO(data)) as records:
        name = next((name for name in records.namelist() if name.endswith("models/model.json")), None)
        return str(json.loads(records.read(name)).get("torch_version", "")) if name else ""


def _places(program: Mapping[str, Any]) -> dict[str, str]:
    """Return a name for each inner value and symbol that tells its place and no more."""
    graph = program.get("graph_module", {}).get("graph", {})
    found: list[str] = []
    for node in graph.get("nodes", ()):
        found += _names(node.get("outputs"))
    found += _SYMBOL.findall(json.dumps(program))
    return {name: f"value {place}" for place, name in enumerate(dict.fromkeys(found))}


def _names(value: Any) -> Iterator[str]:
    """Yield the names of values in the outputs of a node."""
    if isinstance(value, list):
        for item in value:
            yield from _names(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in ("name", "as_name") and isinstance(item, str):
                yield item
            else:
                yield from _names(item)


def _lines(value: Any, where: str, places: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each value in a JSON document that is not empty, such as "program.verifiers.0: TRAINING"."""
    items: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    elif value is not None and value != "":
        text = repr(value)
        if isinstance(value, str):
            text = places.get(value) or _SYMBOL.sub(lambda found: places.get(found[0], found[0]), value)
        yield f"{where}: {text[:200]}"
    for key, item in items:
        yield from _lines(item, f"{where}.{places.get(str(key), key)}", places)
