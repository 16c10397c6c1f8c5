"""Colour images: from a folder of files to verified exports that score the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.train.conftest import TINY, Invoke, one_line
from vae_export.models.checkpoint import load_checkpoint
from vae_export.runs import Run

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.mark.slow
def test_colour_folder_trains_and_other_shapes_are_refused(invoke: Invoke, tmp_path: Path) -> None:
    photos, run = tmp_path / "my photos", tmp_path / "run"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for index in range(40):
        size = (20 + index % 3, 24)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(photos / f"{index}.png")
    tiny = [*TINY[2:], "--family", "conv", "--image-size", 16, "--batch-size", 16, "--epochs", 1]
    pictures = ["--dataset", "folder", "--data-dir", photos]
    done = invoke("train", *pictures, *tiny, "--out", run)
    assert done.code == 0, done.err
    checkpoint = load_checkpoint(Run(run).checkpoint)
    assert checkpoint.config.image_shape == (3, 16, 16)
    assert str(tmp_path) not in json.dumps(checkpoint.provenance)
    assert invoke("evaluate", "--run", run, "--data-dir", photos, "--threads", 1).code == 0
    other = invoke("evaluate", "--run", run, "--dataset", "digits")
    assert other.code == 3
    assert "(3, 16, 16)" in one_line(other.err)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty colour pictures of one hill each, so that there is something to learn."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(40):
        ramp = np.clip(np.linspace(0, 1, 16)[:, None] + rng.uniform(-0.5, 0.5, (1, 1)), 0, 1)[..., None]
        colour = ramp * rng.uniform(0.2, 1, 3) + rng.normal(0, 0.02, (16, 16, 3))
        Image.fromarray((np.clip(colour, 0, 1) * 255).astype(np.uint8)).save(folder / f"{index}.png")
    return folder


# Every format of one of them: to write and verify all takes most of this test's time.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("likelihood", "second", "formats"),
    [
        ("gaussian", ["image_logvar"], ["all"]),
        ("gaussian-fixed", [], ["onnx"]),
        ("discretised-logistic-colour", ["image_log_scale"], ["onnx"]),
    ],
    ids=["gaussian", "gaussian-fixed", "discretised-logistic-colour"],
)
def test_colour_export_is_verified_and_scores_the_same(
    invoke: Invoke, tmp_path: Path, photos: Path, likelihood: str, second: list[str], formats: list[str]
) -> None:
    run, usual = tmp_path / "run", ["--hidden-size", 16, "--latent-size", 3, "--threads", 1]
    pictures = ["--dataset", "folder", "--data-dir", photos, "--image-size", 16, "--family", "conv"]
    recipe = ["--likelihood", likelihood, "--epochs", 15, "--batch-size", 16]
    done = invoke("train", *pictures, *usual, *recipe, "--out", run)
    assert done.code == 0, done.err
    assert "note:" not in done.err.replace("note: epoch", "")
    lines = [json.loads(line) for line in Run(run).metrics.read_text().splitlines()]
    first, last = (line["validation"]["negative_elbo_nats_per_image"] for line in (lines[0], lines[-1]))
    assert last < first - 100

    chosen = [word for format in formats for word in ("--format", format)]
    done = invoke("export", *chosen, "--verify-minutes", 0.05, "--run", run)
    assert done.code == 0, done.err
    manifest = json.loads((Run(run).export / "manifest.json").read_text())
    decoders = [file for file in manifest["files"] if file["part"] == "decoder"]
    asked = {"onnx", "torchscript", "pt2"} if formats == ["all"] else set(formats)
    assert {file["format"] for file in decoders} >= asked
    assert all([output["name"] for output in file["outputs"]] == ["image", *second] for file in decoders)
    assert manifest["provenance"]["training"]["data"]["protocol"] == "grey"
    certificate = (Run(run).export / "certificate.json").read_text()
    if formats == ["all"]:
        done = invoke("verify", "--run", run, "--quick", "--json", "--rows")
        assert done.code == 0, done.err
        certificate = done.out
    rows = json.loads(certificate)["rows"]
    assert {row["output"] for row in rows} >= {"image", *second, "negative_elbo", "iwae_nll"}
    assert all(row["passed"] for row in rows)

    scores = {}
    for format in ("checkpoint", "onnx"):
        arguments = ["--importance-samples", 30, "--data-dir", photos, "--split", "train", "--threads", 1, "--json"]
        done = invoke("evaluate", "--run", run, "--format", format, *arguments)
        assert done.code == 0, done.err
        scores[format] = json.loads(done.out)
    both = scores["checkpoint"], scores["onnx"]
    for key in ("negative_elbo_nats_per_image", "kl_nats_per_image"):
        assert both[0][key] == pytest.approx(both[1][key], rel=1e-4)
    weighted = [score["importance_weighted"] for score in both]
    assert weighted[0]["nats_per_image"] == pytest.approx(weighted[1]["nats_per_image"], rel=1e-4)
    assert weighted[0]["nats_per_image"] < both[0]["negative_elbo_nats_per_image"]
    assert weighted[0]["is_likelihood"] is True
    assert [score["likelihood"]["name"] for score in both] == [likelihood] * 2
    assert both[0]["sha256"] == both[1]["sha256"]
    assert sum(both[0]["kl_per_unit"]) == pytest.approx(both[0]["kl_nats_per_image"], rel=1e-6)
