"""Folders of photographs are trained as photographs, without an option."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.train.conftest import Invoke
from train.config import ObjectiveOptions
from train.initial_weights import initial_model
from train.recipes import Recipe
from train.trainer import Trainer, moved
from vae_export.likelihood import Likelihood
from vae_export.models import VAEConfig
from vae_export.models.checkpoint import load_checkpoint
from vae_export.models.config import Family
from vae_export.runs import Run

pytestmark = pytest.mark.usefixtures("without_pictures")

TINY = ("--epochs", 1, "--batch-size", 8, "--latent-size", 3, "--threads", 1, "--precision", "float32")


def write_photos(folder: Path, mode: str, side: int) -> Path:
    folder.mkdir()
    for index in range(12):
        Image.effect_noise((side, side), 20 + index).convert(mode).save(folder / f"{index}.png")
        if mode == "RGB":
            Image.new(mode, (side, side), (index * 20, 90, 10)).save(folder / f"{index}.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "side", "typed", "family"),
    [
        ("RGB", 32, [], "resnet"),
        ("L", 64, [], "resnet"),
        ("L", 28, [], "mlp"),
        ("L", 64, ["--image-size", 16], "mlp"),
        ("RGB", 32, ["--family", "conv"], "conv"),
        ("RGB", 32, ["--preset", "mnist"], "mlp"),
    ],
)
def test_recipe_follows_from_the_images_unless_one_is_typed(
    invoke: Invoke, tmp_path: Path, mode: str, side: int, typed: list[object], family: str
) -> None:
    photos, run = write_photos(tmp_path / "photos", mode, side), Run(tmp_path / "run")
    done = invoke("train", "--dataset", "folder", "--data-dir", photos, *typed, *TINY, "--out", run.folder)
    assert done.code == 0, done.err
    config = load_checkpoint(run.checkpoint).config
    assert (config.family, config.latent_size) == (family, 3)
    chosen = family == "resnet"
    assert ("trained as --preset photos" in done.err) == chosen
    levels = "discretised-logistic-colour" if mode == "RGB" else "discretised-logistic"
    assert config.likelihood.name == (levels if chosen else "bernoulli")
    assert ("bits/dim" in done.err, "as PNG" in done.out, "next: " in done.out) == (chosen,) * 3
    assert invoke("train", "--resume", "--epochs", 2, "--out", run.folder).code == 0  # with the preset's options


@pytest.mark.parametrize(("rank", "times"), [("0", 1), ("1", 0)])
def test_only_the_first_of_many_processes_names_the_preset(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: str, times: int
) -> None:
    monkeypatch.setenv("RANK", rank)
    photos = write_photos(tmp_path / "photos", "RGB", 32)
    done = invoke("train", "--dataset", "folder", "--data-dir", photos, "--out", photos)
    assert done.err.count("trained as --preset photos") == times
    assert "output exists" in done.err


def first_batch(pixels: torch.Tensor, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """The images of the first step as the network sees them."""
    trainer = Trainer(initial_model(VAEConfig("mlp", (1, 8, 8), 2, 8), pixels, 0), pixels, recipe, ObjectiveOptions())
    seen: list[torch.Tensor] = []
    real = Trainer._loss

    def watched(self: Trainer, image: torch.Tensor, noise: torch.Tensor, step: int) -> torch.Tensor:
        seen.append(image)
        return real(self, image, noise, step)

    monkeypatch.setattr(Trainer, "_loss", watched)
    trainer.run_trial_steps(1)
    return seen[0]


def test_flips_mirror_about_half_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = torch.arange(8, dtype=torch.uint8).expand(64, 1, 8, 8).contiguous()
    recipe = Recipe(1, 64, learning_rate=1e-3, schedule="constant", bfloat16=False, flip=True)
    images = first_batch(ramp, recipe, monkeypatch)
    rising = (images.diff(dim=3) > 0).flatten(1).all(1)
    falling = (images.diff(dim=3) < 0).flatten(1).all(1)
    assert (rising ^ falling).all()
    assert 16 < rising.sum() < 48


@pytest.mark.parametrize(("down", "right"), [(0, 0), (3, 0), (-2, 5), (7, -7)])
def test_moved_images_are_mirrored_at_the_edges(down: int, right: int) -> None:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    around = torch.nn.functional.pad(images, (7, 7, 7, 7), mode="reflect")
    found = moved(images, torch.full((4,), down), torch.full((4,), right))
    assert torch.equal(found, around[:, :, 7 - down : 15 - down, 7 - right : 15 - right])


def test_each_image_is_moved_by_its_own_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8).expand(256, 1, 8, 8).contiguous()
    recipe = Recipe(1, 256, learning_rate=1e-3, schedule="constant", bfloat16=False, shift=2)
    images = first_batch(ramp, recipe, monkeypatch)
    middle = (255 * images[:, 0, 4, 4]).round().long()  # its pixel came from (4 - down, 4 - right)
    moves = {(4 - value // 8, 4 - value % 8) for value in middle.tolist()}
    assert moves == {(down, right) for down in range(-2, 3) for right in range(-2, 3)}


def test_shift_beyond_the_image_is_refused(invoke: Invoke, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", "RGB", 32)
    arguments = ("--dataset", "folder", "--data-dir", photos, "--image-size", 16, *TINY, "--shift", 16)
    done = invoke("train", *arguments, "--out", tmp_path / "run")
    assert done.code == 2
    assert "bad --shift; expected less than a side of the images, 16 x 16, got 16" in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["resnet", "pyramid"])
def test_photographs_are_learned(family: Family) -> None:
    pixels = torch.arange(0, 256, 4, dtype=torch.uint8).reshape(64, 1, 1, 1).expand(64, 3, 16, 16).contiguous()
    config = VAEConfig(family, (3, 16, 16), 4, 32, "silu", likelihood=Likelihood("discretised-logistic"))
    recipe = Recipe(15, 16, learning_rate=3e-3, schedule="one-cycle", bfloat16=False)
    trainer = Trainer(initial_model(config, pixels, 0), pixels, recipe, ObjectiveOptions())
    losses = [epoch.loss for epoch in trainer.train_epochs(lambda *_: None)]
    assert losses[-1] < 0.8 * losses[0]


def test_training_from_the_disk_ends_in_the_bytes_of_one_from_memory(invoke: Invoke, tmp_path: Path) -> None:
    photos, runs = write_photos(tmp_path / "photos", "RGB", 32), [Run(tmp_path / name) for name in ("yes", "no")]
    for run in runs:
        where = ("--in-memory", run.folder.name, "--out", run.folder)
        done = invoke("train", "--dataset", "folder", "--data-dir", photos, "--image-size", 16, *TINY, *where)
        assert done.code == 0, done.err
        assert ("on the disk" in done.err) == (run.folder.name == "no")
    first, second = (run.checkpoint.read_bytes() for run in runs)
    assert first == second
    assert invoke("train", "--in-memory", "no").code == 2


def test_long_gradients_are_shortened_to_the_norm_per_value() -> None:
    pixels = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    norms: dict[float, float] = {}
    for clip in (0.0, 1e-3, 1e3):
        recipe = Recipe(1, 64, learning_rate=1e-3, schedule="constant", bfloat16=False, clip_norm=clip)
        trainer = Trainer(
            initial_model(VAEConfig("mlp", (1, 8, 8), 2, 8), pixels, 0), pixels, recipe, ObjectiveOptions()
        )
        trainer.run_trial_steps(1)
        gradients = [parameter.grad for parameter in trainer.model.parameters() if parameter.grad is not None]
        norms[clip] = torch.nn.utils.get_total_norm(gradients).item()
    assert norms[0.0] > 64e-3
    assert norms[1e-3] == pytest.approx(64e-3, rel=1e-4)
    assert norms[1e3] == norms[0.0]  # short ones are left alone
