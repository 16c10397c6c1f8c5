"""An export folder on disk: its manifest, and its files, each read only against its hash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vae_export.artifact.manifest import FileContent, FileEntry, Manifest, read_manifest
from vae_export.contract import Part
from vae_export.errors import IntegrityError
from vae_export.io.atomic import sha256

CERTIFICATE = "certificate.json"


class Hashed(Protocol):
    """A file that a manifest names."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def sha256(self) -> str: ...


class Package(Protocol):
    """What the runtime reads: an export folder, or a bundle."""

    @property
    def manifest(self) -> Manifest: ...

    def read(self, file: Hashed) -> bytes:
        """The file's bytes; raises `IntegrityError` unless they are those that the manifest names."""


@dataclass(frozen=True)
class Artifact:
    """Attributes:
    folder: where manifest.json and the exported files lie.
    manifest: what they are.
    """

    folder: Path
    manifest: Manifest

    @property
    def certificate(self) -> Path:
        return self.folder / CERTIFICATE

    def entry(self, part: Part, format: str = "onnx") -> FileEntry:
        """The file of a part in a format; raises `ModelError` where the export has none."""
        return self.manifest.entry(part, format)

    def read(self, file: Hashed) -> bytes:
        """The file's bytes; raises `IntegrityError` unless they are those that the manifest names."""
        path = self.folder / file.name
        links = [step for step in (path, path.parent) if step != self.folder and step.is_symlink()]
        if links or (path.exists() and not path.is_file()):  # a pipe or a device would never end
            raise IntegrityError("exported file is a link or a device", where=path, expected="a plain file")
        try:
            if (size := path.stat().st_size) > file.size:  # before it is read: it may be larger than memory
                raise _altered(file, path, f"{size} bytes")
            data = path.read_bytes()
        except OSError as error:
            raise IntegrityError("exported file cannot be read", where=path, got=error.strerror) from error
        check_hash(file, data, path)
        return data


def read_content(package: Package, entry: FileEntry) -> FileContent:
    """Read an exported file with its sidecars; raises as `Package.read` does."""
    return FileContent(package.read(entry), {sidecar.suffix: package.read(sidecar) for sidecar in entry.beside})


def check_hash(file: Hashed, data: bytes | memoryview, where: Path | str) -> None:
    """Raise `IntegrityError` unless these are the bytes that the manifest names."""
    found = sha256(data)
    if len(data) != file.size or found != file.sha256:
        raise _altered(file, where, f"{len(data)} bytes with {found}")


def _altered(file: Hashed, where: Path | str, got: str) -> IntegrityError:
    return IntegrityError(
        "exported file was altered",
        where=where,
        expected=f"{file.size} bytes with SHA-256 {file.sha256}",
        got=got,
        do="export again, or fetch it again",
    )


def open_artifact(folder: str | Path) -> Artifact:
    """Open an export folder. Files are hashed when they are read, not here."""
    return Artifact(Path(folder), read_manifest(Path(folder)))
