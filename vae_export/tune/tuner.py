"""`tune()`: the quickest certified settings of a part, and the place in the manifest where they are recommended."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from vae_export.artifact.certificate import StoredCertificate
from vae_export.artifact.folder import Artifact
from vae_export.artifact.manifest import MANIFEST, Recommendation, read_manifest
from vae_export.errors import IntegrityError, ParityError
from vae_export.io.atomic import write_atomic
from vae_export.parity import Budget
from vae_export.runtime.model import Model
from vae_export.session_options import CPU, OPTIMISATION_LEVELS
from vae_export.system.hardware import identity
from vae_export.tune.candidates import Candidate, candidates, verified_levels
from vae_export.tune.plan import TunePlan
from vae_export.tune.successive_halving import CandidateResult, Report, SuccessiveHalving


@dataclass(frozen=True)
class TuningResult:
    """Attributes:
    plan, budget: what was tuned for.
    tried: every candidate, the quickest first.
    why: one sentence on the winner, and one on what is quicker outside the runtime, if anything is.
    recommended: the winner.
    """

    plan: TunePlan
    budget: Budget
    tried: tuple[CandidateResult, ...]
    why: tuple[str, ...]
    recommended: Recommendation

    def to_json(self) -> dict[str, Any]:
        return {
            "plan": asdict(self.plan),
            "budget": asdict(self.budget),
            "machine": identity(),
            "tried": [tried.to_json() for tried in self.tried],
            "why": list(self.why),
            "recommended": self.recommended.to_json(),
        }


def tune(
    artifact: Artifact, record: StoredCertificate, plan: TunePlan, budget: Budget, report: Report = lambda _line: None
) -> TuningResult:
    """Find the quickest settings of one part within a budget, and write them into the export's manifest.

    Args:
        artifact: the export.
        record: its certificate. What is not proved to compute the right thing is not tried.
        plan: which part, for what batch, and for how long.
        budget: what of pixels and nats a file may cost; its figures are those of the certificate.
        report: called with a line at each step.

    Raises:
        ParityError: the certificate did not pass; no file that the runtime can run is within the budget; or the
            winner fails the golden vectors. The manifest is as it was.
        IntegrityError: a file was altered, the certificate is of other files, or the export changed meanwhile.
        UsageError: a part that the export lacks.
        TargetError: the runtime's defaults cannot be run here.
    """
    record.require(artifact.manifest, artifact.certificate)
    try:
        pool = candidates(artifact.manifest, record, plan.part)
    except (KeyError, TypeError, AttributeError) as error:
        raise IntegrityError("certificate cannot be read", where=artifact.certificate, got=repr(error)[:200]) from error
    affordable = [candidate for candidate in pool if not candidate.cost.over_budget(budget)]
    for entry in {candidate.entry for candidate in affordable}:
        artifact.read(entry)  # one that was altered is no side that cannot run: it is refused
    search = SuccessiveHalving(artifact.folder, plan, _usual(pool, affordable, budget), report)
    for candidate in pool:
        if excesses := candidate.cost.over_budget(budget):
            search.tried.append(CandidateResult(candidate, f"over budget: {'; '.join(map(_bare, excesses))}"))
    with search.contest:
        search.run(affordable, lambda candidate: verified_levels(record, plan.part, candidate.target))
        winner, why = search.winner()
        found = _recommendation(search, winner, plan, budget)
    publish(artifact, found)
    tried = sorted(search.tried, key=lambda item: -item.speedup.median if item.speedup else math.inf)
    return TuningResult(plan, budget, tuple(tried), tuple(why), found)


def publish(artifact: Artifact, found: Recommendation) -> None:
    """Put it into manifest.json, in place of what was recommended for this part, once it passed the golden vectors.

    Neither the certificate nor a file's hash is touched by it: both are of the files, and the manifest is of neither.
    """
    kept = [item for item in artifact.manifest.recommended if item.part != found.part]
    manifest = replace(artifact.manifest, recommended=tuple(sorted([*kept, found], key=lambda item: item.part)))
    Model(replace(artifact, manifest=manifest)).self_test().require()
    if read_manifest(artifact.folder) != artifact.manifest:
        raise IntegrityError("export changed while it was tuned", where=artifact.folder / MANIFEST, do="tune again")
    write_atomic(artifact.folder / MANIFEST, manifest.text)


def _recommendation(search: SuccessiveHalving, winner: Candidate, plan: TunePlan, budget: Budget) -> Recommendation:
    return Recommendation(
        part=plan.part,
        file=winner.entry.name,
        sha256=winner.entry.sha256,
        options=replace(winner.options, optimisation=winner.options.optimisation or OPTIMISATION_LEVELS[-1]),
        batch=plan.batch,
        p50_seconds=_rounded(search.contest.p50(winner)),
        speedup=_rounded(search.contest.ratio(search.usual, winner).median),
        budget=asdict(budget),
        machine=identity(),
    )


def _usual(pool: list[Candidate], affordable: list[Candidate], budget: Budget) -> Candidate:
    """What the runtime runs where nothing was recommended; of what is within the budget, the file with most bits."""
    can = [candidate for candidate in affordable if candidate.is_followed and candidate.target.provider == CPU]
    if not can:
        costs = [line for candidate in pool if candidate.is_followed for line in candidate.cost.over_budget(budget)]
        raise ParityError(
            "no certified file that the runtime can run is within the budget",
            got="; ".join(dict.fromkeys(costs)) or "no such file",
            do="export --format onnx in a finer --precision, or allow more",
        )
    return min(can, key=lambda candidate: candidate.plainness)


def _bare(excess: str) -> str:
    """An excess without the target, which stands beside it."""
    return excess.partition(": ")[2]


def _rounded(value: float) -> float:
    """Four digits: noise begins earlier."""
    return float(f"{value:.4g}")
