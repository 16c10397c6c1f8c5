"""JSON of unknown origin: read under a size limit, with nothing that a second reader could understand differently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vae_export.errors import IntegrityError

#: No manifest of ours comes near this.
MANIFEST_LIMIT = 1 << 20
#: A certificate has a line for each of some thousand comparisons.
CERTIFICATE_LIMIT = 64 << 20


def parse_json(data: bytes, what: str, where: Path | str, *, limit: int = MANIFEST_LIMIT) -> Any:
    """The document; `IntegrityError` for one that is too large, too deep, malformed, has a key twice or a NaN."""
    if len(data) > limit:
        raise IntegrityError(
            f"{what} is too large", where=where, expected=f"{limit:,} bytes at most", got=f"{len(data):,}"
        )
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{what} cannot be read", where=where, got=str(error)[:200]) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
