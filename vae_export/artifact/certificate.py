"""Read certificate.json and check that it fits a manifest, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from vae_export.artifact.manifest import Manifest
from vae_export.errors import InputError, IntegrityError, ParityError
from vae_export.io.atomic import sha256
from vae_export.io.strict_json import CERTIFICATE_LIMIT, dump_spelled, parse_json, parse_spelled

#: The format that is written, and those that can be read: the first had no reproduction.
CERTIFICATE_FORMAT = "vae-export-certificate/2"
CERTIFICATE_FORMATS = ("vae-export-certificate/1", CERTIFICATE_FORMAT)
#: The states of a file that prove that nothing in it was changed.
PROOFS = ("reproduced", "same structure")
_AGAIN = "run: vae-export verify"
#: The value of "part" in rows that compare scores of real images, which use encoder and decoder together.
METRIC = "metric"
#: Probes that look like the inputs of an application.
TYPICAL_PROBES = ("prior", "posterior", "data", "interpolation")


@dataclass(frozen=True)
class StoredCertificate:
    """A certificate that was read from a file.

    Attributes:
        data: the bytes of the file.
        document: the parsed JSON document.
    """

    data: bytes
    document: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        """Whether the verdict is "pass"."""
        return bool(self.document["verdict"] == "pass")

    @property
    def has_reproduction(self) -> bool:
        """Whether it says how each file was reproduced, and has the hashes of the manifest: from format 2 on."""
        return bool(self.document["format"] != CERTIFICATE_FORMATS[0])

    @property
    def own_tolerance(self) -> str | None:
        """The tolerance that the user set, as text, or None if the measured tolerance was used."""
        tolerance = self.document.get("tolerance")
        if tolerance is None:
            return None
        stated = tolerance.items() if isinstance(tolerance, Mapping) else [("tolerance", tolerance)]
        return ", ".join(f"{name} {value}" for name, value in stated)

    def require(self, manifest: Manifest, where: Path | str, *, text: bytes | None = None) -> None:
        """Raise an error unless the certificate passed and belongs to this manifest and its files.

        Args:
            manifest: the manifest of the export or bundle.
            where: the path of the certificate, for messages.
            text: the bytes of manifest.json that a stranger wrote; by default, those that this version writes.

        Raises:
            ParityError: the certificate did not pass.
            IntegrityError: the certificate belongs to other files, or says nothing about the reproduction of one.
        """
        if not self.passed:
            raise ParityError("certificate did not pass", where=where, got=self.document["verdict"], do=_AGAIN)
        files = {stored.name: stored.sha256 for stored in manifest.stored}
        _require_digests("certificate belongs to another file", self.document["files"], files, where)
        if not self.has_reproduction:
            return
        known = self.document["manifest"]
        stated = manifest_digests(manifest.text if text is None else text)
        _require_digests("certificate belongs to another manifest", known, stated, where)
        if unstated := [entry.name for entry in manifest.files if entry.name not in self.document["reproduction"]]:
            expected = "whether export writes this file"
            raise IntegrityError(
                "certificate is incomplete", where=f"{where}, {unstated[0]}", expected=expected, do=_AGAIN
            )


def _require_digests(what: str, known: Mapping[str, str], digests: Mapping[str, str], where: Path | str) -> None:
    """Raise `IntegrityError` for the first name of which a certificate has another SHA-256, or none."""
    for name, digest in digests.items():
        if (found := known.get(name)) != digest:
            got = "nothing about it" if found is None else f"SHA-256 {found}"
            raise IntegrityError(what, where=f"{where}, {name}", expected=f"SHA-256 {digest}", got=got, do=_AGAIN)


def manifest_digests(text: bytes) -> dict[str, str]:
    """Return the SHA-256 of each thing that a manifest says, as the certificate of its files has it.

    A bundle may hold some of an export's files, so that each file and the golden vectors of each part have their own.
    Recommended options are measured later, and are left out. docs/bundle-format.md, section 2, is the specification.

    Args:
        text: the bytes of manifest.json, which `parse_manifest` can read.
    """
    document = parse_spelled(text)
    stated = {key: document[key] for key in ("contract", "opset", "versions", "provenance")}
    for entry in document["files"]:
        stated[f"file {entry['name']}"] = {key: entry[key] for key in entry if key not in ("inputs", "outputs")}
    stated |= {f"golden vectors of {part['part']}": part for part in document["golden"]}
    return {subject: sha256(dump_spelled(value).encode()) for subject, value in stated.items()}


def read_certificate(path: Path) -> StoredCertificate:
    """Read a certificate.

    Args:
        path: the file, certificate.json.

    Returns:
        The certificate with its bytes.

    Raises:
        InputError: the file is missing, or has another version.
        IntegrityError: the file cannot be parsed.
    """
    try:
        with path.open("rb") as file:
            data = file.read(CERTIFICATE_LIMIT + 1)
    except OSError as error:
        raise InputError("no certificate", where=path, got=error.strerror, do="run: vae-export verify") from error
    return parse_certificate(data, path)


def parse_certificate(data: bytes, where: Path | str) -> StoredCertificate:
    """Parse the bytes of a certificate; raise the errors that `read_certificate` raises.

    Args:
        data: the bytes of the file.
        where: the path of the file, for messages.
    """
    document = parse_json(data, "certificate", where, limit=CERTIFICATE_LIMIT)
    found = document.get("format") if isinstance(document, dict) else document
    if found not in CERTIFICATE_FORMATS:
        raise InputError(
            "certificate of another version", where=where, expected=" | ".join(CERTIFICATE_FORMATS), got=str(found)[:80]
        )
    _check_fields(document, where)
    if (fault := _contradiction(document)) is not None:
        expected, got = fault
        raise IntegrityError("certificate contradicts itself", where=where, expected=expected, got=got)
    return StoredCertificate(data, document)


def _check_fields(document: Mapping[str, Any], where: Path | str) -> None:
    """Raise `IntegrityError` unless the fields that readers use have the types that docs/parity.md gives them."""
    rows, findings, tolerance = document.get("rows"), document.get("findings", []), document.get("tolerance")
    unstated: dict[str, Any] | None = (
        {} if document["format"] == CERTIFICATE_FORMATS[0] else None
    )  # every later format states them
    fields = {
        "a verdict": document.get("verdict") in ("pass", "fail"),
        "hashes of files": _is_table(document.get("files"), str),
        "numbers of rows": all(_is_count(document.get(name)) for name in ("planned_rows", "failed_rows")),
        "rows": isinstance(rows, list)
        and all(isinstance(row, dict) and isinstance(row.get("passed"), bool) for row in rows),
        "findings": isinstance(findings, list)
        and all(isinstance(finding, dict) and isinstance(finding.get("severity"), str) for finding in findings),
        "a tolerance of numbers": tolerance is None or _is_table(tolerance, int, float),
        "an environment": isinstance(document.get("environment", {}), dict),
        "a reproduction of files": _is_reproduction(document.get("reproduction", unstated)),
        "hashes of the manifest": _is_table(document.get("manifest", unstated), str),
        "whether unreproduced files may pass": isinstance(document.get("unreproduced_allowed", True), bool),
    }
    for expected, is_right in fields.items():
        if not is_right:
            raise IntegrityError("certificate cannot be read", where=where, expected=expected)


def _is_table(value: object, *kinds: type) -> bool:
    """Whether a value is an object whose values have one of these types exactly (True is not an int)."""
    return isinstance(value, dict) and all(type(item) in kinds for item in value.values())


def _is_reproduction(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(item, dict) and isinstance(item.get("state"), str) for item in value.values()
    )


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _contradiction(document: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return what the rows and findings say and what is stated instead, or None if the two agree."""
    rows, passed = document["rows"], document["verdict"] == "pass"
    failed = sum(not row["passed"] for row in rows)
    if document["failed_rows"] != failed:
        return f"{failed} failed rows", f"{document['failed_rows']}"
    if passed and failed:
        return "verdict fail, because a row failed", "pass"
    if passed and not document["planned_rows"] == len(rows) > 0:
        return f"{max(1, document['planned_rows'])} rows, as planned", f"{len(rows)} rows and verdict pass"
    if passed and any(finding["severity"] == "error" for finding in document.get("findings", [])):
        return "verdict fail, because a finding is an error", "pass"
    if passed and document["format"] != CERTIFICATE_FORMATS[0] and not document.get("unreproduced_allowed"):
        states = [item["state"] for item in document["reproduction"].values()]
        if bad := [state for state in states if state not in PROOFS]:
            return "verdict fail, because a file was not reproduced", f"pass and {str(bad[0])[:80]}"
    for number, row in enumerate(rows):
        if row["passed"] and not _is_within(row):
            return f"row {number} as failed, because of its figures", "passed"
    return None


def _is_within(row: Mapping[str, Any]) -> bool:
    """Whether the figures of a row are those of one that passed. The first versions had no mean error."""
    pairs = [("error", "band")] + [("mean_error", "mean_band")] * ("mean_error" in row or "mean_band" in row)
    for error, tolerance in pairs:
        found, allowed = row.get(error), row.get(tolerance)
        if not _is_number(found) or not _is_number(allowed) or float(found) > float(allowed):
            return False
    grey = row.get("grey")
    unexplained = grey.get("unexplained") if isinstance(grey, dict) else grey
    has_none = _is_none(row.get("outside")) and (grey is None or isinstance(grey, dict)) and _is_none(unexplained)
    return row.get("fault") is None and has_none


def _is_number(value: object) -> TypeGuard[float]:
    return type(value) in (int, float)


def _is_none(count: object) -> bool:
    """Whether a number of pixels is 0, or was not counted."""
    return count is None or (_is_number(count) and count == 0)
