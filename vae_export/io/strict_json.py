"""Parse JSON of unknown origin: refuse a document that is too large, or that two parsers could read differently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vae_export.errors import IntegrityError

#: The largest manifest in bytes. Real ones are far smaller.
MANIFEST_LIMIT = 1 << 20
#: The largest certificate in bytes. It has an entry for each of some thousand comparisons.
CERTIFICATE_LIMIT = 64 << 20


def parse_json(data: bytes, what: str, where: Path | str, *, limit: int = MANIFEST_LIMIT) -> Any:
    """Parse JSON strictly.

    Args:
        data: the document.
        what: the kind of document, such as "manifest", for messages.
        where: the path of the document, for messages.
        limit: the largest allowed size in bytes.

    Returns:
        The parsed document.

    Raises:
        IntegrityError: the document is too large, too deep or malformed, or has a key twice or a non-finite number.
    """
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
        raise ValueError("duplicate key")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
