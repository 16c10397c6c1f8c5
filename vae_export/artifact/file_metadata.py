"""The texts with which a model file describes itself: its part, its inputs and outputs, and the origin of the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vae_export.artifact.manifest import FileEntry, Manifest
from vae_export.contract import PartSpec
from vae_export.errors import IntegrityError
from vae_export.io.strict_json import has_values, parse_json

#: The keys of these texts begin with it.
METADATA_PREFIX = "vae_export."
#: The keys of the part, of its inputs and outputs, and of the origin.
PART, CONTRACT, PROVENANCE = (f"{METADATA_PREFIX}{name}" for name in ("part", "contract", "provenance"))


def file_metadata(spec: PartSpec, provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata for one file: its part, its inputs and outputs, and the provenance, each as text.

    Args:
        spec: inputs and outputs of the part.
        provenance: origin of the model, JSON-able.
    """
    return {
        PART: spec.part,
        CONTRACT: json.dumps(spec.to_json(), sort_keys=True),
        PROVENANCE: json.dumps(provenance, sort_keys=True, allow_nan=False),
    }


def check_file_metadata(metadata: Mapping[str, str], entry: FileEntry, manifest: Manifest) -> None:
    """Compare what a file says of itself with the manifest.

    Args:
        metadata: the texts in the file by key; it may have none of them.
        entry: the file.
        manifest: the manifest that names it.

    Raises:
        IntegrityError: the file states another part, contract or origin than the manifest.
    """
    if (found := metadata.get(PART, entry.part)) != entry.part:
        raise IntegrityError("file is of another part", where=entry.name, expected=entry.part, got=found[:80])
    expected: dict[str, Any] = {
        CONTRACT: manifest.contract.spec(entry.part).to_json(),
        PROVENANCE: dict(manifest.provenance),
    }
    for key, wanted in expected.items():
        if (text := metadata.get(key)) is None:
            continue
        name = key.removeprefix(METADATA_PREFIX)
        stated = parse_json(text.encode(), name, f"{entry.name}, metadata")
        if not has_values(stated, wanted) or (key == PROVENANCE and not has_values(wanted, stated)):
            raise IntegrityError(
                f"file states another {name} than the manifest",
                where=entry.name,
                expected=json.dumps(wanted, sort_keys=True)[:200],
                got=text[:200],
                do="export again, or fetch it again",
            )
