"""`cli.py train` and `cli.py evaluate` as a user meets them: a process, its exit code, its two streams, its files."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.train.conftest import CLI, ROOT, TINY, Cli, is_root, one_line, write_mnist
from tests.train.test_pictures import PICTURES
from vae_export.checkpoint import load_checkpoint
from vae_export.runs import Run

#: The command line in this process, see `tests/conftest.py`.
Invoke = Callable[..., Any]


def test_help_does_not_import_torch() -> None:
    code = "import sys, cli; print(sorted({'torch', 'sklearn', 'matplotlib', 'PIL', 'torchvision'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_says_what_each_family_is_and_scores(cli: Cli) -> None:
    text = cli("train", "--help").stdout
    for family in ("mlp", "post", "conv"):
        assert any(line.split()[:1] == [family] and line.split()[-1][0].isdigit() for line in text.splitlines()), text


def test_a_training_leaves_a_whole_run(trained: Path) -> None:
    run = Run(trained)
    names = sorted(path.relative_to(trained).as_posix() for path in trained.rglob("*") if path.is_file())
    names = [name for name in names if name != Run(trained).evaluations.name]  # where another test has scored it
    pictures = [f"pictures/{name}.png" for name in PICTURES]
    kept = [f"{before}{name}" for before in ("", "previous-") for name in ("checkpoint", "training")]
    state = [f"state/{name}.safetensors" for name in kept if name != "checkpoint"]
    assert names == sorted([".lock", "checkpoint.safetensors", "metrics.jsonl", *pictures, *state])
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert set(lines[0]) == {
        *("epoch", "protocol", "likelihood", "train", "validation", "test", "loss", "learning_rate"),
        *("seconds", "images_per_second", "threads", "precision"),
    }


def test_two_trainings_with_one_seed_write_the_same_bytes(cli: Cli, trained: Path, tmp_path: Path) -> None:
    done = cli("train", *TINY, "--epochs", 3, "--seed", 7, "--out", tmp_path / "again", "--json")
    assert json.loads(done.stdout)["checkpoint"] == str(tmp_path / "again" / "checkpoint.safetensors")
    assert Run(tmp_path / "again").checkpoint.read_bytes() == Run(trained).checkpoint.read_bytes()


def test_an_existing_run_is_refused_and_untouched(cli: Cli, trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.name != ".lock"}
    done = cli("train", *TINY, "--out", trained)
    assert done.returncode == 2
    assert "--force" in one_line(done.stderr)
    assert before == {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.name != ".lock"}


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
        (["--preset", "../presets/post"], 2),
        (["--device", "tpu"], 2),
        pytest.param(
            ["--device", "cuda"], 6, marks=pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
        ),
        (["--dataset", "digits", "--batch-size", "2000"], 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_bad_option_is_one_line_and_leaves_nothing(cli: Cli, tmp_path: Path, options: list[str], code: int) -> None:
    done = cli("train", *options, folder=tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    one_line(done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_a_diverging_training_is_one_line(cli: Cli, tmp_path: Path) -> None:
    done = cli("train", *TINY, "--beta", "1e39", "--out", tmp_path / "run")
    assert done.returncode == 3
    assert "training diverged: epoch 1" in one_line(done.stderr)


@contextlib.contextmanager
def training(run: Path) -> Iterator[subprocess.Popen[str]]:
    """An endless training, its first epochs done."""
    command = [*CLI, "train", *TINY, "--epochs", "100000", "--out", str(run)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            metrics, deadline = Run(run).metrics, time.monotonic() + 60
            while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 2):
                assert process.poll() is None, process.stderr.read() if process.stderr else ""
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("sent", "code", "name"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_stopped_training_names_its_checkpoint_and_that_loads(
    tmp_path: Path, sent: signal.Signals, code: int, name: str
) -> None:
    with training(tmp_path / "run") as process:
        process.send_signal(sent)
        _, err = process.communicate(timeout=20)
        assert process.returncode == code
    line = one_line(err)
    assert line.startswith(f"vae-export: {name}: after ")
    assert str(Run(tmp_path / "run").checkpoint) in line
    load_checkpoint(Run(tmp_path / "run").checkpoint)


def test_a_second_training_in_the_folder_names_the_first_and_a_killed_one_leaves_it_usable(
    cli: Cli, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with training(run) as process:
        second = cli("train", *TINY, "--out", run, "--force")
        assert second.returncode == 6
        assert f"process {process.pid}" in one_line(second.stderr)
        process.kill()  # SIGKILL
        process.wait()
    load_checkpoint(Run(run).checkpoint)
    again = cli("train", *TINY, "--epochs", 1, "--out", run, "--force")
    assert again.returncode == 0, again.stderr
    assert not list(run.rglob(".partial-*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = is_root() and sys.platform == "linux"
    if mounted:
        mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    if not mounted:
        pytest.skip("a small disk can be mounted by root on Linux alone")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_ends_in_one_line_with_the_last_checkpoint_intact(cli: Cli, small_disk: Path) -> None:
    run = Run(small_disk / "run")  # a checkpoint of 1.7 MB, the one before it, and no room for a third
    done = cli("train", *TINY, "--hidden-size", 220, "--out", run.folder)
    assert done.returncode == 6, done.stderr
    assert "disk full" in one_line(done.stderr)
    load_checkpoint(run.checkpoint)
    assert not list(run.folder.rglob(".partial-*"))


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


def test_a_folder_of_colour_trains_and_images_of_another_shape_are_refused(cli: Cli, tmp_path: Path) -> None:
    photos, run = tmp_path / "my photos", tmp_path / "run"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for index in range(40):
        size = (20 + index % 3, 24)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(photos / f"{index}.png")
    tiny = [*TINY[2:], "--family", "conv", "--image-size", 16, "--batch-size", 16, "--epochs", 1]
    done = cli(
        "train",
        "--dataset",
        "folder",
        "--data-dir",
        photos,
        "--image-size",
        16,
        "--family",
        "conv",
        *tiny,
        "--out",
        run,
    )
    assert done.returncode == 0, done.stderr
    checkpoint = load_checkpoint(Run(run).checkpoint)
    assert checkpoint.config.image_shape == (3, 16, 16)
    assert str(tmp_path) not in json.dumps(checkpoint.provenance)
    assert cli("evaluate", "--run", run, "--data-dir", photos).returncode == 0
    other = cli("evaluate", "--run", run, "--dataset", "digits")
    assert other.returncode == 3
    assert "(3, 16, 16)" in one_line(other.stderr)


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


@pytest.mark.parametrize(
    ("likelihood", "second"),
    [("gaussian", ["image_logvar"]), ("gaussian-fixed", []), ("discretised-logistic", ["image_log_scale"])],
)
def test_colour_goes_from_pictures_to_verified_files_that_score_the_same(
    invoke: Invoke, tmp_path: Path, photos: Path, likelihood: str, second: list[str]
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

    done = invoke("export", "--format", "all", "--run", run)
    assert done.code == 0, done.err
    manifest = json.loads((Run(run).export / "manifest.json").read_text())
    decoders = [file for file in manifest["files"] if file["part"] == "decoder"]
    assert {file["format"] for file in decoders} >= {"onnx", "torchscript", "pt2"}
    assert all([output["name"] for output in file["outputs"]] == ["image", *second] for file in decoders)
    assert manifest["provenance"]["training"]["data"]["protocol"] == "grey"
    done = invoke("verify", "--run", run, "--quick", "--json")
    assert done.code == 0, done.err
    rows = json.loads(done.out)["rows"]
    assert {row["output"] for row in rows} >= {"image", *second, "negative_elbo", "iwae_nll"}
    assert all(row["passed"] for row in rows)

    scores = {}
    for format in ("checkpoint", "onnx"):
        asked = ["--importance-samples", 30, "--data-dir", photos, "--split", "train", "--threads", 1, "--json"]
        done = invoke("evaluate", "--run", run, "--format", format, *asked)
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


def test_kmnist_files_train_through_the_command_line(cli: Cli, tmp_path: Path) -> None:
    write_mnist(tmp_path / "data", "KMNIST")
    options = [*TINY[2:], "--dataset", "kmnist", "--no-download", "--epochs", 1]
    done = cli("train", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Run(tmp_path / "artifacts" / "kmnist-mlp").checkpoint.exists()
    assert os.fspath(tmp_path) not in done.stdout
