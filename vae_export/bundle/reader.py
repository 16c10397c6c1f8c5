"""Which entries a bundle has, and in which order: docs/bundle-format.md, section 2.

A bundle that was opened: every byte of it accounted for, before any of it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vae_export.artifact.certificate import StoredCertificate, parse_certificate
from vae_export.artifact.folder import CERTIFICATE, Hashed, check_hash
from vae_export.artifact.manifest import MANIFEST, Manifest, parse_manifest
from vae_export.bundle.archive import check_crcs, read_archive
from vae_export.errors import IntegrityError, ModelError
from vae_export.io.atomic import sha256

SUMS = "SHA256SUMS"
PAGE = "certificate.html"
CARD = "MODEL_CARD.md"
LICENCE = "LICENSE"
#: What a bundle may be without.
OPTIONAL = frozenset({PAGE})


def golden_names(manifest: Manifest) -> list[str]:
    """The files of the golden vectors, each once, in the order of their first mention."""
    arrays = (array for part in manifest.golden for array in (*part.inputs, *part.outputs))
    return list(dict.fromkeys(array.name for array in arrays))


def entries(manifest: Manifest) -> list[str]:
    """The names of all entries but `SUMS`, in order."""
    models = [stored.name for stored in manifest.stored]
    return [MANIFEST, *models, *golden_names(manifest), CERTIFICATE, PAGE, CARD, LICENCE]


#: A ZIP file without its 64-bit extension is smaller than this.
_MOST_BYTES = 1 << 32


@dataclass(frozen=True)
class Bundle:
    """Attributes:
    path: of the file.
    manifest: what is in it.
    certificate: the record of its verification.
    files: every entry by name, in order; the data are views of one block of memory.
    identity: SHA-256 of its list of hashes: equal contents, and only they, have the same.
    """

    path: Path
    manifest: Manifest
    certificate: StoredCertificate
    files: Mapping[str, memoryview] = field(repr=False)
    identity: str

    @property
    def card(self) -> str:
        """The model card, Markdown."""
        return bytes(self.files[CARD]).decode("utf-8", "replace")

    @property
    def licence(self) -> str:
        return bytes(self.files[LICENCE]).decode("utf-8", "replace")

    def read(self, file: Hashed) -> bytes:
        """The bytes of a file that the manifest names."""
        return bytes(self.files[file.name])


def open_bundle(path: str | Path) -> Bundle:
    """Open a bundle strictly.

    Raises:
        ModelError: no such file, or a manifest of another version.
        InputError: a certificate of another version.
        IntegrityError: any byte out of place: an altered, missing, extra or misnamed file, a file that is not in the
            canonical form, a certificate of other files. The message names the file.
        ParityError: the certificate in it did not pass.
    """
    path = Path(path)
    return read_bundle(_bytes(path), path)


def read_bundle(data: bytes, path: Path) -> Bundle:
    """`open_bundle` of bytes that are, or are to be, the file at `path`."""
    files = read_archive(data, path)
    if SUMS not in files or next(iter(files)) != SUMS:
        raise IntegrityError(
            "not a bundle", where=path, expected=f"{SUMS} as its first file", got=next(iter(files), None)
        )
    sums = bytes(files[SUMS])
    _check_sums(sums, {name: data for name, data in files.items() if name != SUMS}, path)
    check_crcs(data, path)
    if MANIFEST not in files:
        raise IntegrityError("file is missing", where=f"{path}, {MANIFEST}")
    manifest = parse_manifest(bytes(files[MANIFEST]), f"{path}, {MANIFEST}")
    _check_contents(manifest, list(files), path)
    for stored in manifest.stored:
        check_hash(stored, files[stored.name], f"{path}, {stored.name}")
    for part in manifest.golden:
        for array in (*part.inputs, *part.outputs):
            check_hash(array, files[array.name], f"{path}, {array.name}")
    record = parse_certificate(bytes(files[CERTIFICATE]), f"{path}, {CERTIFICATE}")
    record.require(manifest, f"{path}, {CERTIFICATE}")
    return Bundle(path, manifest, record, files, sha256(sums))


def _bytes(path: Path) -> bytes:
    try:
        if not path.is_file():  # a device or a pipe would never end
            raise ModelError("no bundle here", where=path, got="no such file" if not path.exists() else "not a file")
        if (size := path.stat().st_size) >= _MOST_BYTES:
            raise IntegrityError(
                "bundle is too large", where=path, expected=f"less than {_MOST_BYTES:,} bytes", got=size
            )
        return path.read_bytes()
    except OSError as error:
        raise ModelError("bundle cannot be read", where=path, got=error.strerror) from error


def _check_sums(sums: bytes, files: Mapping[str, memoryview], path: Path) -> None:
    """Hold every file against its line; then the list as a whole, so that it has one spelling only."""
    try:
        lines = [line.split("  ") for line in sums.decode("ascii").splitlines()]
        stated = {name: digest for digest, name in lines}
    except ValueError as error:
        raise IntegrityError("list of hashes cannot be read", where=f"{path}, {SUMS}", got=str(error)) from error
    for name, data in files.items():
        if name not in stated:
            raise IntegrityError("extra file", where=f"{path}, {name}", expected=f"the files in {SUMS}")
        if (found := sha256(data)) != stated[name]:
            raise IntegrityError(
                "file was altered",
                where=f"{path}, {name}",
                expected=f"SHA-256 {stated[name]}",
                got=found,
                do="fetch the bundle again",
            )
    for name in stated:
        if name not in files:
            raise IntegrityError("file is missing", where=f"{path}, {name}")
    if sums != "".join(f"{stated[name]}  {name}\n" for name in files).encode():
        raise IntegrityError("list of hashes is out of form", where=f"{path}, {SUMS}")


def _check_contents(manifest: Manifest, names: list[str], path: Path) -> None:
    """Every entry is one that the format knows, and every one that it asks for is there, in order."""
    wanted = [SUMS, *entries(manifest)]
    for name in names:
        if name not in wanted:
            raise IntegrityError("extra file", where=f"{path}, {name}", expected="what manifest.json names")
    for name in wanted:
        if name not in names and name not in OPTIONAL:
            raise IntegrityError("file is missing", where=f"{path}, {name}")
    if not manifest.golden:
        raise IntegrityError("bundle has no golden vectors", where=f"{path}, {MANIFEST}")
    if names != [name for name in wanted if name in names]:
        raise IntegrityError("files are out of order", where=path, expected=wanted, got=names)
