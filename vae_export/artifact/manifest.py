"""How a part runs best on one machine, as `tune` found it and a manifest states it. No torch and no engine in here.

docs/bundle-format.md, section 3, has the JSON.

manifest.json: what an export or a bundle holds, with the hash of every file. No torch here: the runtime reads it.

docs/bundle-format.md, section 3, is the specification.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from vae_export.contract import EVERY_PART, PARTS, Contract, Part, float_part
from vae_export.errors import IntegrityError, ModelError, VaeExportError
from vae_export.io.atomic import sha256
from vae_export.io.strict import MANIFEST_LIMIT, check_distinct, check_name, parse_json
from vae_export.precision import FULL, PRECISIONS, PrecisionName
from vae_export.session_options import MAX_THREADS, OPTIMISATION_LEVELS, RUNTIME_FORMAT, SWITCHES, SessionOptions

if TYPE_CHECKING:
    from vae_export.artifact.golden import GoldenPart


@dataclass(frozen=True)
class FileContent:
    """The bytes of an exported file and of its sidecars.

    Attributes:
        data: the file itself.
        sidecars: what must lie beside it, by suffix, such as ".bin"; nearly every format has none.
    """

    data: bytes
    sidecars: Mapping[str, bytes] = field(default_factory=dict)

    def by_name(self, name: str) -> dict[str, bytes]:
        """Return every file to write, by name: `name` first, then its sidecars, which differ in the suffix."""
        return {name: self.data} | {sidecar_name(name, suffix): data for suffix, data in self.sidecars.items()}


def sidecar_name(name: str, suffix: str) -> str:
    """decoder.openvino.xml, ".bin" → decoder.openvino.bin: where OpenVINO itself looks for it."""
    return str(PurePosixPath(name).with_suffix(suffix))


@dataclass(frozen=True)
class Recommendation:
    """The session options with which a part runs best on one machine, as `tune` measured them.

    Attributes:
        part: which graph.
        file, sha256: the ONNX file that was measured, and its hash.
        options: how it is opened.
        batch: number of rows in the calls that it was the fastest for.
        p50_seconds: median time of such a call.
        speedup: time of the runtime's defaults divided by this one's; 1 where they are the same.
        budget: how much accuracy the file was allowed to lose: `max_grey_levels`, `max_nats`, each a number or None.
        machine: where it was measured, see `vae_export.system.hardware.identity`.
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
        """Return the entry of "recommended" in the manifest; "threads" is 0 where ONNX Runtime chooses."""
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


def parse_recommendations(items: Any, files: Iterable[FileEntry]) -> tuple[Recommendation, ...]:
    """What a manifest recommends.

    Raises `IntegrityError` for what names a file that is not there or has other bytes, and for settings that do not
    exist; `KeyError`, `TypeError` or `ValueError` for what is no recommendation at all.
    """
    if not isinstance(items, list):
        raise TypeError("recommended is no list")
    found = tuple(_one(item, list(files)) for item in items)
    if len({item.part for item in found}) != len(found):
        raise IntegrityError("a part has two recommendations", got=[item.part for item in found])
    return found


def _one(item: Mapping[str, Any], files: list[FileEntry]) -> Recommendation:
    # Keys that a later version added are ignored, as everywhere in the manifest.
    threads, switches = item["threads"], tuple(item["switches"])
    options = SessionOptions(item["provider"], threads or None, item["optimisation"], switches=switches)
    keys = ("batch", "p50_seconds", "speedup", "budget", "machine")
    found = Recommendation(item["part"], item["file"], item["sha256"], options, **{key: item[key] for key in keys})
    for name in ("p50_seconds", "speedup"):
        _check(name, type(value := item[name]) in (int, float) and value > 0, value)
    _check("part", found.part in PARTS, found.part)
    _check("provider", type(options.provider) is str and options.provider.isalnum(), options.provider)
    _check("threads", type(threads) is int and 0 <= threads <= MAX_THREADS, threads)
    _check("batch", type(found.batch) is int and found.batch >= 1, found.batch)
    _check("optimisation", options.optimisation in OPTIMISATION_LEVELS, options.optimisation)
    unknown = set(map(str, switches)) - set(SWITCHES)
    _check("switches", not unknown and len(set(switches)) == len(switches), switches)
    for name in ("budget", "machine"):
        _check(name, isinstance(item[name], dict), item[name])
    entry = next((entry for entry in files if entry.name == found.file), None)
    if entry is None or (entry.part, entry.format) != (found.part, RUNTIME_FORMAT):
        expected = f"an {RUNTIME_FORMAT} file of {found.part}"
        raise IntegrityError("recommended file is not one that can be run", where=str(found.file), expected=expected)
    if entry.sha256 != found.sha256:
        raise IntegrityError(
            "recommendation is of another file",
            where=found.file,
            expected=f"SHA-256 {entry.sha256}",
            got=str(found.sha256)[:80],
            do="run: vae-export tune",
        )
    return found


def _check(name: str, is_right: bool, got: object) -> None:
    if not is_right:
        raise IntegrityError(f"recommended {name} does not exist", got=str(got)[:80], do="run: vae-export tune")


FORMAT = "vae-export/1"
MANIFEST = "manifest.json"
#: Of all inputs and outputs.
DTYPE = "float32"
#: The opset of files that nobody said it of.
NOT_STATED = 0


@dataclass(frozen=True)
class Sidecar:
    """A file that an exported one needs beside it."""

    name: str
    size: int
    sha256: str

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix


@dataclass(frozen=True)
class FileEntry:
    """One exported file. In most formats nothing must lie beside it, and it runs on any machine: `machine` is empty.

    A file that a newer version wrote may have a precision that is none of `PRECISIONS`: see `Manifest.known`.
    """

    name: str
    part: Part
    format: str
    size: int
    sha256: str
    precision: PrecisionName = FULL
    beside: tuple[Sidecar, ...] = ()
    machine: str = ""

    @classmethod
    def of(
        cls,
        name: str,
        part: Part,
        format: str,
        content: FileContent,
        precision: PrecisionName = FULL,
        machine: str = "",
    ) -> FileEntry:
        """Return the entry of a file with this content."""
        first, *beside = (Sidecar(name, len(data), sha256(data)) for name, data in content.by_name(name).items())
        return cls(name, part, format, first.size, first.sha256, precision, tuple(beside), machine)

    @property
    def stored(self) -> tuple[FileEntry | Sidecar, ...]:
        """All that lies on disk for it, itself first."""
        return (self, *self.beside)

    def to_json(self) -> dict[str, Any]:
        """A file that stands alone has no "beside", one that runs anywhere no "machine"."""
        beside = [vars(item) for item in self.beside]
        return {key: value for key, value in (vars(self) | {"beside": beside}).items() if value not in ([], "")}


@dataclass(frozen=True)
class Manifest:
    """What an export or a bundle holds."""

    contract: Contract
    files: tuple[FileEntry, ...]
    opset: int
    versions: Mapping[str, str]
    provenance: Mapping[str, Any]
    golden: tuple[GoldenPart, ...] = ()
    recommended: tuple[Recommendation, ...] = ()

    @property
    def stored(self) -> tuple[FileEntry | Sidecar, ...]:
        """Every model file, each followed by what lies beside it."""
        return tuple(stored for entry in self.files for stored in entry.stored)

    @property
    def known(self) -> tuple[FileEntry, ...]:
        """The files that may be run: those in a precision that this version knows."""
        return tuple(entry for entry in self.files if entry.precision in PRECISIONS)

    def entry(self, part: Part, format: str = "onnx", precision: PrecisionName = FULL) -> FileEntry:
        """The file of a part in a format and a precision; raises `ModelError` where there is none."""
        for entry in self.known:
            if (entry.part, entry.format, entry.precision) == (part, format, precision):
                return entry
        have = ", ".join(entry.name for entry in self.known)
        raise ModelError("export has no such file", where=f"{part}, {format}, {precision}", expected=have)

    def recommendation(self, part: Part) -> Recommendation | None:
        """How a part runs best on the machine that it was tuned on; None where it was not."""
        return next((item for item in self.recommended if item.part == part), None)

    def finest(self, part: Part, format: str = "onnx") -> FileEntry:
        """The file of a part in a format that comes first in `PRECISIONS`; raises `ModelError` where there is none."""
        have = {entry.precision for entry in self.known if (entry.part, entry.format) == (part, format)}
        return self.entry(part, format, next((precision for precision in PRECISIONS if precision in have), FULL))

    def to_json(self) -> dict[str, Any]:
        """What was never tuned has no "recommended"."""
        advice = {"recommended": [item.to_json() for item in self.recommended]} if self.recommended else {}
        return advice | {
            "format": FORMAT,
            "precision": DTYPE,
            "contract": self.contract.to_json(),
            "files": [entry.to_json() | self.contract.spec(entry.part).to_json() for entry in self.files],
            "golden": [part.to_json() for part in self.golden],
            "opset": self.opset,
            "versions": dict(self.versions),
            "provenance": dict(self.provenance),
        }

    @property
    def text(self) -> bytes:
        """The bytes of manifest.json."""
        return (json.dumps(self.to_json(), indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def read_manifest(folder: Path) -> Manifest:
    """Raises `ModelError` for a folder without a manifest or of another version, `IntegrityError` for a broken one."""
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MANIFEST_LIMIT:
            raise IntegrityError("manifest is too large", where=path, expected=f"{MANIFEST_LIMIT:,} bytes at most")
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelError("no export here", where=folder, expected=MANIFEST, do="run: vae-export export") from error
    except OSError as error:
        raise IntegrityError("manifest cannot be read", where=path, got=error.strerror) from error
    return parse_manifest(data, path)


def parse_manifest(data: bytes, where: Path | str) -> Manifest:
    """The manifest in these bytes; raises as `read_manifest` does."""
    document = parse_json(data, "manifest", where)
    found = document.get("format") if isinstance(document, dict) else document
    if found != FORMAT:
        raise ModelError("export of another version", where=where, expected=FORMAT, got=str(found)[:80])
    if document.get("precision") != DTYPE:
        got = str(document.get("precision"))[:80]
        raise ModelError("inputs and outputs of another precision", where=where, expected=DTYPE, got=got)
    try:
        contract = Contract.from_json(document["contract"])
        files = tuple(_entry(item, contract) for item in document["files"])
        golden = _golden(document, contract, files)
        if len({(entry.part, entry.format, entry.precision) for entry in files}) != len(files):
            raise IntegrityError("a part is there twice in one format and precision", where=where)
        manifest = Manifest(
            contract,
            files,
            _opset(document, files),
            dict(document["versions"]),
            dict(document["provenance"]),
            golden,
            _recommended(document, files),
        )
        check_distinct(stored.name for stored in manifest.stored)
        return manifest
    except VaeExportError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise IntegrityError("manifest cannot be read", where=where, got=repr(error)[:200]) from error


def _entry(item: Mapping[str, Any], contract: Contract) -> FileEntry:
    beside = tuple(
        Sidecar(**{key: companion[key] for key in Sidecar.__annotations__}) for companion in item.get("beside", ())
    )
    # Manifests of the first versions state no precision.
    stated = {"precision": FULL, "machine": ""} | dict(item) | {"beside": beside}
    entry = FileEntry(**{key: stated[key] for key in FileEntry.__annotations__})
    for stored in entry.stored:
        for key, kind in stored.__annotations__.items():
            if key != "beside" and type(getattr(stored, key)) is not (int if kind == "int" else str):
                raise TypeError(f"{key} of a file is {getattr(stored, key)!r}")
        if "/" in check_name(stored.name):
            raise IntegrityError("model file lies in a folder", where=stored.name)
    for companion in beside:
        if companion.name != sidecar_name(entry.name, companion.suffix):
            raise IntegrityError("file beside another has a name of its own", where=companion.name, got=entry.name)
    if entry.part not in EVERY_PART:
        raise ValueError(f"part of a file is {entry.part!r}")
    spec = contract.spec(entry.part).to_json()
    if any(item[key] != spec[key] for key in ("inputs", "outputs")):
        raise IntegrityError("inputs and outputs are not those of the contract", where=entry.name)
    return entry


def _opset(document: Mapping[str, Any], files: tuple[FileEntry, ...]) -> int:
    """Stated wherever there is an ONNX file: without it nothing would hold that file to its operator set."""
    opset = document["opset"]
    if type(opset) is not int or (opset <= NOT_STATED and any(entry.format == "onnx" for entry in files)):
        raise ValueError(f"opset is {opset!r}")
    return opset


def _recommended(document: Mapping[str, Any], files: tuple[FileEntry, ...]) -> tuple[Recommendation, ...]:
    if "recommended" not in document:
        return ()

    return parse_recommendations(document["recommended"], files)


def _golden(document: Mapping[str, Any], contract: Contract, files: tuple[FileEntry, ...]) -> tuple[GoldenPart, ...]:
    """The golden vectors, each held against the contract. An export of before there were any has none."""
    if not document.get("golden"):
        return ()
    from vae_export.artifact.golden import (  # with numpy, which the command line does without until here
        GOLDEN_FOLDER,
        GoldenPart,
    )

    parts = tuple(GoldenPart.from_json(item) for item in document["golden"])
    if sorted(part.part for part in parts) != sorted({float_part(entry.part) for entry in files}):
        raise IntegrityError("golden vectors are not those of the files", got=[part.part for part in parts])
    for part in parts:
        spec = contract.spec(part.part)
        for arrays, tensors in ((part.inputs, spec.inputs), (part.outputs, spec.outputs)):
            wanted = [(tensor.name, tensor.item) for tensor in tensors]
            if [(array.tensor, array.shape[1:]) for array in arrays] != wanted:
                raise IntegrityError("golden vectors are not those of the contract", where=part.part, expected=wanted)
        everything = (*part.inputs, *part.outputs)
        if len({array.shape[0] for array in everything}) != 1:
            raise IntegrityError("golden vectors differ in length", where=part.part)
        for array in everything:
            if not check_name(array.name).startswith(f"{GOLDEN_FOLDER}/"):
                raise IntegrityError("golden vector lies elsewhere", where=array.name, expected=f"{GOLDEN_FOLDER}/")
    return parts
