"""Tests of the trained model that comes with the repository: it opens, passes its self-test and draws as before."""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest

from vae_export import Model, load
from vae_export.artifact.golden import compare_golden
from vae_export.bundles import Bundle, open_bundle

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "artifacts" / "reference"
BUNDLE = FOLDER / "mnist.zip"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(BUNDLE)


@pytest.fixture(scope="module")
def model() -> Model:
    return load(BUNDLE)


def test_bundle_opens_strictly_and_has_the_documented_identity(bundle: Bundle) -> None:
    assert bundle.identity in (FOLDER / "README.md").read_text("utf-8")
    assert {(entry.part, entry.format) for entry in bundle.manifest.files} == {
        (part, format) for part in ("encoder", "decoder") for format in ("onnx", "torchscript")
    }


def test_model_passes_its_self_test(model: Model) -> None:
    assert model.self_test().passed


def test_model_draws_the_samples_of_its_golden_vectors(bundle: Bundle, model: Model) -> None:
    """Rows 2 and up of the golden latents are the specification's `sample(14, seed 0)`."""
    latents = next(array for part in bundle.manifest.golden for array in part.inputs if array.tensor == "latent")
    assert model.prior(14, 0).tobytes() == latents.array(bundle.read(latents))[2:].tobytes()
    golden = next(part for part in bundle.manifest.golden if part.part == "decoder").outputs[0]
    expected = golden.array(bundle.read(golden))[2:]
    comparison = compare_golden(
        "decoder", model.contract.spec("decoder").outputs[0], model.sample(14, 0), golden, expected
    )
    assert comparison.passed


def test_prior_has_the_recorded_bits(model: Model) -> None:
    digest = hashlib.sha256(model.prior(1000, 2026).astype("<f4").tobytes()).hexdigest()
    assert digest == "d0b4fd0d57ce9e528e29aa9c377a403c68d0ac3a173215bf59c83a5402521d8d"


def test_samples_are_digits_and_not_noise(model: Model) -> None:
    """Look for bright, varied strokes on black: a decoder with permuted weights fails here."""
    images = model.sample(64, 1)
    assert np.median(images) < 0.01
    assert np.median(images.max(axis=(1, 2, 3))) > 0.9
    assert images.std(axis=0).max() > 0.3


def test_bundle_is_small_and_holds_no_picture_of_the_data(bundle: Bundle) -> None:
    assert BUNDLE.stat().st_size < 5_000_000
    assert "certificate.html" not in bundle.files


def test_model_card_shows_the_commands_of_the_makefile(bundle: Bundle) -> None:
    notes = (FOLDER / "notes.md").read_text("utf-8")
    assert bundle.card.endswith(notes)
    planned = subprocess.run(["make", "-n", "reference"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    run = [shlex.split(line)[1:] for line in planned.splitlines() if "cli.py" in line]
    shown = [shlex.split(line)[1:] for line in re.findall(r"^python cli.py .*$", notes, re.MULTILINE)]
    assert run == shown
    assert len(run) == 4
