"""The candidates, their degradation, the winner, and candidates that cannot run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.bench.scripted import ScriptedProcess
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


@pytest.mark.slow
def test_each_candidate_has_an_outcome_and_one_wins(tunable: Small, tmp_path: Path) -> None:
    artifact = tunable.copied(tmp_path / "export")
    tuning = tune(artifact, tunable.certificate, replace(PLAN, rounds=2), Budget())
    found = {str(result.candidate): result for result in tuning.results}
    assert len(found) == len(tuning.results)

    cores = sorted({1, min(2, os.cpu_count() or 1), os.cpu_count() or 1})
    counts = ["default threads", *(f"{count} thread{'s' * (count > 1)}" for count in cores)]
    plain = {f"onnx{kind}/{CPU}, {count}" for kind in ("", "+int8") for count in counts}
    plain |= {f"ort/{CPU}, {count}" for count in counts[1:]}
    assert plain <= set(found)
    varied = found.keys() - plain
    assert {name.rsplit(", ", 1)[1] for name in varied} >= {"parallel", "no-arena", "optimisation disabled"}
    assert len({name.rsplit(", ", 1)[0] for name in varied}) == 1, "of one candidate, the best so far"

    (winner,) = (result for result in tuning.results if result.outcome == "won")
    assert winner.candidate.runs_in_runtime
    assert tuning.why[0].startswith(f"{winner.candidate} won: ")
    for result in tuning.results:
        assert result.outcome.startswith(("won", "slower: ", "a tie: ", "not for the runtime: "))
        assert result.p50_seconds is not None
        assert result.speedup is not None
        assert 0 < result.speedup.low <= result.speedup.median <= result.speedup.high

    after = open_artifact(artifact.folder)
    assert after.manifest.recommended == (tuning.recommended,)
    assert replace(after.manifest, recommended=()) == tunable.artifact.manifest
    assert after.manifest.text == (after.folder / MANIFEST).read_bytes()
    tunable.certificate.require(after.manifest, "certificate")


def test_degradation_is_read_from_the_certificate(tunable: Small) -> None:
    (degradation,) = (item for item in tunable.certificate.document["drift"] if item["target"] == f"onnx+int8/{CPU}")
    rows = [row for row in tunable.certificate.document["rows"] if row["output"] == "negative_elbo"]
    worst = {row["target"]: row["error"] for row in rows}
    for candidate in candidates(tunable.artifact.manifest, tunable.certificate, "decoder"):
        if candidate.target.precision == "int8":
            assert candidate.cost.worst_levels == degradation["worst_levels"] > 0
            assert candidate.cost.nats_high == degradation["nats_high"]
        else:
            assert candidate.cost.worst_levels in (0, 1)
            assert candidate.cost.nats_high == worst[str(candidate.target)] > 0


def test_autoencoder_has_its_own_degradation() -> None:
    """The autoencoder is a file of its own, with a degradation even if the certificate states none for it."""
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


def test_degradation_that_is_no_number_is_refused(tunable: Small) -> None:
    [degradation, *_] = tunable.certificate.document["drift"]
    wrong = StoredCertificate(b"", {**tunable.certificate.document, "drift": [{**degradation, "worst_levels": "none"}]})
    with pytest.raises(IntegrityError, match="certificate cannot be read: .*a degradation is 'none'"):
        tune(tunable.artifact, wrong, PLAN, Budget())


def test_empty_budget_leaves_the_manifest_unchanged(tunable: Small, tmp_path: Path) -> None:
    artifact = tunable.copied(tmp_path / "export")
    with pytest.raises(
        ParityError, match="no certified file that the runtime can run is within the budget; got decoder on onnx/"
    ):
        tune(artifact, tunable.certificate, PLAN, Budget(max_nats=0))
    assert (artifact.folder / MANIFEST).read_bytes() == tunable.artifact.manifest.text


class Dying(SubjectProcess):
    """The processes of some candidates are killed at their first measurement."""

    dies = "ort/"

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        if do == "time" and self.subject.name.startswith(self.dies):
            os.kill(self.pid, signal.SIGSEGV)
        return super().ask(do, **order)


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """One core, for fewer candidates."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


@pytest.mark.slow
@pytest.mark.usefixtures("one_core")
def test_over_budget_and_crashed_candidates_are_listed(
    tunable: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(successive_halving, "SubjectProcess", Dying)
    artifact = tunable.copied(tmp_path / "export")
    (degradation,) = (item for item in tunable.certificate.document["drift"] if item["target"] == f"onnx+int8/{CPU}")
    budget = Budget(max_nats=degradation["nats_high"] * 0.99)
    tuning = tune(artifact, tunable.certificate, PLAN, budget)
    assert tuning.recommended.file == "decoder.onnx"
    assert tuning.recommended.budget == {"max_grey_levels": None, "max_nats": budget.max_nats}
    out = {str(result.candidate): (result.outcome, result.p50_seconds) for result in tuning.results}
    over = (f"over budget: {degradation['nats_high']:.4g} nats, {budget.max_nats:g} allowed", None)
    assert [out[f"onnx+int8/{CPU}, {threads}"] for threads in ("default threads", "1 thread")] == [over, over]
    assert out[f"ort/{CPU}, 1 thread"] == ("cannot run here: its process died of SIGSEGV", None)
    assert open_artifact(artifact.folder).manifest.recommended == (tuning.recommended,)


@pytest.mark.slow
@pytest.mark.usefixtures("one_core")
def test_crash_of_the_defaults_is_an_error(tunable: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(successive_halving, "SubjectProcess", Dying)
    monkeypatch.setattr(Dying, "dies", "onnx/")
    artifact = tunable.copied(tmp_path / "export")
    with pytest.raises(TargetError, match=r"defaults cannot be run here: onnx/.*; got its process died of SIGSEGV"):
        tune(artifact, tunable.certificate, PLAN, Budget())
    assert (artifact.folder / MANIFEST).read_bytes() == tunable.artifact.manifest.text


def test_uncertified_files_are_not_measured(tunable: Small, tmp_path: Path) -> None:
    failed = StoredCertificate(tunable.certificate.data, dict(tunable.certificate.document) | {"verdict": "fail"})
    with pytest.raises(ParityError, match="did not pass"):
        tune(tunable.artifact, failed, PLAN, Budget())
    others = dict(tunable.certificate.document["files"]) | {"decoder.onnx": "0" * 64}
    with pytest.raises(IntegrityError, match="another file"):
        tune(
            tunable.artifact,
            StoredCertificate(b"", dict(tunable.certificate.document) | {"files": others}),
            PLAN,
            Budget(),
        )
    with pytest.raises(IntegrityError, match="certificate cannot be read"):
        tune(
            tunable.artifact,
            StoredCertificate(b"", dict(tunable.certificate.document) | {"rows": [{}]}),
            PLAN,
            Budget(),
        )
    artifact = tunable.copied(tmp_path / "export")
    path = artifact.folder / "decoder.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityError, match="altered"):
        tune(artifact, tunable.certificate, PLAN, Budget())


def test_unverified_target_is_no_candidate(tunable: Small) -> None:
    rows = [row for row in tunable.certificate.document["rows"] if row["target"] != f"ort/{CPU}"]
    certificate = StoredCertificate(b"", dict(tunable.certificate.document) | {"rows": rows})
    formats = {candidate.target.format for candidate in candidates(tunable.artifact.manifest, certificate, "decoder")}
    assert formats == {"onnx"}


Three = tuple[Candidate, Candidate, Candidate]
Searched = Callable[[dict[Candidate, list[float]]], SuccessiveHalving]


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> Searched:
    """`searched({candidate: seconds of each round})`: a search after its last rung; the first one is the baseline."""

    def make(seconds: dict[Candidate, list[float]]) -> SuccessiveHalving:
        monkeypatch.setattr(successive_halving, "SubjectProcess", ScriptedProcess)
        monkeypatch.setattr(
            ScriptedProcess, "seconds", {str(candidate): rounds for candidate, rounds in seconds.items()}
        )
        search = SuccessiveHalving(Path(), PLAN, next(iter(seconds)), lambda _line: None)
        search.pool.add(seconds)
        search.pool.measure(len(next(iter(seconds.values()))))
        return search

    return make


@pytest.fixture
def three(tunable: Small) -> Three:
    """The runtime's defaults, float32 with one thread, and 8 bits with one thread."""
    pool = candidates(tunable.artifact.manifest, tunable.certificate, "decoder")
    default, exact, int8 = (
        next(item for item in pool if item.target.precision == precision and item.options.threads == threads)
        for precision, threads in (("fp32", None), ("fp32", 1), ("int8", 1))
    )
    return default, exact, int8


def outcomes(search: SuccessiveHalving) -> dict[str, str]:
    winner, _ = search.winner()
    return {str(result.candidate): result.outcome for result in search.results(winner)}


def test_tie_goes_to_the_more_exact_candidate(searched: Searched, three: Three) -> None:
    default, exact, int8 = three
    tied = searched({default: [2.0] * 4, exact: [1.0, 1.0, 1.1, 0.9], int8: [0.9, 1.1, 1.0, 0.9]})
    assert tied.winner()[0] == exact
    assert outcomes(tied)[str(int8)] == "a tie: the fastest, but less simple than the winner"
    same = searched({default: [1.0] * 4, exact: [1.01] * 4, int8: [1.5] * 4})
    assert same.winner()[0] == default


def test_lead_beyond_noise_wins(searched: Searched, three: Three) -> None:
    default, exact, int8 = three
    winner, why = searched({default: [2.0] * 4, exact: [1.0] * 4, int8: [0.5, 0.6, 0.5, 0.5]}).winner()
    assert winner == int8
    assert why == [f"{int8} won: 4.00 times as fast as the runtime's defaults (3.83 to 4.00)"]


def test_median_far_behind_is_no_tie(searched: Searched, three: Three) -> None:
    """Even where noise made it as fast in a quarter of the rounds."""
    default, exact, int8 = three
    search = searched({default: [2.0] * 4, exact: [0.9, 1.4, 1.5, 1.6], int8: [1.0] * 4})
    assert search.winner()[0] == int8
    assert outcomes(search)[str(exact)] == "slower: 1.45× the time of the fastest"


def test_times_and_ratios_agree(searched: Searched, three: Three) -> None:
    """Also where one round was disturbed for one candidate: it is left out."""
    default, exact, int8 = three
    search = searched({default: [20e-6] * 3, exact: [21e-6, 21e-6, 1400e-6], int8: [31e-6, 31e-6, 31e-6]})
    results = search.results(search.winner()[0])
    p50 = {result.candidate: result.p50_seconds for result in results}
    assert p50 == {default: pytest.approx(20e-6), exact: pytest.approx(21e-6), int8: pytest.approx(31e-6)}
    for result in results:
        assert result.speedup is not None
        assert result.speedup.median == pytest.approx(20e-6 / p50[result.candidate])
    assert outcomes(search)[str(int8)] == "slower: 1.55× the time of the fastest"


def test_slower_is_never_shown_as_1_00(searched: Searched, three: Three) -> None:
    default, exact, int8 = three
    search = searched({default: [1.0] * 4, exact: [1.004] * 4, int8: [2.0] * 4})
    assert outcomes(search)[str(exact)].startswith("a tie: 1.004× the time of the fastest")


def test_engine_outside_the_runtime_never_wins(tunable: Small, searched: Searched) -> None:
    pool = candidates(tunable.artifact.manifest, tunable.certificate, "decoder")
    default = next(item for item in pool if item.runs_in_runtime)
    other = next(item for item in pool if not item.runs_in_runtime)
    search = searched({default: [1.0] * 4, other: [0.5] * 4})
    winner, why = search.winner()
    assert winner == default
    assert why[1] == f"outside the runtime {other} is faster: the winner takes 2.00 times its time (2.00 to 2.00)"
    assert outcomes(search)[str(other)] == "not for the runtime: 0.50× the time of the winner"
    _, why = searched({default: [1.0] * 4, other: [0.9, 1.2, 1.1, 0.9]}).winner()
    assert f"outside the runtime {other} is as fast within noise: " in why[1]
    _, why = searched({default: [1.0] * 4, other: [2.0] * 4}).winner()
    assert f"outside the runtime {other} is slower: the winner takes 0.50 times its time" in why[1]


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"rounds": 0}, {"seconds": 0.0}, {"seconds": float("nan")}])
def test_bad_plan_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="^bad "):
        TunePlan(**wrong)


@pytest.mark.slow
def test_other_parts_keep_their_recommendation(tunable: Small, advice: Recommendation, tmp_path: Path) -> None:
    artifact = tunable.copied(tmp_path / "export")
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
