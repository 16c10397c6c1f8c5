"""Read certificate.json and check that it fits a manifest, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vae_export.artifact.manifest import Manifest
from vae_export.errors import InputError, IntegrityError, ParityError
from vae_export.io.strict_json import CERTIFICATE_LIMIT, parse_json

FORMAT = "vae-export-certificate/1"
#: The value of "part" in rows that compare scores of real images, which use encoder and decoder together.
METRIC = "metric"


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
    def own_tolerance(self) -> str | None:
        """The tolerance that the user set, as text, or None if the measured tolerance was used."""
        tolerance = self.document.get("tolerance")
        if tolerance is None:
            return None
        stated = tolerance.items() if isinstance(tolerance, Mapping) else [("tolerance", tolerance)]
        return ", ".join(f"{name} {value}" for name, value in stated)

    def require(self, manifest: Manifest, where: Path | str) -> None:
        """Raise an error unless the certificate passed and belongs to the files of this manifest.

        Args:
            manifest: the manifest of the export or bundle.
            where: the path of the certificate, for messages.

        Raises:
            ParityError: the certificate did not pass.
            IntegrityError: the certificate belongs to other files.
        """
        again = "run: vae-export verify"
        if not self.passed:
            raise ParityError("certificate did not pass", where=where, got=self.document["verdict"], do=again)
        for stored in manifest.stored:
            found = self.document["files"].get(stored.name)
            if found != stored.sha256:
                got = "no such file in it" if found is None else f"SHA-256 {found}"
                raise IntegrityError(
                    "certificate belongs to another file",
                    where=f"{where}, {stored.name}",
                    expected=f"SHA-256 {stored.sha256}",
                    got=got,
                    do=again,
                )


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
    if found != FORMAT:
        raise InputError("certificate of another version", where=where, expected=FORMAT, got=str(found)[:80])
    if not isinstance(document.get("files"), dict) or document.get("verdict") not in ("pass", "fail"):
        raise IntegrityError("certificate cannot be read", where=where, expected="a verdict and hashes of files")
    return StoredCertificate(data, document)
