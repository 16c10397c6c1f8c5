"""The record of one verification: every figure, every verdict, the hashes of what was verified.

It fails closed: a row that is missing, a figure that is no number, a finding that is an error, each means "fail".
docs/parity.md describes the JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vae_export.artifact.certificate import FORMAT
from vae_export.contract import PIXELS
from vae_export.errors import ParityError
from vae_export.formats.base import Finding
from vae_export.io.atomic import write_atomic
from vae_export.parity.compare import CaseResult, json_numbers
from vae_export.parity.degradation import Budget, Degradation
from vae_export.parity.error_maps import ErrorMap
from vae_export.parity.onnx_debug import NodeMismatch
from vae_export.parity.probes import probes_out_of_range
from vae_export.parity.tolerance import Tolerance


@dataclass(frozen=True)
class Determinism:
    """Whether one part on one target gave the same bits again: reported, never assumed, and no verdict by itself."""

    part: str
    target: str
    same_session: bool
    fresh_session: bool


#: The parts that cost nothing by themselves: what they cost is seen of the decoder's image.
_WITH_DECODER = ("encoder", *PIXELS.values())


@dataclass(frozen=True)
class Certificate:
    """Attributes:
    files: SHA-256 of the very bytes that were run, by file name.
    planned: how many rows were to be evaluated.
    rows: every comparison that was made.
    findings: what reading the files showed.
    determinism: for each part and target.
    divergences: where a failed file first leaves the path.
    unusable: targets that this machine lists but cannot use, with the reason; never one that was asked for.
    not_verified: files of the export that no target of this verification runs.
    environment: versions, machine, what the probes were made from.
    drifts: what each file of lower precision costs in pixels and nats; of every file where there is a budget.
    tolerance: the user's own band, in place of the measured one; None where there was none.
    budget: what files may cost; None where there was none.
    nats: why nats were not compared; None where they were.
    evidence: pictures of the decoder's errors by target, for the page; not in the JSON.
    """

    files: Mapping[str, str]
    planned: int
    results: tuple[CaseResult, ...]
    findings: tuple[Finding, ...] = ()
    determinism: tuple[Determinism, ...] = ()
    node_mismatches: Mapping[str, NodeMismatch] = field(default_factory=dict)
    unusable: Mapping[str, str] = field(default_factory=dict)
    not_verified: tuple[str, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    degradations: tuple[Degradation, ...] = ()
    tolerance: Tolerance | None = None
    budget: Budget | None = None
    nats_not_compared: str | None = None
    error_maps: Mapping[str, ErrorMap] = field(default_factory=dict, compare=False)

    @property
    def passed(self) -> bool:
        """True only if something was to be compared, all of it was, and all of it passed."""
        complete = bool(self.results) and len(self.results) == self.planned
        return complete and not self.failures and not self.errors and not self.over_budget

    @property
    def failures(self) -> tuple[CaseResult, ...]:
        return tuple(row for row in self.results if not row.passed)

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def over_budget(self) -> tuple[str, ...]:
        """A line for each way in which the budget is missed; one that nothing was held against is missed."""
        if self.budget is None:
            return ()
        if not self.degradations:
            return ("nothing was held against the budget",)
        return tuple(line for drift in self.degradations for line in drift.over_budget(self.budget))

    @property
    def withheld_probes(self) -> dict[str, tuple[str, ...]]:
        """The probes that files were not given, by the precision that cannot hold them."""
        precisions = dict.fromkeys(row.limits.precision for row in self.results)
        return {precision: probes for precision in precisions if (probes := probes_out_of_range(precision))}

    @property
    def gaps(self) -> tuple[str, ...]:
        """A line for each thing that was left out: it is neither passed nor failed, and a reader must know."""
        lines = [f"{name}: no target of this verification runs it" for name in self.not_verified]
        lines += [f"{name}: {reason}" for name, reason in self.unusable.items()]
        if self.budget is not None:
            held = {drift.target for drift in self.degradations if drift.part == "decoder"}
            alone = dict.fromkeys((row.part, row.target) for row in self.results if row.part in _WITH_DECODER)
            lines += [
                f"{part} on {target}: no decoder to hold it against the budget with"
                for part, target in alone
                if target not in held
            ]
        lines += [
            f"{name}: inputs of {', '.join(names)}, beyond its range" for name, names in self.withheld_probes.items()
        ]
        return (*lines, *([f"nats: {self.nats_not_compared}"] if self.nats_not_compared is not None else []))

    def require(self) -> None:
        """Raise `ParityError` unless it passed; the message names what is worst."""
        if self.passed:
            return
        if self.failures:
            # Faults first, then the largest excess over the band.
            worst = max(self.failures, key=lambda row: row.tolerance_used)
            raise ParityError(
                f"{len(self.failures)} of {len(self.results)} comparisons failed",
                where=f"{worst.part} on {worst.target}, '{worst.output}', probe {worst.probe}, batch {worst.batch}",
                got=worst.reason,
            )
        if self.errors:
            raise ParityError(self.errors[0].rule, where=self.errors[0].where, got=self.errors[0].detail)
        if self.over_budget:
            raise ParityError("budget is missed", got="; ".join(self.over_budget))
        if not self.planned:
            raise ParityError("nothing was verified", do="see the targets in `vae-export doctor`")
        raise ParityError("not everything was verified", expected=f"{self.planned} rows", got=len(self.results))

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "verdict": "pass" if self.passed else "fail",
            "planned_rows": self.planned,
            "failed_rows": len(self.failures),
            "files": dict(self.files),
            "environment": dict(self.environment),
            "tolerance": None if self.tolerance is None else asdict(self.tolerance),
            "budget": None if self.budget is None else asdict(self.budget),
            "drift": [json_numbers(drift.to_json()) for drift in self.degradations],
            "nats_not_compared": self.nats_not_compared,
            "unusable_targets": dict(self.unusable),
            "files_not_verified": list(self.not_verified),
            "probes_withheld": {name: list(names) for name, names in self.withheld_probes.items()},
            "findings": [asdict(finding) for finding in self.findings],
            "determinism": [asdict(item) for item in self.determinism],
            "divergences": {name: item.to_json() for name, item in self.node_mismatches.items()},
            "rows": [row.to_json() for row in self.results],
        }

    def write(self, path: Path) -> None:
        """Write as JSON, atomically, a row a line. What is no finite number is no JSON: it is null."""
        data = self.to_json()
        rows = ",\n".join(json.dumps(row, allow_nan=False) for row in data.pop("rows"))
        head = json.dumps(data, indent=1, allow_nan=False).removesuffix("\n}")
        write_atomic(path, f'{head},\n "rows": [\n{rows}\n]\n}}\n'.encode())
