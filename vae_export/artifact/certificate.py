"""A certificate as it lies in a file: what a bundle needs to know of it, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vae_export.artifact.manifest import Manifest
from vae_export.errors import InputError, IntegrityError, ParityError
from vae_export.io.strict import CERTIFICATE_LIMIT, parse_json

FORMAT = "vae-export-certificate/1"


@dataclass(frozen=True)
class StoredCertificate:
    """A certificate that was read: its bytes, and the document in them.

    Without one no bundle can be made: `vae_export.bundle.writer` asks for it.
    """

    data: bytes
    document: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        return bool(self.document["verdict"] == "pass")

    @property
    def own_band(self) -> str | None:
        """The band that somebody gave in place of the measured one, in words; None where nobody did."""
        tolerance = self.document.get("tolerance")
        if tolerance is None:
            return None
        stated = tolerance.items() if isinstance(tolerance, Mapping) else [("tolerance", tolerance)]
        return ", ".join(f"{name} {value}" for name, value in stated)

    def require(self, manifest: Manifest, where: Path | str) -> None:
        """Raise unless it passed (`ParityError`) and is of the very files of the manifest (`IntegrityError`)."""
        again = "run: vae-export verify"
        if not self.passed:
            raise ParityError("certificate did not pass", where=where, got=self.document["verdict"], do=again)
        for stored in manifest.stored:
            found = self.document["files"].get(stored.name)
            if found != stored.sha256:
                got = "no such file in it" if found is None else f"SHA-256 {found}"
                raise IntegrityError(
                    "certificate is of another file",
                    where=f"{where}, {stored.name}",
                    expected=f"SHA-256 {stored.sha256}",
                    got=got,
                    do=again,
                )


def read_certificate(path: Path) -> StoredCertificate:
    """Raises `InputError` where there is none or one of another version, `IntegrityError` for a broken one."""
    try:
        with path.open("rb") as file:
            data = file.read(CERTIFICATE_LIMIT + 1)
    except OSError as error:
        raise InputError("no certificate", where=path, got=error.strerror, do="run: vae-export verify") from error
    return parse_certificate(data, path)


def parse_certificate(data: bytes, where: Path | str) -> StoredCertificate:
    """The certificate in these bytes; raises as `read_certificate` does."""
    document = parse_json(data, "certificate", where, limit=CERTIFICATE_LIMIT)
    found = document.get("format") if isinstance(document, dict) else document
    if found != FORMAT:
        raise InputError("certificate of another version", where=where, expected=FORMAT, got=str(found)[:80])
    if not isinstance(document.get("files"), dict) or document.get("verdict") not in ("pass", "fail"):
        raise IntegrityError("certificate cannot be read", where=where, expected="a verdict and hashes of files")
    return StoredCertificate(data, document)
