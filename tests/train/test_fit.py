"""`fit` trains on arrays, and is what the command does."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.commands import ROOT, run_python
from tests.train.conftest import TINY, Invoke
from train.config import DataOptions
from train.data.datasets import load
from train.fit import as_pixels, fit, train_options
from vae_export.errors import DataError, OutputExistsError, UsageError
from vae_export.models.checkpoint import load_checkpoint
from vae_export.runs import Run

SMALL: dict[str, Any] = {"hidden_size": 16, "latent_size": 3, "threads": 1, "precision": "float32", "quiet": True}


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 12, 16, 3), np.uint8)


def test_array_becomes_a_checkpoint_and_scores(noise: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    fitted = fit(noise, epochs=2, batch_size=8, likelihood="discretised-logistic", **SMALL)
    config = fitted.checkpoint.config
    assert (config.image_shape, config.latent_size) == ((3, 12, 16), 3)
    assert (fitted.validation.images, fitted.test.images) == (4, 4)
    assert fitted.checkpoint.provenance["data"]["name"] == "array"
    assert fitted.checkpoint.provenance["scores"]["test"] == fitted.test.to_json()
    bits = fitted.kind.bits_per_dim(fitted.test.negative_elbo)
    assert bits is not None
    assert bits == pytest.approx(fitted.test.negative_elbo / (3 * 12 * 16 * math.log(2)))
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_command_and_fit_arrive_at_the_same_weights(invoke: Invoke, tmp_path: Path) -> None:
    assert invoke("train", *TINY, "--epochs", 2, "--seed", 7, "--out", tmp_path / "run").code == 0
    fitted = fit(load(DataOptions("digits")), epochs=2, seed=7, **SMALL)
    expected = load_checkpoint(Run(tmp_path / "run").checkpoint)
    assert fitted.checkpoint.sha256 == expected.sha256


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_run_folder_is_kept_where_one_is_named(noise: np.ndarray, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fitted = fit(noise, out=out, epochs=1, batch_size=8, **SMALL)
    assert load_checkpoint(Run(out).checkpoint).sha256 == fitted.checkpoint.sha256
    with pytest.raises(OutputExistsError):
        fit(noise, out=out, epochs=1, batch_size=8, **SMALL)


@pytest.mark.slow
def test_example_of_the_documentation_works(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "quality.md").read_text("utf-8"), re.DOTALL)
    done = run_python(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d+\.\d nats, 0\.\d{3} bits per dimension\n", done.stdout)
    assert (tmp_path / "artifacts" / "digits" / "certificate.json").exists()


@pytest.mark.parametrize("shape", [(5, 8, 6), (5, 8, 6, 1), (5, 1, 8, 6)])
def test_layouts_become_one(shape: tuple[int, ...]) -> None:
    array = np.arange(240, dtype=np.uint8).reshape(shape)
    assert torch.equal(as_pixels(array), torch.arange(240, dtype=torch.uint8).reshape(5, 1, 8, 6))


def test_colour_is_moved_to_the_front(noise: np.ndarray) -> None:
    assert torch.equal(as_pixels(noise), torch.from_numpy(noise).permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((4, 8, 8), np.float32), "got float32; multiply by 255"),
        (np.zeros((4, 8), np.uint8), r"got \(4, 8\)"),
        (np.zeros((4, 8, 8, 2), np.uint8), r"got \(4, 8, 8, 2\)"),
        (np.zeros((0, 8, 8), np.uint8), r"got \(0, 1, 8, 8\)"),
    ],
)
def test_what_is_no_array_of_images_is_refused(array: np.ndarray, said: str) -> None:
    with pytest.raises(DataError, match=said):
        as_pixels(array)


def test_options_have_the_names_of_the_command_and_override_a_preset() -> None:
    options = train_options("burda", {"epochs": 3, "flip": True})
    assert (options.network.activation, options.recipe.epochs, options.recipe.flip) == ("tanh", 3, True)
    assert (options.data.protocol, options.preset) == ("dynamic", "burda")
    assert options.recipe.stages is not None
    assert len(options.recipe.stages) == 8
    with pytest.raises(UsageError, match="unknown option.*got latents"):
        train_options(None, {"latents": 3})
