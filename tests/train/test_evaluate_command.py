"""`cli.py evaluate` as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.train.conftest import TINY, Cli, one_line
from vae_export.checkpoint import load_checkpoint
from vae_export.runs import Run

#: The command line in this process, see `tests/conftest.py`.
Invoke = Callable[..., Any]


def test_evaluate_repeats_the_scores_of_the_training(cli: Cli, trained: Path) -> None:
    done = cli("evaluate", "--run", trained, "--json", "--threads", 1)
    assert done.returncode == 0, done.stderr
    score = json.loads(done.stdout)
    saved = load_checkpoint(Run(trained).checkpoint).provenance["scores"]["test"]
    assert {key: score[key] for key in saved} == saved
    assert (score["dataset"], score["split"]) == ("digits", "test")


def test_evaluate_can_take_the_first_images_alone(cli: Cli, trained: Path) -> None:
    done = cli("evaluate", "--run", trained, "--images", 30, "--json", "--threads", 1)
    assert json.loads(done.stdout)["images"] == 30
    assert cli("evaluate", "--run", trained, "--images", 0).returncode == 2


def test_evaluate_prints_a_table_of_the_split_that_was_asked_for(cli: Cli, trained: Path) -> None:
    done = cli("evaluate", "--checkpoint", Run(trained).checkpoint, "--split", "validation")
    assert done.returncode == 0, done.stderr
    assert "validation" in done.stdout
    assert "active units" in done.stdout


@pytest.mark.parametrize(
    ("options", "code"), [(["--split", "all"], 2), (["--checkpoint", "nowhere"], 3), (["--run", "nowhere"], 2)]
)
def test_evaluate_refuses_what_is_not_there(cli: Cli, tmp_path: Path, options: list[str], code: int) -> None:
    if "--split" in options:
        options = [*options, "--run", str(tmp_path)]
    done = cli("evaluate", *options, folder=tmp_path)
    assert done.returncode == code
    one_line(done.stderr)


@pytest.mark.parametrize(("protocol", "heading"), [("grey", "IWAE bound, K = 5"), ("dynamic", "NLL, K = 5")])
def test_figures_say_their_protocol_and_only_likelihoods_are_called_so(
    cli: Cli, tmp_path: Path, protocol: str, heading: str
) -> None:
    run = tmp_path / "run"
    done = cli("train", *TINY, "--epochs", 1, "--data-protocol", protocol, "--out", run)
    assert done.returncode == 0, done.stderr
    assert f"-ELBO, {protocol}" in done.stdout
    assert ("no likelihood" in done.stdout) == (protocol == "grey")
    assert ("note: grey pixels under a Bernoulli" in done.stderr) == (protocol == "grey")
    done = cli("evaluate", "--run", run, "--importance-samples", 5, "--threads", 1)
    assert f"-ELBO, {protocol}" in done.stdout
    assert heading in done.stdout
    assert ("NLL" in done.stdout, "cross-entropy" in done.stdout) == (protocol == "dynamic", protocol == "grey")


@pytest.mark.parametrize(
    "options",
    [
        ["--importance-samples", "-1"],
        ["--importance-samples", "many"],
        ["--format", "pt2"],
        ["--format", "onnx", "--checkpoint", "x"],
        ["--export", "x"],
    ],
)
def test_evaluate_refuses_what_makes_no_sense(cli: Cli, tmp_path: Path, options: list[str]) -> None:
    done = cli("evaluate", *options, folder=tmp_path)
    assert done.returncode == 2
    one_line(done.stderr)


def test_evaluate_through_files_that_are_not_there_says_how_to_make_them(cli: Cli, trained: Path) -> None:
    done = cli("evaluate", "--run", trained, "--format", "onnx")
    assert done.returncode == 3
    assert "run: vae-export export" in one_line(done.stderr)
