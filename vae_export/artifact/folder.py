"""Read an export folder: its manifest, and its files, whose hashes are checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vae_export.artifact.manifest import FileContent, FileEntry, Manifest, read_manifest
from vae_export.contract import Part
from vae_export.errors import IntegrityError
from vae_export.io.atomic import sha256

CERTIFICATE = "certificate.json"


class Hashed(Protocol):
    """A file that a manifest names, with its size in bytes and its hash."""

    @property
    def name(self) -> str:
        """The name of the file, relative to the folder or the bundle."""

    @property
    def size(self) -> int:
        """The size of the file in bytes."""

    @property
    def sha256(self) -> str:
        """The SHA-256 of the file, as 64 lower-case hexadecimal digits."""


class Package(Protocol):
    """The interface through which the runtime reads an export folder or a bundle."""

    @property
    def manifest(self) -> Manifest:
        """The manifest of the export folder or the bundle."""

    def read(self, file: Hashed) -> bytes:
        """Return the bytes of a file; raise `IntegrityError` unless they are those that the manifest names."""


@dataclass(frozen=True)
class Artifact:
    """An export folder.

    Attributes:
        folder: the folder with manifest.json and the exported files.
        manifest: the contract and the list of files.
    """

    folder: Path
    manifest: Manifest

    @property
    def certificate(self) -> Path:
        """The path of the certificate, which need not exist."""
        return self.folder / CERTIFICATE

    def entry(self, part: Part, format: str = "onnx") -> FileEntry:
        """Return the float32 file of a part in a format; raise `ModelError` if the export has none."""
        return self.manifest.entry(part, format)

    def require_origin(self, weights: object, *, do: str = "export again") -> bool:
        """Whether the manifest names these weights.

        Args:
            weights: the hash of a checkpoint, or the hashes of files of weights by name; None if nothing is known.
            do: what to do if it names others.

        Raises:
            IntegrityError: the manifest names other weights.
        """
        exported = weights_in(self.manifest.provenance)
        if exported and weights and exported != weights:
            expected = f"SHA-256 {weights}"
            what = "export is of another checkpoint"
            raise IntegrityError(what, where=self.folder, expected=expected, got=exported, do=do)
        return bool(exported and weights)

    def read(self, file: Hashed) -> bytes:
        """Return the bytes of a file; raise `IntegrityError` unless they are those that the manifest names."""
        path = self.folder / file.name
        links = [step for step in (path, path.parent) if step != self.folder and step.is_symlink()]
        if links or (path.exists() and not path.is_file()):  # a pipe or a device would never end
            raise IntegrityError("exported file is a link or a device", where=path, expected="a plain file")
        try:
            if (size := path.stat().st_size) > file.size:  # checked before reading: the file may not fit into memory
                raise _altered(file, path, f"{size} bytes")
            data = path.read_bytes()
        except OSError as error:
            do = "export again, or fetch it again"
            raise IntegrityError("exported file cannot be read", where=path, got=error.strerror, do=do) from error
        check_hash(file, data, path)
        return data


def read_content(package: Package, entry: FileEntry) -> FileContent:
    """Return an exported file with its sidecars; raise the errors that `Package.read` raises."""
    return FileContent(package.read(entry), {sidecar.suffix: package.read(sidecar) for sidecar in entry.beside})


def check_hash(file: Hashed, data: bytes | memoryview, where: Path | str) -> None:
    """Check the bytes of a file against the manifest.

    Args:
        file: the entry of the manifest that names size and hash.
        data: the bytes to check.
        where: the path of the file, for messages.

    Raises:
        IntegrityError: size or hash is not the one that the manifest names.
    """
    check_digest(file, len(data), sha256(data), where)


def check_digest(file: Hashed, size: int, digest: str, where: Path | str) -> None:
    """Check the size and the hash of a file against the manifest.

    Args:
        file: the entry of the manifest that names size and hash.
        size: the size to check, in bytes.
        digest: the SHA-256 to check, as 64 lower-case hexadecimal digits.
        where: the path of the file, for messages.

    Raises:
        IntegrityError: size or hash is not the one that the manifest names.
    """
    if (size, digest) != (file.size, file.sha256):
        raise _altered(file, where, f"{size} bytes with {digest}")


def _altered(file: Hashed, where: Path | str, got: str) -> IntegrityError:
    return IntegrityError(
        "exported file was altered",
        where=where,
        expected=f"{file.size} bytes with SHA-256 {file.sha256}",
        got=got,
        do="export again, or fetch it again",
    )


def weights_in(provenance: Mapping[str, Any]) -> object:
    """Return the hash of the checkpoint that a provenance names, or those of files of weights by name, or None."""
    return provenance.get("checkpoint_sha256") or provenance.get("weights_sha256") or None


def open_artifact(folder: str | Path) -> Artifact:
    """Open an export folder. The hash of each file is checked later, when the file is read.

    Args:
        folder: the folder that `export` wrote.

    Returns:
        The folder with its manifest.

    Raises:
        ModelError: the manifest is missing, or has another version.
        IntegrityError: the manifest cannot be read.
    """
    return Artifact(Path(folder), read_manifest(Path(folder)))
