"""Read and write manifest.json: the contract, files with hashes, golden vectors and recommendations of an export.

docs/bundle-format.md, section 3, is the specification. This module does not import torch, because the runtime uses it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from vae_export.contract import EVERY_PART, PARTS, Contract, Part, check_integers, float_part
from vae_export.errors import IntegrityError, ModelError
from vae_export.io.atomic import sha256
from vae_export.io.file_names import check_distinct, check_name
from vae_export.io.strict_json import MANIFEST_LIMIT, has_values, parse_json
from vae_export.precision import FULL, PRECISIONS, PrecisionName
from vae_export.runs import Run
from vae_export.session_options import MAX_THREADS, OPTIMISATION_LEVELS, RUNTIME_FORMAT, SWITCHES, SessionOptions
from vae_export.tensors import BATCH, Symbol, TensorSpec

if TYPE_CHECKING:
    from vae_export.artifact.golden import GoldenArray, GoldenPart

T = TypeVar("T")

#: The first version of the format, and the second, which also expresses contracts that are not plain: symbols, several
#: latents, codes, conditions. A manifest has the lowest version that can express it, so that older readers can read it.
FORMAT, EXTENDED_FORMAT = "vae-export/1", "vae-export/2"
MANIFEST = "manifest.json"
#: The dtype of all inputs and outputs, as a manifest states it.
DTYPE = "float32"


@dataclass(frozen=True)
class FileContent:
    """The bytes of an exported file and of its sidecars.

    Attributes:
        data: the bytes of the file.
        sidecars: the bytes of each sidecar by suffix, such as ".bin"; most formats have none.
    """

    data: bytes
    sidecars: Mapping[str, bytes] = field(default_factory=dict)

    def by_name(self, name: str) -> dict[str, bytes]:
        """Return the bytes of each file by name: `name` first, then the sidecars, which differ in the suffix."""
        return {name: self.data} | {sidecar_name(name, suffix): data for suffix, data in self.sidecars.items()}


def sidecar_name(name: str, suffix: str) -> str:
    """Return the name of a sidecar, such as "decoder.openvino.bin" for "decoder.openvino.xml" and ".bin"."""
    return str(PurePosixPath(name).with_suffix(suffix))


@dataclass(frozen=True)
class Sidecar:
    """A file that must lie beside an exported file, with its size in bytes and its SHA-256."""

    name: str
    size: int
    sha256: str

    @property
    def suffix(self) -> str:
        """The last suffix of the name, such as ".bin"."""
        return PurePosixPath(self.name).suffix

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> Sidecar:
        """Return the sidecar that a manifest describes; raise `KeyError`, `TypeError` or `IntegrityError` otherwise."""
        return cls(_file_name(_typed(item, "name", str)), _typed(item, "size", int), _typed(item, "sha256", str))


@dataclass(frozen=True)
class FileEntry:
    """One exported file.

    Attributes:
        name: the name of the file in the export folder.
        part: the part in the file.
        format: one of `vae_export.formats.FORMATS`.
        size: number of bytes.
        sha256: the hash of the bytes.
        precision: precision of the numbers inside. A file that a newer version wrote may have one that is not in
            `PRECISIONS`; see `Manifest.known`.
        beside: the sidecars; most formats have none.
        machine: the required machine, such as "linux x86_64 AVX2"; empty if any machine can run the file.
        without_vnni: entries of ONNX Runtime's session configuration that the file needs on an x86-64 processor without
            VNNI; most files need none.
    """

    name: str
    part: Part
    format: str
    size: int
    sha256: str
    precision: PrecisionName = FULL
    beside: tuple[Sidecar, ...] = ()
    machine: str = ""
    without_vnni: Mapping[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def of(
        cls,
        name: str,
        part: Part,
        format: str,
        content: FileContent,
        precision: PrecisionName = FULL,
        machine: str = "",
        without_vnni: Mapping[str, str] = MappingProxyType({}),
    ) -> FileEntry:
        """Make the entry of a file from its bytes.

        Args:
            name: the name of the file in the export folder.
            part: the part in the file.
            format: one of `vae_export.formats.FORMATS`.
            content: the bytes of the file and of its sidecars.
            precision: precision of the numbers inside.
            machine: the required machine, such as "linux x86_64 AVX2"; empty if any machine can run the file.
            without_vnni: entries of the session's configuration for x86-64 processors without VNNI.

        Returns:
            The entry, with sizes and hashes of the file and its sidecars.
        """
        first, *beside = (Sidecar(name, len(data), sha256(data)) for name, data in content.by_name(name).items())
        return cls(name, part, format, first.size, first.sha256, precision, tuple(beside), machine, dict(without_vnni))

    @property
    def stored(self) -> tuple[FileEntry | Sidecar, ...]:
        """The file and its sidecars."""
        return (self, *self.beside)

    def to_json(self) -> dict[str, Any]:
        """Return the entry for the manifest, without "beside", "machine" and "without_vnni" if they are empty."""
        beside = [vars(item) for item in self.beside]
        return {key: value for key, value in (vars(self) | {"beside": beside}).items() if value not in ([], "", {})}

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> FileEntry:
        """Return the file that a manifest describes; raise `KeyError`, `TypeError` or `IntegrityError` otherwise.

        Manifests of the first versions state no precision.
        """
        entry = cls(
            name=_file_name(_typed(item, "name", str)),
            part=item["part"],
            format=_label(_typed(item, "format", str)),
            size=_typed(item, "size", int),
            sha256=_typed(item, "sha256", str),
            precision=cast(PrecisionName, _label(_typed({"precision": FULL} | dict(item), "precision", str))),
            beside=tuple(Sidecar.from_json(sidecar) for sidecar in item.get("beside", ())),
            machine=_label(_typed({"machine": ""} | dict(item), "machine", str)),
            without_vnni=_session_entries(_typed({"without_vnni": {}} | dict(item), "without_vnni", dict)),
        )
        if "beside" in item and not entry.beside:
            raise ValueError(f"beside is {item['beside']!r}")
        if entry.part not in EVERY_PART:
            raise ValueError(f"part of a file is {entry.part!r}")
        for sidecar in entry.beside:
            if not sidecar.suffix or sidecar.name != sidecar_name(entry.name, sidecar.suffix):
                raise IntegrityError("name of a sidecar does not match its file", where=sidecar.name, got=entry.name)
        return entry


@dataclass(frozen=True)
class Recommendation:
    """The session options with which a part runs best on one machine, as `tune` measured them.

    Attributes:
        part: the part.
        file, sha256: the measured ONNX file and its hash.
        options: the recommended session options.
        batch: number of rows in each measured call.
        p50_seconds: median time of such a call, in seconds.
        speedup: time with the runtime's defaults divided by this time; 1 if the options are the defaults.
        budget: the allowed loss of accuracy: `max_grey_levels`, `max_nats`, each a number or None.
        machine: the machine of the measurement, see `vae_export.system.hardware.identity`.
    """

    part: Part
    file: str
    sha256: str
    options: SessionOptions
    batch: int
    p50_seconds: float
    speedup: float
    budget: Mapping[str, float | None]
    machine: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the entry for "recommended" in the manifest; "threads" is 0 if ONNX Runtime chooses."""
        return {
            "part": self.part,
            "file": self.file,
            "sha256": self.sha256,
            "provider": self.options.provider,
            "threads": self.options.threads or 0,
            "optimisation": self.options.optimisation,
            "switches": list(self.options.switches),
            "batch": self.batch,
            "p50_seconds": self.p50_seconds,
            "speedup": self.speedup,
            "budget": dict(self.budget),
            "machine": dict(self.machine),
        }


@dataclass(frozen=True)
class Manifest:
    """The content of an export or a bundle.

    Attributes:
        contract: shapes and ranges of images and latents.
        files: the exported files.
        opset: operator set of the ONNX files, and of the ONNX model behind other files; None if it is not known.
        versions: versions of the packages that wrote the files.
        provenance: the origin of the model.
        golden: inputs and expected outputs for self-tests.
        recommended: session options that `tune` recommends, at most one for each part.
        is_of_single_file: whether it was made for a single file, of which nothing else is known.
        unknown: where the document has keys that this version does not know, such as "files.0.licence". Readers ignore
            them.
    """

    contract: Contract
    files: tuple[FileEntry, ...]
    opset: int | None
    versions: Mapping[str, str]
    provenance: Mapping[str, Any]
    golden: tuple[GoldenPart, ...] = ()
    recommended: tuple[Recommendation, ...] = ()
    is_of_single_file: bool = False
    unknown: tuple[str, ...] = field(default=(), compare=False)

    @property
    def stored(self) -> tuple[FileEntry | Sidecar, ...]:
        """Every exported file, each followed by its sidecars."""
        return tuple(stored for entry in self.files for stored in entry.stored)

    @property
    def known(self) -> tuple[FileEntry, ...]:
        """The files whose precision this version knows. Only these may be run."""
        return tuple(entry for entry in self.files if entry.precision in PRECISIONS)

    @property
    def runtime_files(self) -> tuple[FileEntry, ...]:
        """The ONNX files that the runtime may run: of a known precision, and compiled for no kind of machine."""
        return tuple(entry for entry in self.known if entry.format == RUNTIME_FORMAT and not entry.machine)

    def entry(self, part: Part, format: str = "onnx", precision: PrecisionName = FULL) -> FileEntry:
        """Find an exported file.

        Args:
            part: the part in the file.
            format: the format of the file.
            precision: precision of the numbers inside.

        Returns:
            The entry of the file.

        Raises:
            ModelError: the export has no such file, or it is an ONNX file for one kind of machine, which ONNX Runtime
                could not tell from this one.
        """
        for entry in self.known:
            if (entry.part, entry.format, entry.precision) == (part, format, precision):
                if format == RUNTIME_FORMAT and entry.machine:
                    expected = "an ONNX file for any machine"
                    raise ModelError("file is for one machine", where=entry.name, expected=expected, got=entry.machine)
                return entry
        have = ", ".join(entry.name for entry in self.known)
        raise ModelError("export has no such file", where=f"{part}, {format}, {precision}", expected=have)

    def recommendation(self, part: Part) -> Recommendation | None:
        """Return the session options that `tune` recommends for a part, or None."""
        return next((item for item in self.recommended if item.part == part), None)

    def finest(self, part: Part) -> FileEntry:
        """Find the ONNX file of a part with the highest precision, in the order of `PRECISIONS`.

        Args:
            part: the part in the file.

        Returns:
            The entry of the file.

        Raises:
            ModelError: the export has no ONNX file of the part.
        """
        have = {entry.precision for entry in self.runtime_files if entry.part == part}
        highest = next((precision for precision in PRECISIONS if precision in have), FULL)
        return self.entry(part, RUNTIME_FORMAT, highest)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document. "opset" is 0 if it is not known, and "recommended" is left out if it is empty."""
        advice = {"recommended": [item.to_json() for item in self.recommended]} if self.recommended else {}
        return advice | {
            "format": FORMAT if self.contract.is_plain else EXTENDED_FORMAT,
            "precision": DTYPE,
            "contract": self.contract.to_json(),
            "files": [entry.to_json() | self.contract.spec(entry.part).to_json() for entry in self.files],
            "golden": [part.to_json() for part in self.golden],
            "opset": self.opset or 0,
            "versions": dict(self.versions),
            "provenance": dict(self.provenance),
        }

    @property
    def text(self) -> bytes:
        """The bytes of manifest.json."""
        return (json.dumps(self.to_json(), indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of an export folder.

    Args:
        folder: the export folder.

    Returns:
        The manifest, checked against the specification.

    Raises:
        ModelError: the folder has no manifest, or the manifest has another version.
        IntegrityError: the manifest cannot be read.
    """
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MANIFEST_LIMIT:
            raise IntegrityError("manifest is too large", where=path, expected=f"{MANIFEST_LIMIT:,} bytes at most")
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        inner = Run(folder).export
        do = f"pass {inner}" if (inner / MANIFEST).is_file() else "run: vae-export export"
        raise ModelError("no export found", where=folder, expected=MANIFEST, do=do) from error
    except OSError as error:
        raise IntegrityError("manifest cannot be read", where=path, got=error.strerror) from error
    return parse_manifest(data, path)


def parse_manifest(data: bytes, where: Path | str) -> Manifest:
    """Parse the bytes of a manifest.

    Args:
        data: the bytes of the file.
        where: the path of the file, for messages.

    Returns:
        The manifest, checked against the specification.

    Raises:
        ModelError: the manifest has another version.
        IntegrityError: the manifest cannot be read.
    """
    document = parse_json(data, "manifest", where)
    found = document.get("format") if isinstance(document, dict) else document
    if found not in (FORMAT, EXTENDED_FORMAT):
        expected = f"{FORMAT} | {EXTENDED_FORMAT}"
        raise ModelError("export of another version", where=where, expected=expected, got=str(found)[:80])
    if document.get("precision") != DTYPE:
        got = str(document.get("precision"))[:80]
        raise ModelError("inputs and outputs of another precision", where=where, expected=DTYPE, got=got)
    try:
        contract = _contract(document["contract"], found)
        if contract.is_plain != (found == FORMAT):
            raise IntegrityError("contract is not of this version of the format", where=where, got=found)
        files = tuple(FileEntry.from_json(item) for item in document["files"])
        for item, entry in zip(document["files"], files, strict=True):
            _check_tensors(item, entry, contract)
        golden, versions = _golden(document, contract, files), _typed(document, "versions", dict)
        if len({(entry.part, entry.format, entry.precision) for entry in files}) != len(files):
            raise IntegrityError("manifest lists a part twice in one format and precision", where=where)
        manifest = Manifest(
            contract,
            files,
            _opset(document, files),
            {_label(name): _label(_typed(versions, name, str)) for name in versions},
            _typed(document, "provenance", dict),
            golden,
            _recommendations(document.get("recommended"), files),
        )
        check_distinct(stored.name for stored in manifest.stored)
        return replace(manifest, unknown=tuple(_unknown_keys(document, manifest.to_json())))
    except (ModelError, IntegrityError) as error:
        if str(where) in str(error):
            raise
        place = where if error.where is None else f"{where}, {error.where}"
        raise type(error)(error.what, where=place, expected=error.expected, got=error.got, do=error.do) from error
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise IntegrityError("manifest cannot be read", where=where, got=repr(error)[:200]) from error


#: Keys that are left out where they are empty, and that may be stated so.
_LEFT_OUT_WHEN_EMPTY = ("machine", "without_vnni", "recommended", "likelihood", "bands", "beside")
#: The recommendations, of which readers follow those that they know: each is one thing.
_ADVICE = "recommended"


def _unknown_keys(stated: Any, known: Any, where: str = "") -> Iterator[str]:
    """Yield where a document has keys that the manifest that was read from it has not, or advice that it left out."""
    if where == f"{_ADVICE}.":
        yield from (f"{where}{place}" for place, item in enumerate(stated) if item not in known)
    elif isinstance(stated, dict) and isinstance(known, dict):
        for key, value in stated.items():
            if key in known or (key == _ADVICE and not where and isinstance(value, list)):
                yield from _unknown_keys(value, known.get(key, []), f"{where}{key}.")
            elif key not in _LEFT_OUT_WHEN_EMPTY or value not in (None, "", [], {}):
                yield f"{where}{key if key.isprintable() else ascii(key)}"
    elif isinstance(stated, list) and isinstance(known, list):
        for place, (value, other) in enumerate(zip(stated, known, strict=False)):
            yield from _unknown_keys(value, other, f"{where}{place}.")


def _contract(stated: Mapping[str, Any], format: str) -> Contract:
    """Return the contract of a manifest; in version 1, keys of version 2 are unknown keys, and ignored."""
    if format == FORMAT:
        return Contract.from_json({key: value for key, value in stated.items() if key != "data"})
    if "data" not in stated:
        raise IntegrityError("contract is not of this version of the format", got=format)
    check_integers(stated)
    return Contract.from_json(stated)


def _opset(document: Mapping[str, Any], files: tuple[FileEntry, ...]) -> int | None:
    """Return the operator set, or None if it is not known; raise `ValueError` if there are ONNX files without one."""
    opset, least = document["opset"], 1 if any(entry.format == "onnx" for entry in files) else 0
    if type(opset) is not int or not least <= opset < 1 << 53:
        raise ValueError(f"opset is {opset!r}")
    return opset if opset > 0 else None


def _check_tensors(item: Mapping[str, Any], entry: FileEntry, contract: Contract) -> None:
    """Raise `IntegrityError` unless the inputs and outputs of a file equal those of the contract."""
    spec = contract.spec(entry.part).to_json()
    stated = [size for kind in spec for tensor in item[kind] for size in tensor["shape"] if not isinstance(size, str)]
    if not has_values(item, spec) or not all(type(size) is int for size in stated):
        raise IntegrityError("inputs and outputs do not match the contract", where=entry.name)


def _file_name(name: str) -> str:
    """Return the name of a file in the export folder itself; raise `IntegrityError` for any other name."""
    if "/" in (checked := check_name(name)):
        raise IntegrityError("model file is in a subfolder", where=checked)
    return checked


def _typed(item: Mapping[str, Any], key: str, kind: type[T]) -> T:
    """Return the value of a key; raise `TypeError` unless it has exactly this type (True is not an int)."""
    value = item[key]
    if type(value) is not kind:
        raise TypeError(f"{key} is {value!r}")
    return value


def _label(text: str) -> str:
    """Return a text that is shown on one line; raise `ValueError` for control characters and line breaks in it."""
    if not text.isprintable():
        raise ValueError(f"text is not printable: {text!r}")
    return text


def _session_entries(entries: Mapping[str, Any]) -> dict[str, str]:
    """Return entries of a session's configuration; raise `ValueError` unless they are texts."""
    if not all(isinstance(value, str) for value in entries.values()):
        raise ValueError(f"without_vnni is {entries!r}")
    return {_label(key): _label(value) for key, value in entries.items()}


def _golden(document: Mapping[str, Any], contract: Contract, files: tuple[FileEntry, ...]) -> tuple[GoldenPart, ...]:
    """Return the golden vectors after checking them against the contract. Exports of the first versions have none."""
    if not document.get("golden"):
        return ()
    from vae_export.artifact.golden import (  # imported late, because it imports numpy and the command line starts fast
        FEWEST_ROWS,
        GOLDEN_FOLDER,
        MOST_ROWS,
        GoldenPart,
    )

    bounds = contract.symbols.get(BATCH, Symbol())
    fewest, most = max(bounds.low, min(FEWEST_ROWS, bounds.high or FEWEST_ROWS)), max(MOST_ROWS, bounds.low)

    parts = tuple(GoldenPart.from_json(item) for item in document["golden"])
    if sorted(part.part for part in parts) != sorted({float_part(entry.part) for entry in files}):
        raise IntegrityError("golden vectors do not match the files", got=[part.part for part in parts])
    for part in parts:
        spec, sizes = contract.spec(part.part), dict[str, int]()
        for arrays, tensors in ((part.inputs, spec.inputs), (part.outputs, spec.outputs)):
            wanted = [(tensor.name, tensor.dtype, tensor.item) for tensor in tensors]
            if not _fit(arrays, tensors, sizes):
                raise IntegrityError("golden vectors do not match the contract", where=part.part, expected=wanted)
        everything = (*part.inputs, *part.outputs)
        for array in everything:
            if not fewest <= array.shape[0] <= most:
                raise ValueError(f"a golden array has {array.shape[0]} rows, not {fewest} to {most}")
        if len({array.shape[0] for array in everything}) != 1:
            raise IntegrityError("golden vectors differ in length", where=part.part)
        for array in everything:
            if not check_name(array.name).startswith(f"{GOLDEN_FOLDER}/"):
                raise IntegrityError(
                    "golden vector is in another folder", where=array.name, expected=f"{GOLDEN_FOLDER}/"
                )
    return parts


def _fit(arrays: Sequence[GoldenArray], tensors: Sequence[TensorSpec], sizes: dict[str, int]) -> bool:
    """Whether golden arrays have the names, dtypes and shapes of tensors, with one value for each symbol."""
    pairs = list(zip(arrays, tensors, strict=False))
    return len(arrays) == len(tensors) and all(
        (array.tensor, array.dtype) == (tensor.name, tensor.dtype) and tensor.fits(array.shape, sizes)
        for array, tensor in pairs
    )


def _recommendations(items: Any, files: Iterable[FileEntry]) -> tuple[Recommendation, ...]:
    """Return the recommendations of a manifest that this version can follow: the first of each part.

    They are advice, so that readers ignore what they do not understand of them: keys and settings of a later version,
    and recommendations of other files.
    """
    by_name = {entry.name: entry for entry in files}
    found = dict[Part, Recommendation]()
    for item in items if isinstance(items, list) else ():
        try:
            advice = _recommendation(item, by_name)
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError):
            continue
        if advice is not None:
            found.setdefault(advice.part, advice)
    return tuple(found.values())


def _recommendation(item: Mapping[str, Any], files: Mapping[str, FileEntry]) -> Recommendation | None:
    """Return a recommendation, or None if this version cannot follow it; it may also raise for wrong types."""
    threads, switches = item["threads"], tuple(item["switches"])
    options = SessionOptions(item["provider"], threads or None, item["optimisation"], switches=switches)
    keys = ("batch", "p50_seconds", "speedup", "budget", "machine")
    found = Recommendation(item["part"], item["file"], item["sha256"], options, **{key: item[key] for key in keys})
    entry = files.get(found.file)
    facts = (
        entry is not None and (entry.part, entry.format, entry.sha256) == (found.part, RUNTIME_FORMAT, found.sha256),
        entry is not None and not entry.machine,
        found.part in PARTS,
        type(options.provider) is str and options.provider.isalnum(),
        type(threads) is int and 0 <= threads <= MAX_THREADS,
        options.optimisation in OPTIMISATION_LEVELS,
        isinstance(item["switches"], list) and set(switches) <= set(SWITCHES) and len(set(switches)) == len(switches),
        type(found.batch) is int and found.batch >= 1,
        all(type(item[name]) in (int, float) and item[name] > 0 for name in ("p50_seconds", "speedup")),
        isinstance(found.budget, dict) and isinstance(found.machine, dict),
    )
    return found if all(facts) else None
