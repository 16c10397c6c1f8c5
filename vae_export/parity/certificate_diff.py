"""Two certificates side by side: has anything become worse since the last one that was accepted?

What a thorough certificate says that a verification about to take its place would not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vae_export.artifact.certificate import FORMAT
from vae_export.artifact.manifest import Manifest
from vae_export.errors import InputError, UsageError
from vae_export.parity.degradation import COSTLY_LEVELS, COSTLY_NATS, Budget
from vae_export.parity.targets import Kind, choose_targets, kinds_of, parse_target
from vae_export.parity.tolerance import Tolerance

#: A row has become worse when its error, in units of PyTorch's rounding, grows by more than this share of its band.
#: Within it lies what another version of an engine changes by summing in another order.
SLACK = 0.25
#: What a row is known by, and a drift.
_KEY = ("part", "target", "setting", "probe", "batch", "output")
_DRIFT_KEY = ("part", "target")
#: Figures of a row that are compared: each with its unit and its band.
_ERRORS = {"ratio": ("rounding", "band"), "mean_ratio": ("mean_rounding", "mean_band")}
#: Figures of a drift that are compared, with the least change that is worth a word: the same share of what is costly.
#: The worst pixel is a whole number of levels, and rounding alone may flip one.
_COSTS = {"worst_levels": 1.0, "mean_levels": SLACK * COSTLY_LEVELS, "nats_high": SLACK * COSTLY_NATS}
_WORDS = {
    "ratio": "times PyTorch's rounding",
    "mean_ratio": "times PyTorch's mean rounding",
    "worst_levels": "grey levels at the worst pixel",
    "mean_levels": "grey levels a pixel on average",
    "nats_high": "nats an image, at most",
}


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
    rows, drifts = data.get("rows"), data.get("drift")
    if not isinstance(rows, list) or not rows or not all(_is_row(row) for row in rows):
        raise InputError("baseline has no rows that can be compared", where=path, expected=expected)
    if not isinstance(drifts, list) or not all(_is_drift(drift) for drift in drifts):
        raise InputError("baseline has costs that cannot be compared", where=path, expected=expected)
    return dict(data)


def regressions(baseline: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each way in which `now` is worse than `baseline`: rows gone, rows failing, errors or costs grown."""
    return [*_worse_rows(baseline["rows"], now["rows"]), *_worse_drifts(baseline["drift"], now["drift"])]


def _worse_rows(baseline: list[Mapping[str, Any]], now: list[Mapping[str, Any]]) -> Iterator[str]:
    before, after = _by(baseline, _KEY), _by(now, _KEY)
    if gone := [key for key in before if key not in after]:
        yield f"{', '.join(gone[0])} and {len(gone) - 1} other rows: verified then, and not now"
    for key, old in before.items():
        new = after.get(key, old)
        if not new["passed"]:
            yield f"{', '.join(key)}: failed, at {_number(new['ratio']):.3g} {_WORDS['ratio']}; was {old['ratio']:.3g}"
            continue
        for figure, (unit, band) in _ERRORS.items():
            slack = SLACK * old[band] / old[unit]
            if not _number(new[figure]) <= old[figure] + slack:
                yield f"{', '.join(key)}: {_number(new[figure]):.3g} {_WORDS[figure]}; was {old[figure]:.3g}"


def _worse_drifts(baseline: list[Mapping[str, Any]], now: list[Mapping[str, Any]]) -> Iterator[str]:
    """What files cost: worse by a quarter, and by more than is worth a word. A figure that is gone is worse."""
    before, after = _by(baseline, _DRIFT_KEY), _by(now, _DRIFT_KEY)
    for key, old in before.items():
        new = after.get(key, {})
        for figure, least in _COSTS.items():
            if old[figure] is None:
                continue
            slack = max(least, SLACK * abs(old[figure]))
            if not _number(new.get(figure)) <= old[figure] + slack:
                yield f"{', '.join(key)}: {_number(new.get(figure)):.3g} {_WORDS[figure]}; was {old[figure]:.3g}"


def _is_row(row: object) -> bool:
    figures = [name for figure, others in _ERRORS.items() for name in (figure, *others)]
    if not isinstance(row, dict) or not {*_KEY, *figures, "passed"} <= row.keys():
        return False
    units = [row[unit] for unit, _ in _ERRORS.values()]
    return all(_is_finite(row[name]) for name in figures) and all(unit > 0 for unit in units)


def _is_drift(drift: object) -> bool:
    if not isinstance(drift, dict) or not {*_DRIFT_KEY, *_COSTS} <= drift.keys():
        return False
    return all(drift[name] is None or _is_finite(drift[name]) for name in _COSTS)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _by(items: list[Mapping[str, Any]], names: tuple[str, ...]) -> dict[tuple[str, ...], Mapping[str, Any]]:
    return {tuple(str(item[name]) for name in names): item for item in items}


def _number(figure: float | None) -> float:
    """What is no number is worse than any."""
    return math.inf if figure is None else figure


def weaker_points(
    before: Mapping[str, Any],
    manifest: Manifest,
    *,
    targets: Sequence[str] | None,
    tolerance: Tolerance | None,
    budget: Budget | None,
    thorough: bool,
) -> list[str]:
    """What would be lost, a phrase each; nothing of a certificate that is quick, or that nobody could rely on.

    Args:
        before: the document of the certificate that is there, whatever it holds; empty where there is none.
        manifest: of the files to verify. What was said of files that are no longer there is no loss.
        targets, tolerance, budget, thorough: of the verification, as `verify` takes them.

    Raises:
        IntegrityError: the manifest names an unknown format.
        UsageError: a target that no file has.
    """
    kinds = kinds_of(manifest)
    chosen = choose_targets(kinds, targets)
    try:
        if before["environment"]["thorough"] is not True:
            return []
        missed = sorted({str(row["target"]) for row in before["rows"]} - set(map(str, chosen)))
        lost = [] if thorough else ["--quick"]
        if still := [name for name in missed if _is_there(name, kinds)]:
            lost.append("not on " + ", ".join(still))
        return [*lost, *_wider(before["tolerance"], tolerance), *_unbudgeted(before["budget"], budget)]
    except (LookupError, TypeError, AttributeError):
        return []


def _is_there(name: str, kinds: Sequence[Kind]) -> bool:
    try:
        parse_target(name, kinds)
    except UsageError:
        return False
    return True


def _wider(before: Mapping[str, float] | None, tolerance: Tolerance | None) -> Iterator[str]:
    if tolerance is None:
        return
    if before is None:
        yield "--atol or --rtol in place of the measured band"
    elif tolerance.atol > before["atol"] or tolerance.rtol > before["rtol"]:
        yield f"a wider band than atol {before['atol']:g}, rtol {before['rtol']:g}"


def _unbudgeted(before: Mapping[str, float | None] | None, budget: Budget | None) -> Iterator[str]:
    """Files that were held against a budget are held against none, or a larger one."""
    for option, key in (("--max-grey-levels", "max_grey_levels"), ("--max-nats", "max_nats")):
        was = None if before is None else before[key]
        now = None if budget is None else getattr(budget, key)
        if was is not None and (now is None or now > was):
            yield f"without {option} {was:g}"
