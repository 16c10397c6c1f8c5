"""The certificate of one verification: every figure, every verdict and the hashes of the verified files.

It fails closed: a missing test case, a figure that is not finite, or a finding of severity "error" makes it fail.
docs/parity.md describes the JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vae_export.artifact.certificate import CERTIFICATE_FORMAT
from vae_export.contract import PIXELS
from vae_export.errors import ParityError
from vae_export.formats.base import Finding
from vae_export.io.atomic import write_atomic
from vae_export.parity.compare import CaseResult, json_numbers
from vae_export.parity.degradation import Budget, Degradation
from vae_export.parity.error_maps import ErrorMap
from vae_export.parity.onnx_debug import NodeMismatch
from vae_export.parity.plan import Plan
from vae_export.parity.probes import probes_out_of_range
from vae_export.parity.reproduction import UNREPRODUCED_ADVICE, UNREPRODUCED_RULES, Reproduction
from vae_export.parity.tolerance import Tolerance


@dataclass(frozen=True)
class Determinism:
    """Whether one part on one target repeats its outputs bit for bit; a finding says whether that is a fault.

    Attributes:
        part, target: the part that was run, and its target.
        same_session: whether a second run in the same session gave the same bits.
        fresh_session: whether a run in another session gave the same bits.
    """

    part: str
    target: str
    same_session: bool
    fresh_session: bool


@dataclass(frozen=True)
class EngineVersion:
    """The engine that ran the files of a target.

    Attributes:
        package: the name of its package, such as "onnxruntime".
        version: the version of the package.
    """

    package: str
    version: str


def _largest(figures: Iterable[float | None]) -> float | None:
    """Return the largest of the figures that were measured, or None if none was."""
    return max((figure for figure in figures if figure is not None), default=None)


#: What every output is compared with: the same network in PyTorch, in this precision.
REFERENCE = "PyTorch float64"
#: Parts whose degradation is not measured separately: it shows in the decoder's image.
_MEASURED_WITH_DECODER = ("encoder", *PIXELS.values())


@dataclass(frozen=True)
class Certificate:
    """The result of a verification, as `verify` returns it.

    Attributes:
        files: SHA-256 of the bytes that were run, by file name.
        planned: number of test cases that must be present.
        results: the test cases that were run.
        findings: findings of the linters, and warnings about the measurements.
        determinism: one entry for each part and target.
        node_mismatches: the first wrong node of each ONNX file that failed.
        unusable: targets that this machine lists but cannot use, with the reason; never a requested target.
        not_verified: files of the export that no target of this verification runs.
        environment: versions, machine, and origin of the probes.
        degradations: one entry for each file of lower precision, or for every file if there is a budget.
        tolerance: the user's tolerance, which replaces the measured one; None if the user gave none.
        budget: the degradation that files may have; None for no limit.
        nats_not_compared: the reason why nats were not compared; None if they were.
        error_maps: pictures of the decoder's errors by target, for the HTML page; not in the JSON.
        plan: what was to be run; in the JSON only if it leaves something out.
        reproductions: the comparison of each file with the one that this version writes from the source.
        allows_unreproduced: whether files may pass that could not be reproduced (`--allow-unreproduced`).
        engines: package and version that ran the files, by target.
        coverage: how much of each file the probes reached, by file name, as JSON.
        manifest: SHA-256 of what the manifest says, by subject (see `manifest_digests`).
        model: SHA-256 of the weights: of the checkpoint, or of each file of weights by name; None if not known.
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
    plan: Plan = field(default_factory=lambda: Plan({}))
    reproductions: tuple[Reproduction, ...] = ()
    allows_unreproduced: bool = False
    engines: Mapping[str, EngineVersion] = field(default_factory=dict)
    coverage: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, str] = field(default_factory=dict)
    model: str | Mapping[str, str] | None = None

    @property
    def passed(self) -> bool:
        """Whether there were test cases, all of them ran and passed, and every file is what this version writes."""
        complete = bool(self.results) and len(self.results) == self.planned
        is_proved = self.allows_unreproduced or (bool(self.reproductions) and not self.unreproduced)
        return complete and not self.failures and not self.errors and not self.over_budget and is_proved

    @property
    def unreproduced(self) -> tuple[Reproduction, ...]:
        """The files of which neither the bytes nor the structure are those that this version writes."""
        return tuple(item for item in self.reproductions if not item.is_proof)

    @property
    def failures(self) -> tuple[CaseResult, ...]:
        """The test cases that failed."""
        return tuple(result for result in self.results if not result.passed)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that fail the certificate."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def over_budget(self) -> tuple[str, ...]:
        """A line for each limit of the budget that is exceeded. A budget without any measurement counts as exceeded."""
        if self.budget is None:
            return ()
        if not self.degradations:
            return ("no file was measured for the budget",)
        return tuple(line for degradation in self.degradations for line in degradation.over_budget(self.budget))

    @property
    def withheld_probes(self) -> dict[str, tuple[str, ...]]:
        """The names of the probes that were not run, by the precision that cannot represent them."""
        precisions = dict.fromkeys(result.limits.precision for result in self.results)
        return {precision: probes for precision in precisions if (probes := probes_out_of_range(precision))}

    @property
    def gaps(self) -> tuple[str, ...]:
        """A line for each thing that was not verified, and so has neither passed nor failed."""
        lines = [f"{name}: no target of this verification runs it" for name in self.not_verified]
        if self.allows_unreproduced:
            lines += [f"{item.file}: not reproduced, judged by its outputs alone" for item in self.unreproduced]
        lines += [f"{name}: {reason}" for name, reason in self.unusable.items()]
        if self.budget is not None:
            measured = {degradation.target for degradation in self.degradations if degradation.part == "decoder"}
            run = dict.fromkeys((result.part, result.target) for result in self.results)
            lines += [
                f"{part} on {target}: no decoder to hold it against the budget with"
                for part, target in run
                if part in _MEASURED_WITH_DECODER and target not in measured
            ]
        lines += [
            f"{name}: inputs of {', '.join(probes)}, beyond its range" for name, probes in self.withheld_probes.items()
        ]
        return (*lines, *([f"nats: {self.nats_not_compared}"] if self.nats_not_compared is not None else []))

    def require(self) -> None:
        """Raise `ParityError` unless the certificate passed; the message names the worst failure."""
        if self.passed:
            return
        if self.failures:
            # Faults first, then the largest error in units of its tolerance.
            worst = max(self.failures, key=lambda result: result.tolerance_used)
            raise ParityError(
                f"{len(self.failures)} of {len(self.results)} comparisons failed",
                where=f"{worst.part} on {worst.target}, '{worst.output}', probe {worst.probe}, batch {worst.batch}",
                got=worst.reason,
            )
        if self.errors:
            first = self.errors[0]
            do = UNREPRODUCED_ADVICE if first.rule in UNREPRODUCED_RULES else None
            raise ParityError(first.rule, where=first.where, got=first.detail, do=do)
        if self.over_budget:
            raise ParityError("budget is missed", got="; ".join(self.over_budget))
        if not self.planned:
            raise ParityError("nothing was verified", do="see the targets in `vae-export doctor`")
        got = len(self.results)
        raise ParityError("not everything was verified", expected=f"{self.planned} comparisons", got=got)

    def to_json(self) -> dict[str, Any]:
        """Return the document of certificate.json (docs/parity.md)."""
        return dict(self._document)

    @cached_property
    def _document(self) -> dict[str, Any]:
        """The document, which takes a while to make: it has some thousand rows."""
        return {
            "format": CERTIFICATE_FORMAT,
            "verdict": "pass" if self.passed else "fail",
            "reference": REFERENCE,
            "model": self.model if self.model is None or isinstance(self.model, str) else dict(self.model),
            "planned_rows": self.planned,
            "failed_rows": len(self.failures),
            "files": dict(self.files),
            "manifest": dict(self.manifest),
            "reproduction": {item.file: item.to_json() for item in self.reproductions},
            "unreproduced_allowed": self.allows_unreproduced,
            "engines": {target: asdict(engine) for target, engine in self.engines.items()},
            "coverage": dict(self.coverage),
            "environment": dict(self.environment),
            "tolerance": None if self.tolerance is None else asdict(self.tolerance),
            "budget": None if self.budget is None else asdict(self.budget),
            "drift": [json_numbers(degradation.to_json()) for degradation in self.degradations],
            "nats_not_compared": self.nats_not_compared,
            "unusable_targets": dict(self.unusable),
            "files_not_verified": list(self.not_verified),
            "probes_withheld": {name: list(names) for name, names in self.withheld_probes.items()},
            "findings": [asdict(finding) for finding in self.findings],
            "determinism": [asdict(item) for item in self.determinism],
            "divergences": {name: mismatch.to_json() for name, mismatch in self.node_mismatches.items()},
            **({} if self.plan.is_complete else {"plan": self.plan.to_json()}),
            "rows": [result.to_json() for result in self.results],
        }

    def summary(self) -> dict[str, Any]:
        """Return the document without its rows, and in their place a line for each output of each part and target."""
        groups: dict[tuple[str, str, str], list[CaseResult]] = {}
        for result in self.results:
            groups.setdefault((result.part, result.target, result.output), []).append(result)
        document = self.to_json()
        del document["rows"]
        return document | {
            "outputs": [
                json_numbers(
                    {
                        "part": part,
                        "target": target,
                        "output": output,
                        "rows": len(results),
                        "failed_rows": sum(not result.passed for result in results),
                        "max_abs": _largest(result.comparison.max_abs for result in results),
                        "ratio": _largest(result.ratio for result in results),
                        "share_of_tolerance": _largest(result.tolerance_used for result in results),
                    }
                )
                for (part, target, output), results in groups.items()
            ]
        }

    def write(self, path: Path) -> None:
        """Write certificate.json atomically, with one line for each test case; numbers that are not finite are null.

        Args:
            path: the file; an existing one is replaced.
        """
        data = self.to_json()
        rows = ",\n".join(json.dumps(row, allow_nan=False) for row in data.pop("rows"))
        head = json.dumps(data, indent=1, allow_nan=False).removesuffix("\n}")
        write_atomic(path, f'{head},\n "rows": [\n{rows}\n]\n}}\n'.encode())
