"""`cli.py evaluate` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.train.conftest import TINY, Cli, Invoke, one_line
from vae_export.models.checkpoint import load_checkpoint
from vae_export.runs import Run


def test_evaluate_repeats_the_scores_of_training(cli: Cli, trained: Path) -> None:
    done = cli("evaluate", "--run", trained, "--json", "--threads", 1)
    assert done.returncode == 0, done.stderr
    score = json.loads(done.stdout)
    saved = load_checkpoint(Run(trained).checkpoint).provenance["scores"]["test"]
    assert {key: score[key] for key in saved} == saved
    assert (score["dataset"], score["split"]) == ("digits", "test")
    assert 5 < score["reconstruction_psnr_db"] < 40
    assert score["frechet_distance"] > score["frechet_distance_of_images"] > 0


def test_images_option_scores_the_first_images(invoke: Invoke, trained: Path) -> None:
    done = invoke("evaluate", "--run", trained, "--images", 30, "--json", "--threads", 1)
    assert json.loads(done.out)["images"] == 30
    few = invoke("evaluate", "--run", trained, "--images", 5, "--json", "--threads", 1)
    assert "frechet_distance" not in json.loads(few.out)
    assert invoke("evaluate", "--run", trained, "--images", 0).code == 2


def test_table_names_the_requested_split(invoke: Invoke, trained: Path) -> None:
    done = invoke("evaluate", "--checkpoint", Run(trained).checkpoint, "--split", "validation", "--threads", 1)
    assert done.code == 0, done.err
    assert "validation" in done.out
    assert "active units" in done.out
    assert "reconstructions: PSNR" in done.out
    assert "samples: Fréchet distance" in done.out


@pytest.mark.parametrize(
    ("options", "code"), [(["--split", "all"], 2), (["--checkpoint", "nowhere"], 3), (["--run", "nowhere"], 2)]
)
def test_missing_input_is_refused(invoke: Invoke, tmp_path: Path, options: list[str], code: int) -> None:
    if "--split" in options:
        options = [*options, "--run", str(tmp_path)]
    done = invoke("evaluate", *options)
    assert done.code == code
    one_line(done.err)


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize(("protocol", "heading"), [("grey", "IWAE bound, K = 5"), ("dynamic", "NLL, K = 5")])
def test_scores_name_their_protocol_and_likelihood(invoke: Invoke, tmp_path: Path, protocol: str, heading: str) -> None:
    run = tmp_path / "run"
    done = invoke("train", *TINY, "--epochs", 1, "--data-protocol", protocol, "--out", run)
    assert done.code == 0, done.err
    assert f"-ELBO, {protocol}" in done.out
    assert ("no likelihood" in done.out) == (protocol == "grey")
    assert ("note: grey pixels under a Bernoulli" in done.err) == (protocol == "grey")
    done = invoke("evaluate", "--run", run, "--importance-samples", 5, "--threads", 1)
    assert f"-ELBO, {protocol}" in done.out
    assert heading in done.out
    assert ("NLL" in done.out, "cross-entropy" in done.out) == (protocol == "dynamic", protocol == "grey")


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
def test_contradicting_options_are_refused(invoke: Invoke, options: list[str]) -> None:
    done = invoke("evaluate", *options)
    assert done.code == 2
    one_line(done.err)


def test_missing_export_names_the_export_command(invoke: Invoke, trained: Path) -> None:
    done = invoke("evaluate", "--run", trained, "--format", "onnx")
    assert done.code == 3
    assert "run: vae-export export" in one_line(done.err)


@pytest.mark.usefixtures("without_pictures")
def test_images_of_the_training_are_found_again(invoke: Invoke, tmp_path: Path) -> None:
    photos, run = tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    for index in range(40):
        Image.new("L", (16, 16), index).save(photos / f"{index}.png")
    folder = ["--dataset", "folder", "--data-dir", photos, "--image-size", 16, "--batch-size", 16]
    done = invoke("train", *TINY[2:], *folder, "--epochs", 1, "--out", run)
    assert done.code == 0, done.err
    assert str(photos) not in str(load_checkpoint(Run(run).checkpoint).provenance)
    done = invoke("evaluate", "--run", run, "--threads", 1)
    assert done.code == 0, done.err
    assert "note" not in done.err
    photos.rename(tmp_path / "moved")
    done = invoke("evaluate", "--checkpoint", Run(run).checkpoint)
    assert done.code == 3
    assert f"images of the training are not where they were: {photos}; " in one_line(done.err)
    assert invoke("evaluate", "--run", run, "--data-dir", tmp_path / "moved", "--threads", 1).code == 0
