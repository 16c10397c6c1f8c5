"""Whose file is this? Of formats that are dangerous to load, only files that we know to be ours are."""

from __future__ import annotations

from vae_export.artifact import Artifact
from vae_export.errors import IntegrityError, ModelError
from vae_export.formats import FORMATS
from vae_export.graphs import Source


def check_origin(artifact: Artifact, source: Source, *, trust: bool) -> None:
    """Raise `IntegrityError` for an export of another checkpoint or contract, `ModelError` for a dangerous file.

    Ours is what names the very checkpoint that it is compared with. A manifest is no signature: this keeps out mistakes
    and strangers' files, not a forger.
    """
    exported, given = (item.get("checkpoint_sha256") for item in (artifact.manifest.provenance, source.provenance))
    if exported and given and exported != given:
        raise IntegrityError(
            "export is of another checkpoint",
            where=artifact.folder,
            expected=f"SHA-256 {given}",
            got=exported,
            do="export again",
        )
    # Applications take shapes and ranges from the manifest: it must not promise others than were verified.
    if artifact.manifest.contract != source.contract:
        raise IntegrityError(
            "export has another contract",
            where=artifact.folder,
            expected=source.contract.to_json(),
            got=artifact.manifest.contract.to_json(),
            do="export again",
        )
    if trust or (exported and given):
        return
    for entry in artifact.manifest.known:
        if (danger := FORMATS[entry.format].danger) != "":
            raise ModelError(
                f"a file in format {entry.format} {danger}, and this one is not known to be ours",
                where=artifact.folder / entry.name,
                do="pass --trust if you know who made it",
            )
