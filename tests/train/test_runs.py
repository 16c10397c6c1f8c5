"""`cli.py runs`: what compares stands together, best first; what cannot be read is named and stops nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands import ROOT, run_python
from tests.train.conftest import TINY, Invoke, one_line
from vae_export import Checkpoint, save_checkpoint
from vae_export.cli import console
from vae_export.likelihood import Likelihood
from vae_export.models import VAE, VAEConfig
from vae_export.runs import Run


def write_run(
    folder: Path,
    nats: float = 100.0,
    *,
    dataset: str = "mnist",
    sha256: str = "a" * 64,
    protocol: str = "grey",
    likelihood: Likelihood | None = None,
    preset: str | None = None,
) -> Run:
    """A run folder with a real checkpoint of a small network and made-up scores."""
    run = Run(folder)
    config = VAEConfig("mlp", (1, 4, 4), 2, 4, likelihood=likelihood or Likelihood())
    test = {
        "images": 10_000,
        "negative_elbo_nats_per_image": nats,
        "negative_elbo_standard_error": 0.25,
        "reconstruction_nats_per_image": nats - 20,
        "kl_nats_per_image": 20.0,
        "active_units": 2,
    }
    provenance: dict[str, Any] = {
        "data": {"name": dataset, "sha256": sha256, "protocol": protocol},
        "training": {"epochs": 4, "device": "cpu", "precision": "bfloat16", "threads": 2},
        "epoch": 3,
        "scores": {"validation": test, "test": test},
    }
    if preset is not None:
        provenance["preset"] = preset
    examples = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    save_checkpoint(Checkpoint(config, VAE(config).state_dict(), examples, provenance), run.checkpoint)
    run.metrics.write_text("".join(json.dumps({"epoch": epoch, "seconds": 300.0}) + "\n" for epoch in (1, 2, 3, 4)))
    return run


def record(run: Run, samples: int, nats: float, **changes: Any) -> None:
    from train.results import append_evaluation
    from vae_export.models.checkpoint import read_checkpoint_header

    evidence = {"nats_per_image": nats, "standard_error": 0.1, "importance_samples": samples, "is_likelihood": True}
    figures = {"format": "checkpoint", "dataset": {"name": "mnist", "sha256": "a" * 64}, "split": "test"}
    line = {"checkpoint": read_checkpoint_header(run.checkpoint).digest, **figures, "images": 10_000}
    append_evaluation(run, line | {"importance_weighted": evidence} | changes)


def tables(invoke: Invoke, folder: Path) -> list[dict[str, Any]]:
    done = invoke("runs", folder, "--json")
    assert done.code == 0, done.err
    found: list[dict[str, Any]] = json.loads(done.out)["tables"]
    return found


def names(table: dict[str, Any]) -> list[str]:
    return [Path(run["run"]).name for run in table["runs"]]


def test_each_comparable_group_has_its_own_table(invoke: Invoke, tmp_path: Path) -> None:
    kinds: list[dict[str, Any]] = [
        {},
        {"protocol": "dynamic"},
        {"protocol": "static"},
        {"dataset": "digits"},
        {"sha256": "b" * 64},
        {"likelihood": Likelihood("gaussian")},
        {"likelihood": Likelihood("gaussian-fixed", 0.1)},
        {"likelihood": Likelihood("gaussian-fixed", 0.2)},
    ]
    for number, kind in enumerate(kinds):
        for nats in (90.0, 80.0):
            write_run(tmp_path / f"{number}-{nats:.0f}", nats, **kind)
    found = tables(invoke, tmp_path)
    assert sorted(map(names, found)) == [[f"{number}-80", f"{number}-90"] for number in range(len(kinds))]
    text = invoke("runs", tmp_path).out
    headings = [text.splitlines()[0], *(part.splitlines()[0] for part in text.split("\n\n")[1:])]
    assert len(set(headings)) == len(kinds), headings
    assert "mnist, 4 x 4 grey, gaussian-fixed of scale 0.2" in headings


def test_row_has_network_score_and_time(invoke: Invoke, tmp_path: Path) -> None:
    write_run(tmp_path / "mine", 98.765, preset="mnist-best")
    lines = invoke("runs", tmp_path).out.splitlines()
    assert lines[0] == "mnist, 4 x 4 grey, bernoulli"
    row = "mine mlp (mnist-best) 2 2 98.77 ± 0.25 {} 4 20 min 2 threads, bfloat16"
    parameters = sum(tensor.numel() for tensor in VAE(VAEConfig("mlp", (1, 4, 4), 2, 4)).parameters())
    assert lines[2].split() == row.format(parameters).split()
    assert "no likelihood" in lines[3]


def test_unfinished_run_shows_its_epochs(invoke: Invoke, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    run.metrics.write_text(json.dumps({"epoch": 1, "seconds": 50.0}) + "\n")
    assert "1 of 4" in invoke("runs", tmp_path).out
    run.metrics.unlink()
    assert tables(invoke, tmp_path)[0]["runs"][0]["seconds"] is None


def test_grey_cross_entropy_is_never_called_a_likelihood(invoke: Invoke, tmp_path: Path) -> None:
    for protocol in ("grey", "dynamic"):
        record(write_run(tmp_path / protocol, protocol=protocol), 5000, 95.0)
    dynamic, grey = invoke("runs", tmp_path).out.split("\n\n")
    assert ("NLL" in dynamic, "IWAE bound" in dynamic) == (True, False)
    assert ("NLL" in grey, "IWAE bound" in grey) == (False, True)
    assert "K = 5,000" in grey
    assert [table["is_likelihood"] for table in tables(invoke, tmp_path)] == [True, False]


def test_evaluation_with_most_samples_counts(invoke: Invoke, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    record(run, 500, 91.0)
    record(run, 5000, 90.0)
    record(run, 50, 92.0)
    for other in (
        {"checkpoint": "0" * 64},
        {"split": "train"},
        {"images": 100},
        {"dataset": {"name": "mnist", "sha256": "c" * 64}},
    ):
        record(run, 9000, 1.0, **other)
    assert tables(invoke, tmp_path)[0]["runs"][0]["importance_weighted"]["nats_per_image"] == 90.0


def test_last_figures_of_reconstructions_and_samples_are_shown(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run")
    figures = {"reconstruction_psnr_db": 21.346, "reconstruction_ssim": 0.7123, "frechet_distance": 3.456}
    for change in ({"frechet_distance": 9.0}, {}, {"split": "train", "frechet_distance": 1.0}):
        record(run, 5, 90.0, **figures | change)
    write_run(tmp_path / "not-evaluated", 110.0)
    first, second = tables(invoke, tmp_path)[0]["runs"]
    assert (first["image_metrics"], second["image_metrics"]) == (figures, None)
    shown = {"21.35", "0.712", "3.46"}
    for columns in (200, 80):
        monkeypatch.setattr(console, "width", lambda columns=columns: columns)
        lines = [line.split() for line in invoke("runs", tmp_path).out.splitlines()]
        heading, row = [line for line in lines if "PSNR" in line or "21.35" in line][:2]
        assert {"PSNR", "SSIM", "Fréchet"} <= set(heading)
        assert shown <= set(row)
        assert ("-ELBO" in heading) == (columns == 200)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("checkpoint.safetensors", b""),
        ("checkpoint.safetensors", b"\xff" * 100),
        ("metrics.jsonl", b"{"),
        ("metrics.jsonl", b"[]\n"),
        ("metrics.jsonl", b'{"epoch": 1}\n'),
        ("metrics.jsonl", b"\xff\n"),
        ("evaluations.jsonl", b"null\n"),
    ],
)
def test_unreadable_run_is_named_and_left_out(invoke: Invoke, tmp_path: Path, file: str, content: bytes) -> None:
    write_run(tmp_path / "good")
    write_run(tmp_path / "bad").folder.joinpath(file).write_bytes(content)
    done = invoke("runs", tmp_path)
    assert done.code == 0
    assert "good" in done.out
    assert "bad" not in done.out
    (line,) = done.err.splitlines()
    assert line.startswith("left out: ")
    assert str(tmp_path / "bad") in line
    assert len(json.loads(invoke("runs", tmp_path, "--json").out)["unreadable"]) == 1


def test_no_readable_run_is_an_error(invoke: Invoke, tmp_path: Path) -> None:
    assert invoke("runs", tmp_path / "none").code == 2
    empty = tmp_path / "runs"
    (empty / "something else").mkdir(parents=True)
    (empty / "file").touch()
    assert invoke("runs", empty).code == 2
    for name in ("a", "b"):
        (empty / name / "state").mkdir(parents=True)
    done = invoke("runs", empty)
    assert done.code == 3
    assert len(done.err.splitlines()) == 3
    shutil.rmtree(empty / "b")
    one = invoke("runs", empty)
    assert (one.code, len(one.err.splitlines())) == (3, 1)


def test_old_checkpoint_without_protocol_is_grey(invoke: Invoke, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    from vae_export import load_checkpoint

    old = load_checkpoint(run.checkpoint)
    data = {key: value for key, value in old.provenance["data"].items() if key != "protocol"}
    before = Checkpoint(old.config, old.weights, old.examples, {**old.provenance, "data": data})
    save_checkpoint(before, run.checkpoint)
    assert tables(invoke, tmp_path)[0]["protocol"] == "grey"


@pytest.mark.slow
def test_runs_does_not_import_torch(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    code = "import sys; sys.argv = ['cli.py', 'runs', sys.argv[1]]; from vae_export.cli.app import run\n"
    code += "from train.cli import runs, train; assert run(train, runs) == 0\n"
    code += "print(sorted({'torch', 'numpy', 'matplotlib'} & set(sys.modules)))"
    done = run_python(code, tmp_path, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_evaluated_score_is_in_the_table(invoke: Invoke, trained: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    shutil.copytree(trained, run.folder)
    run.evaluations.unlink(missing_ok=True)
    (before,) = json.loads(invoke("runs", tmp_path, "--json").out)["tables"]
    assert before["runs"][0]["importance_weighted"] is None
    done = invoke("evaluate", "--run", run.folder, "--importance-samples", 20, "--threads", 1, "--json")
    assert done.code == 0, done.err
    shown = json.loads(done.out)
    (after,) = json.loads(invoke("runs", tmp_path, "--json").out)["tables"]
    found = after["runs"][0]["importance_weighted"]
    assert found == {"format": "checkpoint", **shown["importance_weighted"]}
    assert after["runs"][0]["test"]["negative_elbo_nats_per_image"] == shown["negative_elbo_nats_per_image"]
    # What was scored somewhere else is not the run's.
    size = run.evaluations.stat().st_size
    assert invoke("evaluate", "--checkpoint", run.checkpoint, "--threads", 1).code == 0
    assert run.evaluations.stat().st_size == size


def test_score_that_cannot_be_recorded_is_shown(invoke: Invoke, trained: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    shutil.copytree(trained, run.folder)
    run.evaluations.unlink(missing_ok=True)
    run.evaluations.mkdir()
    done = invoke("evaluate", "--run", run.folder, "--threads", 1)
    assert done.code == 0
    assert "-ELBO" in done.out
    assert "note: not recorded" in done.err.splitlines()[-1]


@pytest.mark.usefixtures("without_pictures")
def test_new_training_removes_old_evaluations(invoke: Invoke, trained: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    shutil.copytree(trained, run.folder)
    run.evaluations.write_text("{}\n")
    done = invoke("train", *TINY, "--epochs", 1, "--out", run.folder, "--force")
    assert done.code == 0, one_line(done.err)
    assert not run.evaluations.exists()


def test_difference_of_two_runs_names_what_differs(invoke: Invoke, tmp_path: Path) -> None:
    write_run(tmp_path / "one", 100.0)
    write_run(tmp_path / "two", 90.0, protocol="dynamic")
    done = invoke("runs", tmp_path, "--diff", "one", tmp_path / "two", "--json")
    assert done.code == 0, done.err
    differences = json.loads(done.out)["differences"]
    assert differences["data.protocol"] == ["grey", "dynamic"]
    assert differences["scores.test.negative_elbo_nats_per_image"] == [100.0, 90.0]
    assert not [name for name in differences if name.startswith(("config.", "training."))]
    said = invoke("runs", tmp_path, "--diff", "one", "two").out
    assert "data.protocol" in said
    assert invoke("runs", tmp_path, "--diff", "one", "one").out == "no difference\n"
    missing = invoke("runs", tmp_path, "--diff", "one", "three")
    assert missing.code == 2
    assert "no such run: three" in one_line(missing.err)
