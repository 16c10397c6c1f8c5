"""manifest.json: what an export folder holds, with the hash of every file. The runtime reads it too: no torch here.

format      "vae-export/1"
contract    shapes and ranges (see `vae_export.contract`)
files       name, part, format, bytes, sha256, inputs and outputs
precision   "float32"
opset       of the ONNX files
versions    of what wrote them
provenance  what was exported: checkpoint, config, training
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vae_export.contract import PARTS, Contract, Part
from vae_export.errors import IntegrityError, ModelError, VaeExportError
from vae_export.files import sha256

FORMAT = "vae-export/1"
NAME = "manifest.json"
#: The opset of files that nobody said it of.
NOT_STATED = 0
#: No manifest of ours comes near this; a larger one is not read.
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class FileEntry:
    """One exported file."""

    name: str
    part: Part
    format: str
    size: int
    sha256: str

    @classmethod
    def of(cls, name: str, part: Part, format: str, data: bytes) -> FileEntry:
        return cls(name, part, format, len(data), sha256(data))


@dataclass(frozen=True)
class Manifest:
    contract: Contract
    files: tuple[FileEntry, ...]
    opset: int
    versions: Mapping[str, str]
    provenance: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "precision": "float32",
            "contract": self.contract.to_json(),
            "files": [vars(entry) | self.contract.spec(entry.part).to_json() for entry in self.files],
            "opset": self.opset,
            "versions": dict(self.versions),
            "provenance": dict(self.provenance),
        }

    @property
    def text(self) -> bytes:
        return (json.dumps(self.to_json(), indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def read_manifest(folder: Path) -> Manifest:
    """Raises `ModelError` for a folder without a manifest or of another version, `IntegrityError` for a broken one."""
    path = folder / NAME
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise IntegrityError("manifest too large", where=path, expected=f"{_MAX_BYTES:,} bytes at most")
        data = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelError(
            "no export here", where=folder, expected=NAME, do="run: python cli.py export --format onnx"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError("manifest cannot be read", where=path, got=str(error)) from error
    found = data.get("format") if isinstance(data, dict) else data
    if found != FORMAT:
        raise ModelError("export of another version", where=path, expected=FORMAT, got=found)
    try:
        files = tuple(_entry(item) for item in data["files"])
        return Manifest(
            Contract.from_json(data["contract"]),
            files,
            int(data["opset"]),
            dict(data["versions"]),
            dict(data["provenance"]),
        )
    except VaeExportError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise IntegrityError("manifest cannot be read", where=path, got=repr(error)) from error


def _entry(item: Mapping[str, Any]) -> FileEntry:
    entry = FileEntry(*(item[key] for key in ("name", "part", "format", "size", "sha256")))
    for key, kind in FileEntry.__annotations__.items():
        if not isinstance(getattr(entry, key), int if kind == "int" else str):
            raise TypeError(f"{key} of a file is {getattr(entry, key)!r}")
    # A name with a folder in it could point at any file of the machine.
    if (
        entry.part not in PARTS
        or Path(entry.name).name != entry.name
        or entry.name in ("", ".", "..")
        or not entry.name.isprintable()
    ):
        raise IntegrityError("manifest names a file outside its folder", where=entry.name)
    return entry
