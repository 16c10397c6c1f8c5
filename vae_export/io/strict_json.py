"""Parse JSON of unknown origin: refuse a document that is too large, or that two parsers could read differently.

docs/bundle-format.md, section 3, specifies the limits. They follow I-JSON (RFC 7493).
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, TypeGuard

from vae_export.errors import IntegrityError

#: The largest manifest in bytes. Real ones are far smaller.
MANIFEST_LIMIT = 1 << 20
#: The largest certificate in bytes. It has an entry for each of some thousand comparisons.
CERTIFICATE_LIMIT = 64 << 20
#: The most values in a document: they take a hundred times as much memory as their text. Real certificates have 26 for
#: each comparison.
MAX_VALUES = 1 << 22
#: The deepest nesting of objects and arrays. Python's own limit depends on the depth of its stack.
MAX_DEPTH = 64
#: Whole numbers lie between this limit and its negative. Seeds have 64 bits.
INTEGER_LIMIT = 1 << 64

#: An escape that is half a character, unless the other half is next to it.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


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
        IntegrityError: the document is too large, too deep or malformed, has a key twice, a number that is not finite
            or beyond `INTEGER_LIMIT`, or a text with half a character.
    """
    if len(data) > limit:
        raise IntegrityError(
            f"{what} is too large", where=where, expected=f"{limit:,} bytes at most", got=f"{len(data):,}"
        )
    if (values := sum(map(data.count, (b",", b"[", b"{")))) > MAX_VALUES:
        raise IntegrityError(f"{what} is too large", where=where, expected=f"{MAX_VALUES:,} values at most", got=values)
    try:
        document = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_whole,
        )
        if _SURROGATE.search(data):
            json.dumps(document, ensure_ascii=False).encode()  # raises for half a character
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{what} cannot be read", where=where, got=str(error)[:200]) from error
    _check_depth(document, what, where)
    return document


class Spelled(str):
    """A number in the spelling of its document."""


def parse_spelled(data: bytes) -> Any:
    """Parse JSON that `parse_json` accepts, with each number as `Spelled`.

    Args:
        data: the document.
    """
    return json.loads(data, parse_float=Spelled, parse_int=lambda text: Spelled(int(text)))


def dump_spelled(value: Any) -> str:
    """Return what `parse_spelled` gave as JSON in one spelling: that of `json.dumps` with sorted keys.

    Args:
        value: a parsed document, or a part of it.
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {dump_spelled(item)}" for key, item in sorted(value.items())) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(dump_spelled, value)) + "]"
    return value if isinstance(value, Spelled) else json.dumps(value)


def has_values(document: object, expected: object) -> bool:
    """Whether a parsed document has the expected values. Keys beyond those are ignored, as readers must.

    Args:
        document: what was read.
        expected: JSON with the values that it must have; 1 is equal to 1.0, and not to true. Numbers are float64.
    """
    if isinstance(expected, dict):
        return isinstance(document, dict) and all(
            key in document and has_values(document[key], value) for key, value in expected.items()
        )
    if isinstance(expected, list):
        return (
            isinstance(document, list) and len(document) == len(expected) and all(map(has_values, document, expected))
        )
    if _is_number(document) and _is_number(expected):
        return float(document) == float(expected)
    return isinstance(document, bool) == isinstance(expected, bool) and document == expected


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"number is too large: {text[:40]}")
    return value


def _whole(text: str) -> int:
    if not -INTEGER_LIMIT < (value := int(text)) < INTEGER_LIMIT:
        raise ValueError(f"number is too large: {text[:40]}")
    return value


def _check_depth(document: Any, what: str, where: Path | str) -> None:
    level = [document] if isinstance(document, dict | list) else []
    for _ in range(MAX_DEPTH):
        children = (child for node in level for child in (node.values() if isinstance(node, dict) else node))
        level = [child for child in children if isinstance(child, dict | list)]
    if level:
        raise IntegrityError(f"{what} is nested too deep", where=where, expected=f"{MAX_DEPTH} levels at most")
