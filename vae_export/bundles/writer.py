"""Make a bundle from an export folder, its certificate and a model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vae_export.artifact.certificate import CERTIFICATE_FORMAT, StoredCertificate, read_certificate
from vae_export.artifact.folder import CERTIFICATE, Artifact
from vae_export.artifact.manifest import MANIFEST, Manifest
from vae_export.bundles.archive import write_archive
from vae_export.bundles.model_card import model_card
from vae_export.bundles.reader import CARD, LICENCE, PAGE, SUMS, Bundle, check_bundle_free, entries, read_bundle
from vae_export.bundles.signature import SIGNATURE, Key, public_key, sign, signing_key
from vae_export.contract import float_part
from vae_export.errors import InputError, IntegrityError, ModelError, UsageError
from vae_export.io.atomic import sha256, write_atomic

NO_LICENCE = """\
No licence was stated when this bundle was made. Ask whoever gave it to you what you may do with the model.
"""


def pack(
    artifact: Artifact,
    certificate: StoredCertificate,
    *,
    name: str,
    formats: Sequence[str] | None = None,
    parts: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    page: bytes | None = None,
    notes: str = "",
    licence: str = NO_LICENCE,
    sign_key: Key | None = None,
) -> bytes:
    """Return the bytes of a bundle of a certified export; equal contents give equal bytes.

    Args:
        artifact: the export; the hash of each file is checked.
        certificate: the certificate, which must have passed and belong to these files.
        name: the name of the model, used as the title of the model card.
        formats, parts, precisions: the files to include; None includes all.
        page: the bytes of certificate.html; None leaves it out.
        notes: a section of the model card, in Markdown, such as the purpose and limits of the model.
        licence: the text of the model's licence.
        sign_key: the Ed25519 private key to sign with: the path of a PEM file, or its bytes; None does not sign.

    Returns:
        The ZIP file that docs/bundle-format.md specifies.

    Raises:
        UsageError: the export has no file of this format, part and precision.
        ParityError: the certificate did not pass.
        IntegrityError: a file was altered, or the certificate belongs to other files.
        ModelError: the export has no golden vectors.
        InputError: the key cannot be read, or the certificate has an older format, without reproduction.
    """
    manifest = _chosen(artifact.manifest, {"format": formats, "part": parts, "precision": precisions})
    certificate.require(manifest, artifact.certificate)
    if not certificate.has_reproduction:
        raise InputError(
            "certificate of an older version says nothing about reproduction",
            where=artifact.certificate,
            expected=CERTIFICATE_FORMAT,
            got=certificate.document["format"],
            do="run: vae-export verify",
        )
    if not manifest.golden:
        raise ModelError("export has no golden vectors", where=artifact.folder, do="export again")
    files = {MANIFEST: manifest.text}
    files |= {stored.name: artifact.read(stored) for stored in manifest.stored}
    arrays = [array for part in manifest.golden for array in (*part.inputs, *part.outputs)]
    files |= {array.name: artifact.read(array) for array in arrays}
    try:
        card = model_card(name, manifest, certificate, notes)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError("certificate cannot be read", where=artifact.certificate, got=repr(error)[:200]) from error
    files |= {CERTIFICATE: certificate.data, CARD: card.encode()}
    files |= {LICENCE: licence.encode()} | ({} if page is None else {PAGE: page})
    ordered = {entry: files[entry] for entry in entries(manifest) if entry in files}
    sums = "".join(f"{sha256(data)}  {entry}\n" for entry, data in ordered.items()).encode()
    signature = {} if sign_key is None else {SIGNATURE: sign(sums, sign_key)}
    return write_archive({SUMS: sums, **signature, **ordered})


def write_bundle(
    artifact: Artifact,
    out: Path,
    *,
    name: str,
    formats: Sequence[str] | None = None,
    parts: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    page: bool = False,
    notes: str = "",
    licence: str = NO_LICENCE,
    sign_key: Key | None = None,
    force: bool = False,
) -> Bundle:
    """Pack a certified export, check the result as a reader does, and write it whole or not at all.

    Args:
        artifact: the export, with its certificate.
        out: the file to make.
        page: whether to include certificate.html.
        force: replace an existing bundle.
        name, formats, parts, precisions, notes, licence, sign_key: see `pack`.

    Returns:
        The bundle, read back.

    Raises:
        OutputExistsError: `out` exists, and `force` was not given.
        UsageError: it exists, and is no bundle.
        VaeExportError: what `pack` raises.
    """
    check_bundle_free(out, force=force)
    key = None if sign_key is None else signing_key(sign_key)
    data = pack(
        artifact,
        read_certificate(artifact.certificate),
        name=name,
        formats=formats,
        parts=parts,
        precisions=precisions,
        page=_read(artifact.certificate.with_suffix(".html")) if page else None,
        notes=notes,
        licence=licence,
        sign_key=key,
    )
    # Refuses what another reader would refuse.
    packed = read_bundle(data, out, verify_key=None if key is None else public_key(key))
    write_atomic(out, data)
    return packed


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError("file cannot be read", where=path, got=error.strerror) from error


def _chosen(manifest: Manifest, wanted: Mapping[str, Sequence[str] | None]) -> Manifest:
    """Return the manifest with only the chosen files.

    Args:
        manifest: the manifest of the export.
        wanted: the allowed values of "format", "part" and "precision"; None allows all.
    """
    files = manifest.files
    for kind, chosen in wanted.items():
        if chosen is None:
            continue
        have = list(dict.fromkeys(getattr(entry, kind) for entry in files))  # what the earlier choices left
        if missing := [name for name in chosen if name not in have]:
            do = f"run: vae-export export --{kind} {missing[0]}"
            raise UsageError(f"export has no such {kind}", expected=" | ".join(have), got=missing[0], do=do)
        files = tuple(entry for entry in files if getattr(entry, kind) in chosen)
    kept = {float_part(entry.part) for entry in files}
    names = {entry.name for entry in files}
    return replace(
        manifest,
        files=files,
        golden=tuple(part for part in manifest.golden if part.part in kept),
        recommended=tuple(item for item in manifest.recommended if item.file in names),
    )
