"""Names of files inside an export or a bundle, as docs/bundle-format.md allows them.

They cannot leave their folder, hide, or collide on any file system: no `..`, no backslash, nothing beyond ASCII.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from vae_export.errors import IntegrityError

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?"
_NAME = re.compile(f"{_PART}(?:/{_PART})?", re.ASCII)


def check_name(name: object) -> str:
    """The name; raises `IntegrityError` for one that is not allowed."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise IntegrityError(
            "file name is not allowed",
            where=ascii(name)[:120],
            expected="letters, digits, . _ - and at most one folder",
        )
    return name


def check_distinct(names: Iterable[str]) -> None:
    """Raise `IntegrityError` if two names are one, or would be where upper and lower case are the same."""
    seen: dict[str, str] = {}
    for name in names:
        if (folded := name.lower()) in seen:
            raise IntegrityError("two files have one name", where=name, got=seen[folded])
        seen[folded] = name
