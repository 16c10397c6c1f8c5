"""Find the fastest certified settings of a part and recommend them in the manifest."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from vae_export.artifact.certificate import StoredCertificate
from vae_export.artifact.folder import Artifact
from vae_export.artifact.manifest import MANIFEST, Recommendation, read_manifest
from vae_export.errors import IntegrityError, ParityError, UsageError
from vae_export.io.atomic import write_atomic
from vae_export.parity import Budget
from vae_export.parity.degradation import Report
from vae_export.runtime.model import Model
from vae_export.session_options import CPU, OPTIMISATION_LEVELS
from vae_export.system.hardware import identity
from vae_export.tensors import BATCH, Symbol
from vae_export.tune.candidates import Candidate, candidates, verified_levels
from vae_export.tune.plan import TunePlan
from vae_export.tune.successive_halving import CandidateResult, SuccessiveHalving


@dataclass(frozen=True)
class TuningResult:
    """The outcome of `tune()`.

    Attributes:
        plan, budget: the options.
        results: the outcome of every candidate, the fastest first.
        why: a sentence about the winner, and a comparison with other engines if the export has their files.
        recommended: the recommendation that is written into the manifest.
    """

    plan: TunePlan
    budget: Budget
    results: tuple[CandidateResult, ...]
    why: tuple[str, ...]
    recommended: Recommendation

    def to_json(self) -> dict[str, Any]:
        """Return the result of `tune --json`."""
        return {
            "plan": asdict(self.plan),
            "budget": asdict(self.budget),
            "machine": identity(),
            "tried": [result.to_json() for result in self.results],
            "why": list(self.why),
            "recommended": self.recommended.to_json(),
        }


def tune(
    artifact: Artifact,
    certificate: StoredCertificate,
    plan: TunePlan,
    budget: Budget,
    report: Report = lambda _line: None,
) -> TuningResult:
    """Find the fastest settings of one part within a budget, and write them into the manifest of the export.

    Args:
        artifact: the export.
        certificate: the certificate of the export; only certified files are candidates.
        plan: the part, the batch size, and the measuring time of the candidates.
        budget: the degradation in pixels and nats that a file may have, as the certificate states it.
        report: called with one line at each step.

    Returns:
        All candidates with their outcome, and the recommendation.

    Raises:
        ParityError: the certificate did not pass, no file that the runtime can run is within the budget, or the winner
            fails the golden vectors. The manifest stays unchanged.
        IntegrityError: a file was altered, the certificate belongs to other files, or the export changed meanwhile.
        UsageError: the export has no such part, or its files take no such batch or sizes.
        TargetError: the runtime's defaults cannot run here.
    """
    certificate.require(artifact.manifest, artifact.certificate)
    allowed = artifact.manifest.contract.symbols.get(BATCH, Symbol())
    if not allowed.allows(plan.batch):
        expected = f"{allowed.bounds} rows"
        raise UsageError("files take no such batch", expected=expected, got=plan.batch, do="pass --batch")
    plan = replace(plan, sizes=artifact.manifest.contract.sizes(plan.sizes))
    try:
        pool = candidates(artifact.manifest, certificate, plan.part)
    except (KeyError, TypeError, AttributeError) as error:
        raise IntegrityError("certificate cannot be read", where=artifact.certificate, got=repr(error)[:200]) from error
    affordable = [candidate for candidate in pool if not candidate.cost.over_budget(budget)]
    for entry in {candidate.entry for candidate in affordable}:
        artifact.read(entry)  # an altered file is an error, not a candidate that cannot run
    search = SuccessiveHalving(artifact.folder, plan, _baseline(pool, affordable, budget), report)
    for candidate in pool:
        if excesses := candidate.cost.over_budget(budget):
            search.leave_out(candidate, f"over budget: {'; '.join(map(_without_target, excesses))}")
    with search:
        search.run(affordable, lambda candidate: verified_levels(certificate, plan.part, candidate.target))
    winner, why = search.winner()
    results = search.results(winner)
    recommendation = _recommendation(search, winner, plan, budget)
    publish(artifact, recommendation)
    return TuningResult(plan, budget, tuple(results), tuple(why), recommendation)


def publish(artifact: Artifact, found: Recommendation) -> None:
    """Write a recommendation into manifest.json if it passes the golden vectors; it replaces the one for its part.

    The certificate stays valid, because it says nothing about recommendations.

    Args:
        artifact: the export, as it was when the recommendation was measured.
        found: the recommendation.

    Raises:
        ParityError: the recommended settings fail the golden vectors.
        IntegrityError: the manifest has changed since it was read.
    """
    kept = [item for item in artifact.manifest.recommended if item.part != found.part]
    manifest = replace(artifact.manifest, recommended=tuple(sorted([*kept, found], key=lambda item: item.part)))
    Model(replace(artifact, manifest=manifest)).self_test().require()
    if read_manifest(artifact.folder) != artifact.manifest:
        raise IntegrityError("export changed while it was tuned", where=artifact.folder / MANIFEST, do="tune again")
    write_atomic(artifact.folder / MANIFEST, manifest.text)


def _recommendation(search: SuccessiveHalving, winner: Candidate, plan: TunePlan, budget: Budget) -> Recommendation:
    speedup = search.pool.ratio(search.baseline, winner)
    return Recommendation(
        part=plan.part,
        file=winner.entry.name,
        sha256=winner.entry.sha256,
        options=replace(winner.options, optimisation=winner.options.optimisation or OPTIMISATION_LEVELS[-1]),
        batch=plan.batch,
        p50_seconds=_rounded(search.p50(speedup)),
        speedup=_rounded(speedup.median),
        budget=asdict(budget),
        machine=identity(),
    )


def _baseline(pool: list[Candidate], affordable: list[Candidate], budget: Budget) -> Candidate:
    """Return the candidate that the runtime uses without a recommendation, among those within the budget."""
    can = [candidate for candidate in affordable if candidate.runs_in_runtime and candidate.target.provider == CPU]
    if not can:
        costs = [line for candidate in pool if candidate.runs_in_runtime for line in candidate.cost.over_budget(budget)]
        raise ParityError(
            "no certified file that the runtime can run is within the budget",
            got="; ".join(dict.fromkeys(costs)) or "no such file",
            do="export --format onnx in a finer --precision, or allow more",
        )
    return min(can, key=lambda candidate: candidate.preference)


def _without_target(excess: str) -> str:
    """Return "3 grey levels, 2 allowed" for "decoder on onnx/…: 3 grey levels, 2 allowed"."""
    return excess.partition(": ")[2]


def _rounded(value: float) -> float:
    """Return the value rounded to four digits, which is finer than the noise."""
    return float(f"{value:.4g}")
