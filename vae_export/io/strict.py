"""Strict checks of untrusted input: JSON, and the names of files inside an export or a bundle.

JSON is read under a size limit, without anything that a second reader could understand differently. The names that
docs/bundle-format.md allows cannot leave their folder, hide, or collide on any file system: no `..`, no backslash,
nothing beyond ASCII.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vae_export.errors import IntegrityError

#: Bytes of a manifest; real ones are far smaller.
MANIFEST_LIMIT = 1 << 20
#: Bytes of a certificate, which has an entry for each of some thousand comparisons.
CERTIFICATE_LIMIT = 64 << 20


def parse_json(data: bytes, what: str, where: Path | str, *, limit: int = MANIFEST_LIMIT) -> Any:
    """Parse JSON strictly.

    Args:
        data: the document.
        what: the kind of document, such as "manifest", for messages.
        where: its path, for messages.
        limit: the most bytes that it may have.

    Raises:
        IntegrityError: it is too large, too deep or malformed, has a key twice, or a number that is not finite.
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
    """Return the name; raise `IntegrityError` for one that is not allowed."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise IntegrityError(
            "file name is not allowed",
            where=ascii(name)[:120],
            expected="letters, digits, . _ - and at most one folder",
        )
    return name


def check_distinct(names: Iterable[str]) -> None:
    """Raise `IntegrityError` if two names are equal, or differ in upper and lower case only."""
    seen: dict[str, str] = {}
    for name in names:
        if (folded := name.lower()) in seen:
            raise IntegrityError("two files have one name", where=name, got=seen[folded])
        seen[folded] = name
