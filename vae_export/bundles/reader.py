"""Open a bundle, and check every byte before any of it is used.

docs/bundle-format.md, section 2, specifies which entries a bundle has, and in which order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from vae_export.artifact.certificate import StoredCertificate, parse_certificate
from vae_export.artifact.folder import CERTIFICATE, Hashed, check_digest
from vae_export.artifact.manifest import MANIFEST, Manifest, parse_manifest
from vae_export.bundles.archive import begins_with, check_canonical, read_archive, read_file
from vae_export.bundles.signature import SIGNATURE, SIGNATURE_SIZE, Key, check_signature
from vae_export.errors import IntegrityError, UsageError
from vae_export.io.atomic import check_writable, sha256
from vae_export.io.file_names import check_distinct
from vae_export.io.staging import check_file_free

SUMS = "SHA256SUMS"
PAGE = "certificate.html"
CARD = "MODEL_CARD.md"
LICENCE = "LICENSE"
#: The largest text for people, in bytes.
TEXT_LIMIT = 1 << 20
#: Bytes of a line of the list of hashes, with the longest name.
_SUMS_LINE = 64 + 2 + 201 + 1
#: Entries that a bundle may lack.
OPTIONAL = frozenset({SIGNATURE, PAGE})


def golden_names(manifest: Manifest) -> list[str]:
    """Return the file names of the golden vectors, each once, in the order of the manifest."""
    arrays = (array for part in manifest.golden for array in (*part.inputs, *part.outputs))
    return list(dict.fromkeys(array.name for array in arrays))


def entries(manifest: Manifest) -> list[str]:
    """Return the names of the entries that `SUMS` lists, in the order of the specification."""
    models = [stored.name for stored in manifest.stored]
    return [MANIFEST, *models, *golden_names(manifest), CERTIFICATE, PAGE, CARD, LICENCE]


def check_bundle_free(out: Path, *, force: bool) -> None:
    """Check that a bundle can be made; with `force`, also in place of a bundle, whole or damaged, or an empty file.

    Raises:
        OutputExistsError: `out` exists, and `force` was not given.
        UsageError: it is a folder, or another file, which is never replaced.
        StorageError: it cannot be read, or its folder cannot be written.
    """
    check_file_free(out, force=force)
    check_writable(out.parent)
    if out.is_file() and out.stat().st_size and not begins_with(out, SUMS):
        raise UsageError("not a bundle, so --force will not replace it", where=out, do="choose another --out")


@dataclass(frozen=True)
class Bundle:
    """An opened bundle, of which every byte was checked.

    Attributes:
        path: the path of the file.
        manifest: contract, files, golden vectors and recommendations.
        certificate: the certificate of the files.
        files: the content of each entry by name, in order, as views of one buffer.
        identity: SHA-256 of the list of hashes; equal only for bundles with equal contents.
        signed_by: fingerprint of the key with which the signature was checked; None if no key was given.
    """

    path: Path
    manifest: Manifest
    certificate: StoredCertificate
    files: Mapping[str, memoryview] = field(repr=False)
    identity: str
    signed_by: str | None = None

    @property
    def is_signed(self) -> bool:
        """Whether there is a signature. It proves nothing until it was checked with a key."""
        return SIGNATURE in self.files

    @property
    def card(self) -> str:
        """The model card as Markdown."""
        return bytes(self.files[CARD]).decode()

    @property
    def title(self) -> str:
        """The first line of the model card, without the Markdown of a title; empty if the card is empty."""
        return self.card.partition("\n")[0].removeprefix("# ").strip()

    @property
    def licence(self) -> str:
        """The text of the model's licence."""
        return bytes(self.files[LICENCE]).decode()

    def read(self, file: Hashed) -> bytes:
        """Return the bytes of a file that the manifest names."""
        return bytes(self.files[file.name])


def open_bundle(path: str | Path, *, verify_key: Key | None = None) -> Bundle:
    """Open a bundle and check every byte of it.

    Args:
        path: the file, such as mnist.zip.
        verify_key: the Ed25519 public key of whoever must have signed it: the path of a PEM file, or its bytes. None
            accepts unsigned bundles, and does not check a signature.

    Returns:
        The checked bundle.

    Raises:
        ModelError: the file is missing, or its manifest has another version.
        InputError: the certificate has another version.
        IntegrityError: a file was altered, is missing, was added or has another name; the archive is not in the
            canonical form; the certificate belongs to other files. The message names the file. With `verify_key`, also
            if there is no signature by this key.
        ParityError: the certificate did not pass.
    """
    path = Path(path)
    return read_bundle(read_file(path), path, verify_key=verify_key)


def read_bundle(data: bytes, path: Path, *, verify_key: Key | None = None) -> Bundle:
    """Check the bytes of a bundle, and raise the errors that `open_bundle` raises.

    Args:
        data: the bundle.
        path: the file that contains these bytes or will contain them, for messages.
        verify_key: the public key of whoever must have signed it.

    Returns:
        The checked bundle.
    """
    files = read_archive(data, path)
    if (first := next(iter(files), None)) != SUMS:
        raise IntegrityError("not a bundle", where=path, expected=f"{SUMS} as its first file", got=first)
    if len(files[SUMS]) > _SUMS_LINE * len(files):  # before it is copied
        raise IntegrityError("list of hashes is too long", where=f"{path}, {SUMS}", got=f"{len(files[SUMS]):,} bytes")
    sums, signature = bytes(files[SUMS]), files.get(SIGNATURE)
    if signature is not None and len(signature) != SIGNATURE_SIZE:
        expected, got = f"{SIGNATURE_SIZE} bytes", len(signature)
        raise IntegrityError("signature cannot be read", where=f"{path}, {SIGNATURE}", expected=expected, got=got)
    signed_by = None
    if verify_key is not None:  # before anything that the list of hashes says is used
        signed_by = check_signature(sums, None if signature is None else bytes(signature), verify_key, path)
    listed = {name: content for name, content in files.items() if name not in (SUMS, SIGNATURE)}
    hashes = _check_sums(sums, listed, path)
    check_canonical(data, files, path)
    if MANIFEST not in files:
        raise IntegrityError("file is missing", where=f"{path}, {MANIFEST}")
    manifest = parse_manifest(bytes(files[MANIFEST]), f"{path}, {MANIFEST}")
    _check_contents(manifest, list(files), path)
    golden = [array for part in manifest.golden for array in (*part.inputs, *part.outputs)]
    for file in (*manifest.stored, *golden):
        check_digest(file, len(files[file.name]), hashes[file.name], f"{path}, {file.name}")
    _check_golden(manifest, files, path)
    certificate = parse_certificate(bytes(files[CERTIFICATE]), f"{path}, {CERTIFICATE}")
    certificate.require(manifest, f"{path}, {CERTIFICATE}", text=bytes(files[MANIFEST]))
    for name in (CARD, LICENCE):
        _check_text(files[name], f"{path}, {name}")
    return Bundle(path, manifest, certificate, files, sha256(sums), signed_by)


def _check_golden(manifest: Manifest, files: Mapping[str, memoryview], path: Path) -> None:
    """Raise `IntegrityError` for golden numbers that are not finite, and for integers out of their range."""
    for part in manifest.golden:
        spec = manifest.contract.spec(part.part)
        pairs = zip((*part.inputs, *part.outputs), (*spec.inputs, *spec.outputs), strict=True)
        for stored, tensor in pairs:
            values = stored.array(bytes(files[stored.name]))
            is_right = (
                bool(tensor.low <= values.min() and values.max() <= tensor.high)
                if tensor.is_integer
                else isfinite(float(abs(values).max()))
            )
            if not is_right:
                expected = "integers in their range" if tensor.is_integer else "finite numbers"
                raise IntegrityError("golden number is not valid", where=f"{path}, {stored.name}", expected=expected)


def _check_text(data: memoryview, where: str) -> None:
    """Raise `IntegrityError` unless the bytes are a text of at most `TEXT_LIMIT` bytes in UTF-8."""
    if len(data) > TEXT_LIMIT:
        raise IntegrityError("text is too long", where=where, expected=f"{TEXT_LIMIT:,} bytes at most", got=len(data))
    try:
        bytes(data).decode()
    except UnicodeDecodeError as error:
        got = f"byte {error.start}: {error.reason}"
        raise IntegrityError("not a text", where=where, expected="UTF-8", got=got) from error


def _check_sums(sums: bytes, files: Mapping[str, memoryview], path: Path) -> dict[str, str]:
    """Check each file against the list of hashes and the list against its canonical form; return hashes by name."""
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
        raise IntegrityError("list of hashes is not in the canonical form", where=f"{path}, {SUMS}")
    return stated


def _check_contents(manifest: Manifest, names: list[str], path: Path) -> None:
    """Raise `IntegrityError` unless the entries are those that the manifest names, in the specified order."""
    wanted = [SUMS, SIGNATURE, *entries(manifest)]
    check_distinct(wanted)  # a model file must not have the name of another entry
    known, present = set(wanted), set(names)
    for name in names:
        if name not in known:
            raise IntegrityError("extra file", where=f"{path}, {name}", expected="what manifest.json names")
    for name in wanted:
        if name not in present and name not in OPTIONAL:
            raise IntegrityError("file is missing", where=f"{path}, {name}")
    if not manifest.golden:
        raise IntegrityError("bundle has no golden vectors", where=f"{path}, {MANIFEST}")
    if names != (ordered := [name for name in wanted if name in present]):
        first, got = next(pair for pair in zip(ordered, names, strict=False) if pair[0] != pair[1])
        raise IntegrityError("files are out of order", where=path, expected=first, got=got)
