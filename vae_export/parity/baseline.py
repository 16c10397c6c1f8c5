"""Two certificates side by side: has anything become worse since the last one that was accepted?"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vae_export.errors import InputError
from vae_export.record import FORMAT

#: A row has become worse when its error, in units of PyTorch's rounding, grows by more than this. Within it lies what
#: another version of an engine changes by summing in another order; it is a quarter of what a row is allowed.
SLACK = 2.0
#: What a row is known by.
_KEY = ("part", "target", "setting", "probe", "batch", "output")


def read_baseline(path: Path) -> dict[str, Any]:
    """A certificate that passed, as JSON; raises `InputError` for anything else."""
    expected = "a certificate.json that passed"
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        got = error.strerror if isinstance(error, OSError) else error
        raise InputError("baseline cannot be read", where=path, expected=expected, got=got) from error
    found = data.get("format") if isinstance(data, dict) else None
    if found != FORMAT:
        raise InputError("baseline of another version", where=path, expected=FORMAT, got=found)
    if data.get("verdict") != "pass":
        raise InputError("baseline did not pass", where=path, expected=expected, got=data.get("verdict"))
    rows = data.get("rows")
    if not isinstance(rows, list) or not rows or not all(_is_row(row) for row in rows):
        raise InputError("baseline has no rows that can be compared", where=path, expected=expected)
    return dict(data)


def regressions(baseline: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each way in which `now` is worse than `baseline`: rows gone, rows failing, errors grown."""
    before, after = _ratios(baseline), _ratios(now)
    failed = {_key(row) for row in now["rows"] if not row["passed"]}
    gone = [key for key in before if key not in after]
    lines = [f"{', '.join(gone[0])} and {len(gone) - 1} other rows: verified then, and not now"] if gone else []
    for key, old in before.items():
        new = after.get(key, old)
        if key in failed:
            lines.append(f"{', '.join(key)}: failed, at {new:.3g} times PyTorch's rounding; was {old:.3g}")
        elif new > old + SLACK:
            lines.append(f"{', '.join(key)}: {new:.3g} times PyTorch's rounding; was {old:.3g}")
    return lines


def _is_row(row: object) -> bool:
    if not isinstance(row, dict) or not {*_KEY, "ratio", "passed"} <= row.keys():
        return False
    return isinstance(row["ratio"], int | float) and math.isfinite(row["ratio"])


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in _KEY)


def _ratios(certificate: Mapping[str, Any]) -> dict[tuple[str, ...], float]:
    """The error of each row in units of PyTorch's rounding; infinite where there is none."""
    return {_key(row): math.inf if row["ratio"] is None else row["ratio"] for row in certificate["rows"]}
