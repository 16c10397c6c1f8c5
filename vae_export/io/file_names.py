"""Check the names of files inside an export or a bundle.

docs/bundle-format.md specifies the allowed names. They cannot leave their folder, be hidden or collide on any file
system: no `..`, no backslash, ASCII only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from vae_export.errors import IntegrityError

_COMPONENT = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?"
_NAME = re.compile(f"{_COMPONENT}(?:/{_COMPONENT})?", re.ASCII)


def check_name(name: object) -> str:
    """Check the name of a file.

    Args:
        name: a name from a manifest or an archive, with at most one folder.

    Returns:
        The name, unchanged.

    Raises:
        IntegrityError: the name is not a string, or is not allowed.
    """
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
