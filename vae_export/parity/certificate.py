"""The record of one verification: every figure, every verdict, the hashes of what was verified."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vae_export.contract import Part
from vae_export.files import write_atomic
from vae_export.parity.measure import Measure, Scale

FORMAT = "vae-export-certificate/1"


@dataclass(frozen=True)
class Row:
    """One output of one part, run on one target with one probe at one batch size."""

    part: Part
    target: str
    probe: str
    batch: int
    output: str
    measure: Measure
    scale: Scale

    @property
    def passed(self) -> bool:
        """Fails closed: whatever is not a finite number within the band has not passed."""
        error = self.measure.error
        return self.measure.fault is None and error is not None and error <= self.scale.band

    @property
    def reason(self) -> str:
        """Why it failed, or what it achieved."""
        if self.measure.fault is not None:
            return self.measure.fault
        return f"error {self.measure.error:.3g} against float64, {self.scale.band:.3g} allowed"

    def to_json(self) -> dict[str, Any]:
        place = {key: getattr(self, key) for key in ("part", "target", "probe", "batch", "output")}
        scale = asdict(self.scale) | {"band": self.scale.band}
        return place | asdict(self.measure) | scale | {"passed": self.passed}


@dataclass(frozen=True)
class Certificate:
    """Attributes:
    files: SHA-256 of the very bytes that were run, by file name.
    rows: every comparison that was made.
    unusable: targets that this machine lists but cannot use, with the reason; never one that was asked for.
    environment: versions, machine, what the probes were made from.
    """

    files: Mapping[str, str]
    rows: tuple[Row, ...]
    unusable: Mapping[str, str]
    environment: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        """True only if something was compared, and all of it passed."""
        return bool(self.rows) and all(row.passed for row in self.rows)

    @property
    def failures(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if not row.passed)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "verdict": "pass" if self.passed else "fail",
            "files": dict(self.files),
            "environment": dict(self.environment),
            "unusable_targets": dict(self.unusable),
            "rows": [row.to_json() for row in self.rows],
        }

    def write(self, path: Path) -> None:
        """Write as JSON, atomically. NaN is no JSON, and no figure of a row can be NaN."""
        write_atomic(path, (json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n").encode())
