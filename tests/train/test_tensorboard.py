"""Event files, read with TensorBoard's own reader, have every epoch once, whatever was interrupted."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.train.conftest import TINY
from train.data.datasets import Dataset
from train.scoring import Score
from train.tensorboard import event_writer
from vae_export.errors import StorageError
from vae_export.models import VAE, VAEConfig
from vae_export.runs import Run

pytestmark = pytest.mark.slow

Invoke = Callable[..., Any]

SCORE = Score(12, 3.0, 0.1, 2.0, 1.0, unit_variances=(0.5, 0.0), unit_kls=(1.0, 0.0))


@pytest.fixture
def digits() -> Dataset:
    pixels = torch.randint(0, 256, (12, 1, 8, 8), dtype=torch.uint8)
    return Dataset("x", pixels, pixels, pixels)


def read(run: Run) -> EventAccumulator:
    events = EventAccumulator(str(run.events), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


def write(run: Run, dataset: Dataset, *, done: int, until: int, epochs: int = 6, loss: float = 1.0) -> None:
    """Write the events of the epochs after `done` up to `until`, where the process ends."""
    model, scores = VAE(VAEConfig("mlp", (1, 8, 8), 2, 4)), dict.fromkeys(("train", "validation", "test"), SCORE)
    with event_writer(run, dataset, done=done, epochs=epochs) as events:
        for epoch in range(done + 1, until + 1):
            line = {split: score.to_json() for split, score in scores.items()}
            rest = {"epoch": epoch, "loss": loss + epoch, "learning_rate": 1e-3, "images_per_second": 9.0}
            events.epoch(line | rest, model, SCORE)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "run").mkdir()
    return Run(tmp_path / "run")


@pytest.mark.usefixtures("without_pictures")
def test_events_equal_the_metrics_and_do_not_change_the_training(invoke: Invoke, tmp_path: Path, trained: Path) -> None:
    run = Run(tmp_path / "run")
    done = invoke("train", *TINY, "--epochs", 3, "--seed", 7, "--out", run.folder, "--tensorboard")
    assert done.code == 0, done.err
    lines, events = [json.loads(line) for line in run.metrics.read_text().splitlines()], read(run)
    for name in ("loss", "learning_rate", "images_per_second"):
        scalars = [(scalar.step, scalar.value) for scalar in events.Scalars(name)]
        assert scalars == [(line["epoch"], pytest.approx(line[name])) for line in lines]
    for split in ("train", "validation", "test"):
        for name in ("negative_elbo", "reconstruction", "kl"):
            scalars = [scalar.value for scalar in events.Scalars(f"{name}_nats_per_image/{split}")]
            assert scalars == [pytest.approx(line[split][f"{name}_nats_per_image"]) for line in lines]
        assert [scalar.value for scalar in events.Scalars(f"active_units/{split}")] == [
            line[split]["active_units"] for line in lines
        ]
    assert events.Tags()["images"] == ["reconstructions", "samples", "manifold"]
    # In the same process as other tests, with the same seed: pictures take nothing of the training's randomness.
    assert run.checkpoint.read_bytes() == Run(trained).checkpoint.read_bytes()


def test_number_of_pictures_is_bounded_in_long_trainings(run: Run, digits: Dataset) -> None:
    write(run, digits, done=0, until=100, epochs=100)
    events = read(run)
    for tag in ("reconstructions", "samples", "manifold"):
        images = events.Images(tag)
        assert [image.step for image in images] == [1, *range(5, 101, 5)]
        with Image.open(io.BytesIO(images[-1].encoded_image_string)) as image:
            image.load()
            assert image.size == (images[-1].width, images[-1].height)


@pytest.mark.parametrize("killed_at", [0, 1, 2, 3, 5])
def test_resumed_training_has_every_step_once(run: Run, digits: Dataset, killed_at: int) -> None:
    """The process is killed twice after the events of an epoch, and resumes from the state of the epoch before it."""
    write(run, digits, done=0, until=killed_at)
    again = max(0, killed_at - 1)
    write(run, digits, done=again, until=killed_at, loss=100)
    write(run, digits, done=again, until=6, loss=1000)
    events = read(run)
    scalars = [(scalar.step, scalar.value) for scalar in events.Scalars("loss")]
    assert scalars == [(step, step + (1 if step <= again else 1000)) for step in range(1, 7)]
    assert [image.step for image in events.Images("samples")] == [1, 2, 3, 4, 5, 6]


def test_torn_record_does_not_hide_others(run: Run, digits: Dataset) -> None:
    write(run, digits, done=0, until=3)
    (file,) = run.events.iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    write(run, digits, done=2, until=6)
    assert [scalar.step for scalar in read(run).Scalars("loss")] == [1, 2, 3, 4, 5, 6]


def test_missing_extra_is_named_with_its_install_command(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vae_export.system import extras

    there = find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "tensorboardX" else there(name))
    done = invoke("train", *TINY, "--out", tmp_path / "run", "--tensorboard")
    assert done.code == 6
    assert done.err.splitlines()[-1] == (
        "vae-export: error: tensorboardX is not installed; run: pip install 'vae-export[tensorboard]'"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("filler", "done", "epochs"), [(900_000, 0, 20), (1_020_000, 1, 4000)], ids=["at a picture", "at a few numbers"]
)
def test_full_disk_is_a_storage_error_and_leaves_no_file_open(
    small_disk: Path, digits: Dataset, filler: int, done: int, epochs: int
) -> None:
    (small_disk / "filler").write_bytes(bytes(filler))
    with pytest.raises(StorageError, match="disk full") as failure:  # its frames keep the file from being collected
        write(Run(small_disk), digits, done=done, until=epochs, epochs=epochs)
    assert not [file for file in Path("/proc/self/fd").iterdir() if file.resolve().is_relative_to(small_disk)]
    del failure


@pytest.mark.usefixtures("without_pictures")
def test_new_training_removes_earlier_events(invoke: Invoke, tmp_path: Path) -> None:
    run, tiny = Run(tmp_path / "run"), [*TINY, "--epochs", 1, "--out", tmp_path / "run"]
    assert invoke("train", *tiny, "--tensorboard").code == 0
    assert run.events.exists()
    assert invoke("train", *tiny, "--force").code == 0
    assert not run.events.exists()
