"""An export folder on disk: its manifest, and its files, each read only against its hash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vae_export.contract import Part
from vae_export.errors import IntegrityError, ModelError
from vae_export.files import sha256
from vae_export.manifest import FileEntry, Manifest, read_manifest

CERTIFICATE = "certificate.json"


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
        for entry in self.manifest.files:
            if (entry.part, entry.format) == (part, format):
                return entry
        have = ", ".join(entry.name for entry in self.manifest.files)
        raise ModelError("export has no such file", where=f"{part}, {format}", expected=have)

    def read(self, entry: FileEntry) -> bytes:
        """The file's bytes; raises `IntegrityError` unless they are those that the manifest names."""
        path = self.folder / entry.name
        if path.is_symlink() or (path.exists() and not path.is_file()):  # a pipe or a device would never end
            raise IntegrityError("exported file is a link or a device", where=path, expected="a plain file")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise IntegrityError("exported file cannot be read", where=path, got=error.strerror) from error
        if (found := sha256(data)) != entry.sha256:
            raise IntegrityError(
                "exported file was altered",
                where=path,
                expected=f"{entry.size} bytes with SHA-256 {entry.sha256}",
                got=f"{len(data)} bytes with {found}",
                do="export again",
            )
        return data


def open_artifact(folder: str | Path) -> Artifact:
    """Open an export folder. Files are hashed when they are read, not here."""
    return Artifact(Path(folder), read_manifest(Path(folder)))
