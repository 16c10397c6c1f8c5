"""What a thorough certificate says that a verification about to take its place would not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vae_export.errors import UsageError
from vae_export.manifest import Manifest
from vae_export.parity.drift import Budget
from vae_export.parity.measure import Tolerance
from vae_export.parity.targets import Kind, choose, kinds_of, parse


def losses(
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
    chosen = choose(kinds, targets)
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
        parse(name, kinds)
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
