"""Which entries a bundle has, and in which order: docs/bundle-format.md, section 2."""

from __future__ import annotations

from vae_export.artifact import CERTIFICATE
from vae_export.manifest import NAME, Manifest

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
    return [NAME, *models, *golden_names(manifest), CERTIFICATE, PAGE, CARD, LICENCE]
