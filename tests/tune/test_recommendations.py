"""The runtime follows a recommendation unless the caller or the machine differs, and says which it does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.commands import ONE_LINE, Invoke
from tests.tune.conftest import Small
from vae_export import load, open_artifact
from vae_export.artifact.manifest import MANIFEST, Recommendation, parse_manifest
from vae_export.errors import TargetError
from vae_export.runtime import chosen_options, session
from vae_export.session_options import EXACT_INT8, OPTIMISATION_LEVELS, SWITCHES, SessionOptions
from vae_export.system import hardware
from vae_export.tune.tuner import publish

Advised = Callable[..., Path]


@pytest.fixture
def advised(tunable: Small, advice: Recommendation, tmp_path: Path) -> Advised:
    """`advised(threads=2)`: the export with `advice` in its manifest, with these fields replaced."""

    def make(**changes: Any) -> Path:
        folder = tmp_path / "export"
        publish(tunable.copied(folder), advice)
        document = json.loads((folder / MANIFEST).read_text())
        document["recommended"][0] |= changes
        (folder / MANIFEST).write_text(json.dumps(document))
        return folder

    return make


@pytest.mark.slow
def test_runtime_follows_the_recommendation(tunable: Small, advised: Advised) -> None:
    model = load(advised())
    how = model.running("decoder")
    assert (how.precision, how.options.threads, how.options.optimisation) == ("int8", 1, "extended")
    assert how.options.switches == ("no-spinning", "no-arena")
    assert how.reason == "recommended for batches of 2, measured on a machine like this one"
    latent = model.prior(3, 1)
    eight = load(tunable.artifact.folder, precision="int8").decode(latent)
    assert np.array_equal(model.decode(latent), eight)
    assert not np.array_equal(model.decode(latent), load(tunable.artifact.folder).decode(latent))
    assert model.running("encoder").reason == "nothing was recommended"
    assert {comparison.part for comparison in model.self_test().outputs} == {"encoder", "decoder"}
    model.self_test().require()


@pytest.mark.parametrize("given", [{"threads": 2}, {"precision": "fp32"}, {"provider": "CPUExecutionProvider"}])
def test_arguments_of_the_caller_win(tunable: Small, advised: Advised, given: dict[str, Any]) -> None:
    model = load(advised(), **given)
    how = model.running("decoder")
    assert (how.precision, how.options.threads, how.options.switches) == ("fp32", given.get("threads"), ())
    assert how.reason == f"recommendation not followed: {next(iter(given))} given by the caller"
    latent = model.prior(3, 1)
    assert np.array_equal(model.decode(latent), load(tunable.artifact.folder, **given).decode(latent))


def test_other_machine_uses_the_defaults_and_says_why(advised: Advised, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = advised()
    here = hardware.identity()
    monkeypatch.setattr(hardware, "identity", lambda: here | {"cores": 96})
    how = load(folder).running("decoder")
    assert how.precision == "fp32"
    assert (
        how.reason
        == f"recommendation not followed: it was measured on another machine: cores {here['cores']}, and here 96"
    )


def test_missing_provider_is_not_used_and_named(advised: Advised) -> None:
    model = load(advised(provider="TensorrtExecutionProvider"))
    assert model.running("decoder").options.provider == "CPUExecutionProvider"
    assert model.running("decoder").reason.startswith(
        "recommendation not followed: provider not found: TensorrtExecutionProvider"
    )
    assert model.sample(1).shape == (1, 1, 28, 28)


@pytest.mark.parametrize(
    "changes",
    [
        {"file": "decoder.ort"},
        {"file": "encoder.onnx"},
        {"file": "../decoder.onnx"},
        {"sha256": "0" * 64},
        {"part": "both"},
        {"threads": -1},
        {"threads": True},
        {"threads": 1 << 40},
        {"provider": "CPU; rm"},
        {"switches": "fast"},
        {"switches": ["no-arena", "fast"]},
        {"switches": ["no-arena", "no-arena"]},
        {"switches": 7},
        {"switches": [["no-arena"]]},
        {"optimisation": 7},
        {"optimisation": "most"},
        {"batch": 0},
        {"speedup": "fast"},
        {"p50_seconds": None},
        {"machine": "mine"},
        {"budget": []},
    ],
)
def test_recommendation_that_is_not_understood_is_ignored(advised: Advised, changes: dict[str, Any]) -> None:
    model = load(advised(**changes))
    assert model.manifest.recommended == ()
    assert model.running("decoder").reason == "nothing was recommended"


def test_first_recommendation_of_a_part_counts(advised: Advised) -> None:
    document = json.loads((advised() / MANIFEST).read_text())
    (one,) = document["recommended"]

    def read(recommended: Any) -> tuple[Recommendation, ...]:
        return parse_manifest(json.dumps(document | {"recommended": recommended}).encode(), "m").recommended

    assert read([one | {"later": 1}]) == read([7, one, one | {"threads": 2}]) == read([one])
    for nothing in ([{}], {}, None, [[]], "all"):
        assert read(nothing) == ()
    del one["sha256"]
    assert read([one]) == ()


def test_session_knows_every_option_of_the_manifest(tunable: Small) -> None:
    assert tuple(session.SET_SWITCH) == (*SWITCHES, EXACT_INT8)
    assert tuple(session.OPTIMISATIONS) == OPTIMISATION_LEVELS
    data = tunable.artifact.read(tunable.artifact.entry("decoder"))
    spec = tunable.artifact.manifest.contract.spec("decoder")
    latent = np.ones((3, *spec.inputs[0].fixed_item), np.float32)
    usual = session.Session(data, spec).run({"latent": latent})["image"]
    for switch in SWITCHES:
        opened = session.Session(data, spec, SessionOptions(threads=2, switches=(switch,)))
        assert np.array_equal(opened.run({"latent": latent})["image"], usual)


def test_switches_reach_onnx_runtime() -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    for switch in session.SET_SWITCH.values():
        switch(options)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
    assert not options.enable_cpu_mem_arena
    assert not options.enable_mem_pattern


def test_broken_provider_is_not_used_and_named(advised: Advised, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_provider: str) -> None:
        raise TargetError("provider is not usable", got="no device")

    monkeypatch.setattr(chosen_options, "try_provider", broken)
    assert "provider is not usable; got no device" in load(advised()).running("decoder").reason


@pytest.mark.slow
def test_tune_and_bundle_from_the_command_line(tunable: Small, tmp_path: Path, invoke: Invoke) -> None:
    run = tmp_path / "run"
    tunable.copied(run / "export")
    quick = ("tune", "--run", run, "--batch", 1, "--rounds", 1, "--seconds", 0.001)
    outcome = invoke(*quick)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0] == "decoder, batch 1: median and speedup over the runtime's defaults"
    assert any(line.startswith("ort/CPU, ") for line in lines)
    (winner,) = open_artifact(run / "export").manifest.recommended
    assert lines[-1] == f"recommended for decoder: {winner.file}, {winner.options}, in {run / 'export'}"
    assert " won: " in outcome.out

    outcome = invoke("bundle", "--run", run, "--format", "onnx", "--out", tmp_path / "tuned.zip")
    assert outcome.code == 0, outcome.err
    model = load(tmp_path / "tuned.zip")
    assert model.manifest.recommended == (winner,)
    assert model.running("decoder").reason.startswith("recommended for batches of 1, ")
    model.self_test().require()
    shown = invoke("inspect", tmp_path / "tuned.zip").out
    assert f"{winner.file}, {winner.options}, for decoder in batches of 1" in " ".join(shown.split())
    assert "recommended for batches of 1, measured on a machine like this one" in " ".join(shown.split())

    before = (run / "export" / MANIFEST).read_bytes()
    refused = invoke(*quick, "--max-nats", 0)
    assert refused.code == 5
    assert ONE_LINE.fullmatch(refused.err.splitlines(keepends=True)[-1])
    assert (run / "export" / MANIFEST).read_bytes() == before
    (run / "export" / "certificate.json").unlink()
    assert invoke(*quick).code == 3


def test_bundle_without_the_recommended_file_recommends_nothing(
    tunable: Small, advised: Advised, tmp_path: Path
) -> None:
    from vae_export.bundles.writer import pack

    data = pack(open_artifact(advised()), tunable.certificate, name="small", parts=["encoder"])
    (tmp_path / "encoder.zip").write_bytes(data)
    assert load(tmp_path / "encoder.zip").manifest.recommended == ()
