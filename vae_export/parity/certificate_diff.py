"""Compare two certificates: find regressions, and find what a weaker verification would leave out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vae_export.artifact.certificate import CERTIFICATE_FORMATS
from vae_export.artifact.manifest import Manifest
from vae_export.errors import InputError, UsageError
from vae_export.parity.degradation import COSTLY_LEVELS, COSTLY_NATS, Budget
from vae_export.parity.plan import DRAWN_BATCHES
from vae_export.parity.targets import Kind, choose_targets, kinds_of, parse_target
from vae_export.parity.tolerance import Tolerance

#: A test case is worse when its error, in units of PyTorch's baseline error, grows by more than this share of its
#: tolerance. Smaller changes can come from another version of an engine, which sums in another order.
SLACK = 0.25
#: The keys that identify a test case, and a degradation.
_CASE_KEY = ("part", "target", "setting", "probe", "batch", "output")
_DEGRADATION_KEY = ("part", "target")
#: Figures of a test case that are compared, each with the keys of its baseline error and its tolerance.
_ERRORS = {"ratio": ("rounding", "band"), "mean_ratio": ("mean_rounding", "mean_band")}
#: Figures of a degradation that are compared, each with the smallest change that is reported: a share of the costly
#: amount. The worst pixel is a whole number of levels, and rounding alone may change it by one.
_DEGRADATIONS = {"worst_levels": 1.0, "mean_levels": SLACK * COSTLY_LEVELS, "nats_high": SLACK * COSTLY_NATS}
_UNITS = {
    "ratio": "times PyTorch's baseline error",
    "mean_ratio": "times PyTorch's mean baseline error",
    "worst_levels": "grey levels at the worst pixel",
    "mean_levels": "grey levels a pixel on average",
    "nats_high": "nats an image, at most",
}


def read_baseline(path: Path) -> dict[str, Any]:
    """Read a certificate.json that passed.

    Args:
        path: the file.

    Returns:
        Its document.

    Raises:
        InputError: the file cannot be read, is of another version, did not pass, or lacks figures to compare.
    """
    expected = "a certificate.json that passed"
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        got = error.strerror if isinstance(error, OSError) else f"no JSON: {error}"
        raise InputError("baseline cannot be read", where=path, expected=expected, got=got) from error
    found = data.get("format") if isinstance(data, dict) else None
    if found not in CERTIFICATE_FORMATS:
        raise InputError("baseline of another version", where=path, expected=" | ".join(CERTIFICATE_FORMATS), got=found)
    if data.get("verdict") != "pass":
        raise InputError("baseline did not pass", where=path, expected=expected, got=data.get("verdict"))
    cases, degradations = data.get("rows"), data.get("drift")
    if not isinstance(cases, list) or not cases or not all(_is_case(case) for case in cases):
        do = "pass the file that verify wrote: the output of --json has test cases with --rows only"
        raise InputError("baseline has no comparisons to compare with", where=path, expected=expected, do=do)
    if not isinstance(degradations, list) or not all(_is_degradation(item) for item in degradations):
        raise InputError("baseline has no degradations to compare with", where=path, expected=expected)
    return dict(data)


def regressions(baseline: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a line for each way in which a certificate is worse than a baseline.

    Args:
        baseline: document of the accepted certificate, from `read_baseline`.
        now: document of the new one.

    Returns:
        Test cases that are gone or fail, and errors or degradations that grew; empty if nothing became worse.
    """
    return [*_worse_cases(baseline["rows"], now["rows"]), *_worse_degradations(baseline["drift"], now["drift"])]


def is_of_another_model(baseline: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a baseline names other weights than a certificate. Those of format 1 name none.

    Args:
        baseline: document of the accepted certificate.
        now: document of the new one.
    """
    before, after = baseline.get("model"), now.get("model")
    return before is not None and after is not None and before != after


def weaker_points(
    before: Mapping[str, Any],
    manifest: Manifest,
    *,
    targets: Sequence[str] | None,
    tolerance: Tolerance | None,
    budget: Budget | None,
    thorough: bool,
    allow_unreproduced: bool = False,
) -> list[str]:
    """Return what a thorough certificate contains that the verification about to replace it would lack.

    Args:
        before: document of the present certificate, which may be damaged; empty if there is none.
        manifest: the files to verify. Results for files that no longer exist are not counted as lost.
        targets, tolerance, budget, thorough, allow_unreproduced: arguments of the verification, as `verify` takes them.

    Returns:
        A phrase for each point; empty if the present certificate is quick or unreadable.

    Raises:
        IntegrityError: the manifest names an unknown format.
        UsageError: a target that no file has.
    """
    kinds = kinds_of(manifest)
    chosen = choose_targets(kinds, targets)
    try:
        if before["environment"]["thorough"] is not True:
            return []
        missing = sorted({str(row["target"]) for row in before["rows"]} - set(map(str, chosen)))
        lost = [] if thorough else ["fewer test cases"]
        if allow_unreproduced and before.get("unreproduced_allowed") is False:
            lost.append("--allow-unreproduced")
        if still := [name for name in missing if _has_files(name, kinds)]:
            lost.append("not on " + ", ".join(still))
        return [*lost, *_wider_tolerance(before["tolerance"], tolerance), *_weaker_budget(before["budget"], budget)]
    except (LookupError, TypeError, AttributeError):
        return []


def _worse_cases(baseline: list[Mapping[str, Any]], now: list[Mapping[str, Any]]) -> Iterator[str]:
    before, after = _by_key(map(_with_sizes, baseline), _CASE_KEY), _by_key(map(_with_sizes, now), _CASE_KEY)
    # Batch sizes are drawn anew for each file.
    drawn = {key for key, case in before.items() if case["probe"] == DRAWN_BATCHES}
    if gone := [key for key in before if key not in after and key not in drawn]:
        others = len(gone) - 1
        also = f" and {others} other{'' if others == 1 else 's'}" if others else ""
        yield f"{', '.join(gone[0])}{also}: compared then, and not now"
    for key, old in before.items():
        new = after.get(key, old)
        if not new["passed"]:
            yield f"{', '.join(key)}: failed, at {_or_inf(new['ratio']):.3g} {_UNITS['ratio']}; was {old['ratio']:.3g}"
            continue
        for figure, (unit, tolerance) in _ERRORS.items():
            slack = SLACK * old[tolerance] / old[unit]
            if not _or_inf(new[figure]) <= old[figure] + slack:
                yield f"{', '.join(key)}: {_or_inf(new[figure]):.3g} {_UNITS[figure]}; was {old[figure]:.3g}"


def _worse_degradations(baseline: list[Mapping[str, Any]], now: list[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each figure that is missing, or grew by a quarter and by more than the smallest change."""
    before, after = _by_key(baseline, _DEGRADATION_KEY), _by_key(now, _DEGRADATION_KEY)
    for key, old in before.items():
        new = after.get(key, {})
        for figure, least in _DEGRADATIONS.items():
            if old[figure] is None:
                continue
            slack = max(least, SLACK * abs(old[figure]))
            if not _or_inf(new.get(figure)) <= old[figure] + slack:
                yield f"{', '.join(key)}: {_or_inf(new.get(figure)):.3g} {_UNITS[figure]}; was {old[figure]:.3g}"


def _is_case(case: object) -> bool:
    figures = [name for figure, others in _ERRORS.items() for name in (figure, *others)]
    if not isinstance(case, dict) or not {*_CASE_KEY, *figures, "passed"} <= case.keys():
        return False
    units = [case[unit] for unit, _ in _ERRORS.values()]
    return all(_is_finite(case[name]) for name in figures) and all(unit > 0 for unit in units)


def _is_degradation(item: object) -> bool:
    if not isinstance(item, dict) or not {*_DEGRADATION_KEY, *_DEGRADATIONS} <= item.keys():
        return False
    return all(item[name] is None or _is_finite(item[name]) for name in _DEGRADATIONS)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _with_sizes(case: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a test case whose probe is named with its sizes, where it has open ones, such as "data at h=3, w=5"."""
    if not (sizes := case.get("sizes")):
        return case
    return {**case, "probe": f"{case['probe']} at {', '.join(f'{name}={size}' for name, size in sizes.items())}"}


def _by_key(items: Iterable[Mapping[str, Any]], names: tuple[str, ...]) -> dict[tuple[str, ...], Mapping[str, Any]]:
    return {tuple(str(item[name]) for name in names): item for item in items}


def _or_inf(figure: float | None) -> float:
    """Return the figure, or infinity if it is missing."""
    return math.inf if figure is None else figure


def _has_files(name: str, kinds: Sequence[Kind]) -> bool:
    try:
        parse_target(name, kinds)
    except UsageError:
        return False
    return True


def _wider_tolerance(before: Mapping[str, float] | None, tolerance: Tolerance | None) -> Iterator[str]:
    if tolerance is None:
        return
    if before is None:
        yield "--atol or --rtol in place of the measured tolerance"
    elif tolerance.atol > before["atol"] or tolerance.rtol > before["rtol"]:
        yield f"a wider tolerance than atol {before['atol']:g}, rtol {before['rtol']:g}"


def _weaker_budget(before: Mapping[str, float | None] | None, budget: Budget | None) -> Iterator[str]:
    """Yield each option of the budget that is missing or larger than before."""
    for option, key in (("--max-grey-levels", "max_grey_levels"), ("--max-nats", "max_nats")):
        was = None if before is None else before[key]
        now = None if budget is None else getattr(budget, key)
        if was is not None and (now is None or now > was):
            yield f"without {option} {was:g}"
