"""manifest.json: what an export or a bundle holds, with the hash of every file. No torch here: the runtime reads it.

docs/bundle-format.md, section 3, is the specification.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from vae_export.companions import companion_name, contents
from vae_export.contract import EVERY_PART, Contract, Part, float_part
from vae_export.errors import IntegrityError, ModelError, VaeExportError
from vae_export.files import sha256
from vae_export.names import check_distinct, check_name
from vae_export.precision import FULL, PRECISIONS, PrecisionName
from vae_export.strict_json import MANIFEST_LIMIT, parse_json

if TYPE_CHECKING:
    from vae_export.golden import GoldenPart
    from vae_export.recommended import Recommendation

FORMAT = "vae-export/1"
NAME = "manifest.json"
#: Of all inputs and outputs.
DTYPE = "float32"
#: The opset of files that nobody said it of.
NOT_STATED = 0


@dataclass(frozen=True)
class Companion:
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
    beside: tuple[Companion, ...] = ()
    machine: str = ""

    @classmethod
    def of(
        cls,
        name: str,
        part: Part,
        format: str,
        data: bytes,
        precision: PrecisionName = FULL,
        machine: str = "",
    ) -> FileEntry:
        """The entry of a file with these bytes, and of its companions."""
        _, *beside = (Companion(name, len(data), sha256(data)) for name, data in contents(name, data).items())
        return cls(name, part, format, len(data), sha256(data), precision, tuple(beside), machine)

    @property
    def stored(self) -> tuple[FileEntry | Companion, ...]:
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
    def stored(self) -> tuple[FileEntry | Companion, ...]:
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
    path = folder / NAME
    try:
        if path.stat().st_size > MANIFEST_LIMIT:
            raise IntegrityError("manifest is too large", where=path, expected=f"{MANIFEST_LIMIT:,} bytes at most")
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelError("no export here", where=folder, expected=NAME, do="run: vae-export export") from error
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
        Companion(**{key: companion[key] for key in Companion.__annotations__}) for companion in item.get("beside", ())
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
        if companion.name != companion_name(entry.name, companion.suffix):
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
    from vae_export.recommended import parse

    return parse(document["recommended"], files)


def _golden(document: Mapping[str, Any], contract: Contract, files: tuple[FileEntry, ...]) -> tuple[GoldenPart, ...]:
    """The golden vectors, each held against the contract. An export of before there were any has none."""
    if not document.get("golden"):
        return ()
    from vae_export.golden import FOLDER, GoldenPart  # with numpy, which the command line does without until here

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
            if not check_name(array.name).startswith(f"{FOLDER}/"):
                raise IntegrityError("golden vector lies elsewhere", where=array.name, expected=f"{FOLDER}/")
    return parts
