"""What is tried, what it costs, who wins, and what becomes of candidates that cannot run."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tune.conftest import PLAN, Small
from vae_export import open_artifact
from vae_export.artifact.certificate import StoredCertificate
from vae_export.artifact.manifest import MANIFEST, Recommendation
from vae_export.bench.process import SubjectProcess
from vae_export.errors import IntegrityError, ParityError, TargetError, UsageError
from vae_export.parity import Budget
from vae_export.parity.targets import Target
from vae_export.tune import successive_halving
from vae_export.tune.candidates import Candidate, candidates, degradation_of
from vae_export.tune.plan import TunePlan
from vae_export.tune.successive_halving import SuccessiveHalving
from vae_export.tune.tuner import publish, tune

CPU = "CPUExecutionProvider"


def test_everything_is_tried_one_wins_and_each_has_a_reason(small: Small, tmp_path: Path) -> None:
    artifact = small.copied(tmp_path / "export")
    tuning = tune(artifact, small.record, replace(PLAN, rounds=2), Budget())
    found = {str(tried.candidate): tried for tried in tuning.tried}
    assert len(found) == len(tuning.tried)

    cores = sorted({1, min(2, os.cpu_count() or 1), os.cpu_count() or 1})
    counts = ["default threads", *(f"{count} thread{'s' * (count > 1)}" for count in cores)]
    plain = {f"onnx{kind}/{CPU}, {count}" for kind in ("", "+int8") for count in counts}
    plain |= {f"ort/{CPU}, {count}" for count in counts[1:]}
    assert plain <= set(found)
    varied = found.keys() - plain
    assert {name.rsplit(", ", 1)[1] for name in varied} >= {"parallel", "no-arena", "optimisation disabled"}
    assert len({name.rsplit(", ", 1)[0] for name in varied}) == 1, "of one candidate, the best so far"

    (winner,) = (tried for tried in tuning.tried if tried.outcome == "won")
    assert winner.candidate.is_followed
    assert tuning.why[0].startswith(f"{winner.candidate} won: ")
    for tried in tuning.tried:
        assert tried.outcome.startswith(("won", "slower: ", "a tie: ", "not for the runtime: "))
        assert tried.p50_seconds is not None
        assert tried.speedup is not None
        assert 0 < tried.speedup.low <= tried.speedup.median <= tried.speedup.high

    after = open_artifact(artifact.folder)
    assert after.manifest.recommended == (tuning.recommended,)
    assert replace(after.manifest, recommended=()) == small.artifact.manifest
    assert after.manifest.text == (after.folder / MANIFEST).read_bytes()
    small.record.require(after.manifest, "certificate")


def test_costs_are_those_of_the_certificate(small: Small) -> None:
    (drift,) = (item for item in small.record.document["drift"] if item["target"] == f"onnx+int8/{CPU}")
    rows = [row for row in small.record.document["rows"] if row["output"] == "negative_elbo"]
    worst = {row["target"]: row["error"] for row in rows}
    for candidate in candidates(small.artifact.manifest, small.record, "decoder"):
        if candidate.target.precision == "int8":
            assert candidate.cost.worst_levels == drift["worst_levels"] > 0
            assert candidate.cost.nats_high == drift["nats_high"]
        else:
            assert candidate.cost.worst_levels in (0, 1)
            assert candidate.cost.nats_high == worst[str(candidate.target)] > 0


def test_an_autoencoder_costs_what_its_own_rows_say() -> None:
    """Not what the decoder's say, which is another file; and where there is none, it still has a cost."""
    target = Target("onnx", CPU)
    row = {"target": str(target), "output": "x", "probe": "data", "error": 1e-6}
    own = {**row, "part": "autoencoder", "grey": {"worst": 3}}
    decoder = {**row, "part": "decoder", "grey": {"worst": 1}}
    nats = {**row, "part": "metric", "output": "negative_elbo", "grey": None}
    known = StoredCertificate(b"", {"drift": [], "rows": [own, decoder, nats]})
    assert (
        degradation_of(known, "autoencoder", target).worst_levels,
        degradation_of(known, "autoencoder", target).nats_high,
    ) == (3, None)
    assert (
        degradation_of(known, "decoder", target).worst_levels,
        degradation_of(known, "encoder", target).nats_high,
    ) == (1, 1e-6)
    assert degradation_of(StoredCertificate(b"", {"drift": [], "rows": [own]}), "autoencoder", target).over_budget(
        Budget(2)
    ) == [f"autoencoder on {target}: 3 grey levels, 2 allowed"]


def test_a_certificate_whose_costs_are_no_numbers_is_one_line(small: Small) -> None:
    [drift, *_] = small.record.document["drift"]
    wrong = StoredCertificate(b"", {**small.record.document, "drift": [{**drift, "worst_levels": "none"}]})
    with pytest.raises(IntegrityError, match="certificate cannot be read: .*a cost is 'none'"):
        tune(small.artifact, wrong, PLAN, Budget())


def test_where_nothing_is_within_the_budget_the_manifest_stays(small: Small, tmp_path: Path) -> None:
    artifact = small.copied(tmp_path / "export")
    with pytest.raises(
        ParityError, match="no certified file that the runtime can run is within the budget; got decoder on onnx/"
    ):
        tune(artifact, small.record, PLAN, Budget(max_nats=0))
    assert (artifact.folder / MANIFEST).read_bytes() == small.artifact.manifest.text


class Dying(SubjectProcess):
    """The processes of some sides are killed when they are first asked for a time."""

    dies = "ort/"

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        if do == "time" and self.subject.name.startswith(self.dies):
            os.kill(self.pid, signal.SIGSEGV)
        return super().ask(do, **order)


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer candidates, for a test's sake."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


@pytest.mark.usefixtures("one_core")
def test_what_is_over_budget_and_what_crashes_are_rows_and_the_others_go_on(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(successive_halving, "SubjectProcess", Dying)
    artifact = small.copied(tmp_path / "export")
    (drift,) = (item for item in small.record.document["drift"] if item["target"] == f"onnx+int8/{CPU}")
    budget = Budget(max_nats=drift["nats_high"] * 0.99)
    tuning = tune(artifact, small.record, PLAN, budget)
    assert tuning.recommended.file == "decoder.onnx"
    assert tuning.recommended.budget == {"max_grey_levels": None, "max_nats": budget.max_nats}
    out = {str(tried.candidate): (tried.outcome, tried.p50_seconds) for tried in tuning.tried}
    over = (f"over budget: {drift['nats_high']:.4g} nats, {budget.max_nats:g} allowed", None)
    assert [out[f"onnx+int8/{CPU}, {threads}"] for threads in ("default threads", "1 thread")] == [over, over]
    assert out[f"ort/{CPU}, 1 thread"] == ("cannot run here: its process died of SIGSEGV", None)
    assert open_artifact(artifact.folder).manifest.recommended == (tuning.recommended,)


@pytest.mark.usefixtures("one_core")
def test_defaults_that_crash_are_an_error_and_the_manifest_stays(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(successive_halving, "SubjectProcess", Dying)
    monkeypatch.setattr(Dying, "dies", "onnx/")
    artifact = small.copied(tmp_path / "export")
    with pytest.raises(TargetError, match=r"defaults cannot be run here: onnx/.*; got its process died of SIGSEGV"):
        tune(artifact, small.record, PLAN, Budget())
    assert (artifact.folder / MANIFEST).read_bytes() == small.artifact.manifest.text


def test_what_is_not_certified_is_not_tried(small: Small, tmp_path: Path) -> None:
    failed = StoredCertificate(small.record.data, dict(small.record.document) | {"verdict": "fail"})
    with pytest.raises(ParityError, match="did not pass"):
        tune(small.artifact, failed, PLAN, Budget())
    others = dict(small.record.document["files"]) | {"decoder.onnx": "0" * 64}
    with pytest.raises(IntegrityError, match="another file"):
        tune(small.artifact, StoredCertificate(b"", dict(small.record.document) | {"files": others}), PLAN, Budget())
    with pytest.raises(IntegrityError, match="certificate cannot be read"):
        tune(small.artifact, StoredCertificate(b"", dict(small.record.document) | {"rows": [{}]}), PLAN, Budget())
    artifact = small.copied(tmp_path / "export")
    path = artifact.folder / "decoder.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityError, match="altered"):
        tune(artifact, small.record, PLAN, Budget())


def test_a_target_that_was_not_verified_is_not_tried(small: Small) -> None:
    rows = [row for row in small.record.document["rows"] if row["target"] != f"ort/{CPU}"]
    record = StoredCertificate(b"", dict(small.record.document) | {"rows": rows})
    formats = {candidate.target.format for candidate in candidates(small.artifact.manifest, record, "decoder")}
    assert formats == {"onnx"}


def search(field: dict[Candidate, list[float]], usual: Candidate) -> SuccessiveHalving:
    """A search whose last heat gave these seconds, one a round."""
    found = SuccessiveHalving(Path(), PLAN, usual, lambda _line: None)
    found.contest._seconds = field
    found.contest._workers = dict.fromkeys(field)  # type: ignore[arg-type]  # nothing runs
    return found


def test_a_tie_goes_to_the_more_exact_and_a_lead_beyond_noise_does_not(small: Small) -> None:
    field = candidates(small.artifact.manifest, small.record, "decoder")
    usual, exact, eight = (
        next(item for item in field if item.target.precision == precision and item.options.threads == threads)
        for precision, threads in (("fp32", None), ("fp32", 1), ("int8", 1))
    )
    slow = [2.0, 2.0, 2.0, 2.0]
    tied = search({usual: slow, exact: [1.0, 1.0, 1.1, 0.9], eight: [0.9, 1.1, 1.0, 0.9]}, usual)
    assert tied.winner()[0] == exact
    assert {str(item.candidate): item.outcome for item in tied.tried}[str(eight)].startswith("a tie: ")
    won, why = search({usual: slow, exact: [1.0] * 4, eight: [0.5, 0.6, 0.5, 0.5]}, usual).winner()
    assert won == eight
    assert why == [f"{eight} won: 4.00 times as fast as the runtime's defaults (3.83 to 4.00)"]
    assert search({usual: [1.0] * 4, exact: [1.01] * 4, eight: [1.5] * 4}, usual).winner()[0] == usual


def test_an_engine_that_the_runtime_does_not_run_never_wins_and_its_lead_is_said(small: Small) -> None:
    field = candidates(small.artifact.manifest, small.record, "decoder")
    usual = next(item for item in field if item.is_followed)
    other = next(item for item in field if not item.is_followed)
    found = search({usual: [1.0] * 4, other: [0.5] * 4}, usual)
    winner, why = found.winner()
    assert winner == usual
    assert why[1] == f"outside the runtime {other} is quicker: the winner takes 2.00 times its time (2.00 to 2.00)"
    assert found.tried[1].outcome == "not for the runtime: 0.50× the winner's time"
    _, why = search({usual: [1.0] * 4, other: [0.9, 1.2, 1.1, 0.9]}, usual).winner()
    assert f"outside the runtime {other} is as quick within noise: " in why[1]
    _, why = search({usual: [1.0] * 4, other: [2.0] * 4}, usual).winner()
    assert f"outside the runtime {other} is slower: the winner takes 0.50 times its time" in why[1]


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"rounds": 0}, {"seconds": 0.0}, {"seconds": float("nan")}])
def test_a_plan_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="^bad "):
        TunePlan(**wrong)


def test_other_parts_keep_what_was_recommended_for_them(small: Small, advice: Recommendation, tmp_path: Path) -> None:
    artifact = small.copied(tmp_path / "export")
    publish(artifact, advice)
    encoder = replace(advice, part="encoder", file="encoder.onnx", sha256=artifact.manifest.entry("encoder").sha256)
    artifact = open_artifact(artifact.folder)
    publish(artifact, encoder)
    assert open_artifact(artifact.folder).manifest.recommended == (advice, encoder)
    other = replace(encoder, options=replace(encoder.options, threads=2))
    publish(open_artifact(artifact.folder), other)
    assert open_artifact(artifact.folder).manifest.recommended == (advice, other)
    with pytest.raises(IntegrityError, match="changed while it was tuned"):
        publish(artifact, encoder)
