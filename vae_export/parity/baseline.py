"""Two certificates side by side: has anything become worse since the last one that was accepted?"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vae_export.errors import InputError
from vae_export.parity.certificate import FORMAT

#: A row has become worse when its error, in units of its band, grows by more than this. Within it lies what another
#: version of an engine changes by summing in another order: rounding is an eighth of a band (see `measure.FACTOR`).
SLACK = 0.25


def read_baseline(path: Path) -> dict[str, Any]:
    """A certificate as JSON; raises `InputError` for anything else."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("baseline cannot be read", where=path, expected="a certificate.json", got=error) from error
    found = data.get("format") if isinstance(data, dict) else None
    if found != FORMAT:
        raise InputError("baseline of another version", where=path, expected=FORMAT, got=found)
    return dict(data)


def regressions(baseline: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each way in which `now` is worse than `baseline`: rows gone, rows failing, errors grown."""
    before, after = _worst(baseline), _worst(now)
    lines = []
    for key, old in before.items():
        name = ", ".join(key)
        new = after.get(key)
        if new is None:
            lines.append(f"{name}: was verified, is not any more")
        elif new > max(1.0, old):
            lines.append(f"{name}: failed, with {new:.3g} of its band; was {old:.3g}")
        elif new > old + SLACK:
            lines.append(f"{name}: {new:.3g} of its band; was {old:.3g}")
    return lines


def _worst(certificate: Mapping[str, Any]) -> dict[tuple[str, ...], float]:
    """The largest error in units of its band, by part, target, probe and output; infinite for a row without one."""
    worst: dict[tuple[str, ...], float] = {}
    for row in certificate["rows"]:
        key = tuple(str(row[name]) for name in ("part", "target", "probe", "output"))
        error, band = row["error"], row["band"]
        absent = error is None or band is None or (error <= band and not row["passed"])
        value = math.inf if absent else error / band
        worst[key] = max(worst.get(key, 0.0), value)
    return worst
