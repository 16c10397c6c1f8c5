"""`cli.py train` as a user meets it: a process, its exit code, its two streams, its files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.train.conftest import ROOT, TINY, Cli, Invoke, one_line, write_mnist
from tests.train.test_pictures import PICTURES
from vae_export.runs import Run


@pytest.mark.slow
def test_help_does_not_import_torch() -> None:
    code = "import sys, cli; print(sorted({'torch', 'sklearn', 'matplotlib', 'PIL', 'torchvision'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_lists_families_with_their_scores(cli: Cli) -> None:
    text = cli("train", "--help").stdout
    for family in ("mlp", "blog", "conv"):
        assert any(line.split()[:1] == [family] and line.split()[-1][0].isdigit() for line in text.splitlines()), text


def test_training_leaves_a_complete_run(trained: Path) -> None:
    run = Run(trained)
    names = sorted(path.relative_to(trained).as_posix() for path in trained.rglob("*") if path.is_file())
    names = [name for name in names if name != Run(trained).evaluations.name]  # where another test has scored it
    pictures = [f"pictures/{name}.png" for name in PICTURES]
    kept = [f"{before}{name}" for before in ("", "previous-") for name in ("checkpoint", "training")]
    state = [f"state/{name}.safetensors" for name in kept if name != "checkpoint"]
    assert names == sorted([".lock", "checkpoint.safetensors", "data.json", "metrics.jsonl", *pictures, *state])
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert set(lines[0]) == {
        *("epoch", "protocol", "likelihood", "train", "validation", "test", "loss", "learning_rate"),
        *("seconds", "images_per_second", "threads", "precision"),
    }


def test_equal_seeds_give_equal_bytes(cli: Cli, trained: Path, tmp_path: Path) -> None:
    done = cli("train", *TINY, "--epochs", 3, "--seed", 7, "--out", tmp_path / "again", "--json")
    assert json.loads(done.stdout)["checkpoint"] == str(tmp_path / "again" / "checkpoint.safetensors")
    assert Run(tmp_path / "again").checkpoint.read_bytes() == Run(trained).checkpoint.read_bytes()


@pytest.mark.usefixtures("without_pictures")
def test_reproducible_fixes_threads_and_precision_without_timing(invoke: Invoke, tmp_path: Path, trained: Path) -> None:
    run = Run(tmp_path / "run")
    done = invoke("train", *TINY[:-4], "--reproducible", "--epochs", 3, "--seed", 7, "--out", run.folder)
    assert "computing with 1 thread in float32\n" in done.err
    assert run.checkpoint.read_bytes() == Run(trained).checkpoint.read_bytes()


def test_existing_run_is_refused_and_untouched(cli: Cli, trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.name != ".lock"}
    done = cli("train", *TINY, "--out", trained)
    assert done.returncode == 2
    assert "--force" in one_line(done.stderr)
    assert before == {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.name != ".lock"}


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--dataset", "photos"], "unknown dataset; expected .*, got photos; did you mean --preset photos?"),
        (["--dataset", "mnits"], "got mnits; did you mean mnist?"),
        (["--dataset", "{folder}"], "got {folder}; for your own pictures pass --dataset folder --data-dir {folder}"),
        (["--data-dir", "{folder}/a.jpg", "{folder}/b.jpg"], "pass --dataset folder --data-dir {folder}"),
        (
            ["{folder}"],
            "unexpected argument: {folder}; for your own pictures pass --dataset folder --data-dir {folder}",
        ),
        (["--learning-rate", "2"], "bad --learning-rate; expected above 0, up to 1, got 2.0"),
        (["--batch-size", "-1"], "bad --batch-size; expected 1 to 65,536, got -1"),
    ],
)
def test_wrong_value_is_answered_with_the_option_that_takes_it(
    invoke: Invoke, tmp_path: Path, typed: list[str], said: str
) -> None:
    folder = tmp_path / "holiday"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).touch()
    outcome = invoke("train", *(word.format(folder=folder) for word in typed))
    assert outcome.code == 2
    pieces = said.format(folder=folder).split(".*")
    assert re.search(".*".join(map(re.escape, pieces)) + "$", one_line(outcome.err)), outcome.err


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--epochs", "0"], 2),
        (["--batch-size", "-1"], 2),
        (["--learning-rate", "nan"], 2),
        (["--beta", "inf"], 2),
        (["--latent-size", "0"], 2),
        (["--seed", "-1"], 2),
        (["--family", "gan"], 2),
        (["--dataset", "imagenet"], 2),
        (["--dataset", "folder"], 2),
        (["--image-size", "32"], 2),
        (["--epochs", "many"], 2),
        (["--data-protocol", "larochelle"], 2),
        (["--likelihood", "cauchy"], 2),
        (["--scale", "0.1"], 2),
        (["--stages", "one"], 2),
        (["--preset", "best"], 2),
        (["--preset", "../presets/blog"], 2),
        (["--device", "tpu"], 2),
        pytest.param(
            ["--device", "cuda"], 6, marks=pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
        ),
        (["--dataset", "digits", "--batch-size", "2000"], 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_bad_option_is_one_line_and_leaves_nothing(invoke: Invoke, options: list[str], code: int) -> None:
    done = invoke("train", *options)
    assert done.code == code, done.err
    assert done.out == ""
    one_line(done.err)


def test_diverging_training_is_one_line(invoke: Invoke, tmp_path: Path) -> None:
    done = invoke("train", *TINY, "--beta", "1e39", "--out", tmp_path / "run")
    assert done.code == 3
    assert "training diverged: epoch 1" in one_line(done.err)


def test_kmnist_files_can_be_trained_on(cli: Cli, tmp_path: Path) -> None:
    write_mnist(tmp_path / "data", "KMNIST")
    options = [*TINY[2:], "--dataset", "kmnist", "--no-download", "--epochs", 1]
    done = cli("train", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Run(tmp_path / "artifacts" / "kmnist-mlp").checkpoint.exists()
    assert os.fspath(tmp_path) not in done.stdout
