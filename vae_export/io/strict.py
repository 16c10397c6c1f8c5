"""Strict checks of untrusted input: JSON, and the names of files inside an export or a bundle.

JSON has a size limit, and nothing is accepted that two parsers could read differently. docs/bundle-format.md specifies
the allowed names. They cannot leave their folder, be hidden or collide on any file system: no `..`, no backslash, ASCII
only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
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
        raise ValueError("a key is there twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?"
_NAME = re.compile(f"{_PART}(?:/{_PART})?", re.ASCII)


def check_name(name: object) -> str:
    """Return a file name unchanged; raise `IntegrityError` if the name is not allowed."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise IntegrityError(
            "file name is not allowed",
            where=ascii(name)[:120],
            expected="letters, digits, . _ - and at most one folder",
        )
    return name


def check_distinct(names: Iterable[str]) -> None:
    """Raise `IntegrityError` if two names are equal or differ only in upper and lower case."""
    seen: dict[str, str] = {}
    for name in names:
        if (folded := name.lower()) in seen:
            raise IntegrityError("two files have one name", where=name, got=seen[folded])
        seen[folded] = name
