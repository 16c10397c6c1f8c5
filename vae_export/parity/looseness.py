"""Bands that let everything through: a row within such a one has shown less than its "passed" sounds like."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vae_export.findings import Finding
from vae_export.parity.row import Row


def loose_bands(rows: Iterable[Row]) -> Iterator[Finding]:
    """A warning for each output of a target with a band that is wider than the contract's range: no image misses it."""
    loose: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row.band > row.scale.span:
            loose.setdefault((row.part, row.target, row.output), []).append(row)
    for (part, target, output), members in loose.items():
        widest, span = max(members, key=lambda row: row.band), members[0].scale.span
        probes = ", ".join(dict.fromkeys(row.probe for row in members))
        can_fail = f"only the mean error can fail, beyond {widest.mean_band:.3g}"
        if widest.mean_band > span:
            can_fail = "no figure of it can fail"
        detail = f"probes {probes}: errors up to {widest.band:.3g} pass in a range of {span:g}, so that {can_fail}"
        yield Finding("loose-band", "warning", f"{part} on {target}, '{output}'", detail)
