"""Resuming refuses options and images that differ from those of the training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import tree
from tests.train.conftest import TINY, Invoke, one_line
from tests.train.resume.conftest import USUAL, stop_at
from train.progress import TrainingProgress
from train.resume import load_state
from vae_export.runs import Run


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--batch-size", 32], ["batch_size 64", "batch_size 32"]),
        (["--seed", 8], ["seed 7", "seed 8"]),
        (["--family", "conv"], ["family mlp", "family conv"]),
        (["--beta", 2], ["beta 1.0", "beta 2.0"]),
        (["--data-protocol", "dynamic"], ["protocol grey", "protocol dynamic"]),
        (["--likelihood", "gaussian"], ["'name': 'bernoulli'", "'name': 'gaussian'"]),
        (["--weight-average", 0.9], ["weight_average 0.99", "weight_average 0.9"]),
        (["--precision", "bfloat16"], ["precision float32", "precision bfloat16"]),
        (["--epochs", 2], ["more than the 2 that are done", "got 2"]),
        (["--preset", "burda"], ["preset None", "preset burda"]),
    ],
    ids=lambda value: str(value[0]),
)
def test_resume_refuses_other_options_with_both_values(
    invoke: Invoke, stopped: Run, options: list[object], named: list[str]
) -> None:
    before = tree(stopped.folder)
    done = invoke("train", "--resume", "--out", stopped.folder, *options)
    assert done.code == 2
    line = one_line(done.err)
    assert all(value in line for value in named), line
    assert {**tree(stopped.folder), ".lock": b""} == {**before, ".lock": b""}


def test_resume_refuses_other_images(invoke: Invoke, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(40):
        Image.new("L", (16, 16), index).save(photos / f"{index}.png")
    usual = [*TINY[2:], "--dataset", "folder", "--data-dir", photos, "--image-size", 16, "--batch-size", 16]
    with monkeypatch.context() as patch:
        stop_at(patch, 1)
        assert invoke("train", *usual, "--epochs", 3, "--out", run.folder).code == 143
    (photos / "7.png").unlink()
    done = invoke("train", "--resume", "--out", run.folder)
    assert done.code == 3
    assert "images differ from those that the training began with: folder; expected SHA-256" in one_line(done.err)


@pytest.mark.parametrize("options", [["--force"], ["--out", "nowhere"]], ids=" ".join)
def test_resume_without_run_or_with_force_is_a_usage_error(invoke: Invoke, stopped: Run, options: list[str]) -> None:
    done = invoke("train", "--resume", *(["--out", stopped.folder] if options == ["--force"] else []), *options)
    assert done.code == 2
    one_line(done.err)


def test_new_training_keeps_the_earlier_run_until_its_first_checkpoint(
    invoke: Invoke, stopped: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped.export.mkdir()
    (stopped.export / "certificate.json").write_text("{}")
    before = tree(stopped.folder)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingProgress, "step", lambda *_: 1 / 0)
        assert invoke("train", *USUAL, "--out", stopped.folder, "--force").code == 1
    assert {**tree(stopped.folder), ".lock": b""} == {**before, ".lock": b""}
    with monkeypatch.context() as patch:
        stop_at(patch, 1)
        assert invoke("train", *USUAL, "--out", stopped.folder, "--force").code == 143
    assert not stopped.export.exists()
    assert load_state(stopped).steps_done == 2
    assert stopped.previous_checkpoint.read_bytes() == before["checkpoint.safetensors"]
