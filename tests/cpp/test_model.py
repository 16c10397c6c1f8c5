"""`Model` of the C++ library, on OpenVINO, computes what the library computes, for every contract, in one process."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import made_once
from tests.cpp.programs import LIBRARY, compile_verbs, compile_with_openvino, output_of
from tests.reference_variants import REFERENCE, bytes_only
from vae_export import load
from vae_export.pixels import to_levels
from vae_export.rng import sample
from vae_export.runtime.model import Model

pytestmark = pytest.mark.slow

NAMES = ["plain", "conditional", "codes", "maps", "two channels", "four channels", "several", "batch of 3"]


@pytest.fixture(scope="module")
def verbs(shared: Path) -> Path:
    """The program `cpp/tests/verbs.cpp`."""
    return made_once(shared / "cpp-verbs", compile_verbs) / "verbs"


@pytest.fixture(scope="module")
def paths(extended: Callable[[str], Path]) -> dict[str, Path]:
    """The bundle of each contract."""
    return {name: REFERENCE if name == "plain" else extended(name) / "bundle.zip" for name in NAMES}


@pytest.fixture(scope="module")
def made(verbs: Path, paths: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Every tensor that the program has made, by the contract, the verb and the tensor's name."""
    folder = tmp_path_factory.mktemp("verbs")
    lines = output_of(verbs, folder, *(word for name, path in paths.items() for word in (name, path))).splitlines()
    passed = [line.removesuffix(" passed") for line in lines if line.endswith(" passed")]
    assert passed == list(paths), lines
    found = {}
    for line in lines:
        if line.endswith("]"):
            described, shape = line.rstrip("]").split(" [")
            name, dtype = described.rsplit(" ", 1)
            sizes = [int(size) for size in shape.split(", ")]
            found[name] = np.frombuffer((folder / name).read_bytes(), dtype).reshape(sizes)
    return found


def close(made: dict[str, np.ndarray], name: str, expected: Any, only: str) -> None:
    """Compare the tensors of a verb with an array, or with arrays by name."""
    by_name = expected if isinstance(expected, dict) else {only: expected}
    for key, value in by_name.items():
        found = made[f"{name}.{key}"]
        assert found.shape == value.shape
        assert np.allclose(found, value, rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize("name", NAMES)
def test_verbs_match_python(name: str, made: dict[str, np.ndarray], paths: dict[str, Path]) -> None:
    model = load(paths[name])
    only = model.contract.latents[0].name
    prefix = f"{name}.conditions."
    conditions = {key.removeprefix(prefix): value for key, value in made.items() if key.startswith(prefix)}
    assert conditions.keys() == {item.name for item in model.contract.conditions}
    decoding, encoding = (
        {item.name: conditions[item.name][0] for item in model.contract.conditions if part in item.parts}
        for part in ("decoder", "encoder")
    )
    is_known = model.contract.prior != "given by the user"
    prior = model.prior(5, 7) if is_known else sample((5, *model.contract.latents[0].fixed_item), 7)
    close(made, f"{name}.latents", prior, only)
    assert np.allclose(made[f"{name}.data"], model.decode(prior, **decoding), rtol=1e-4, atol=1e-4)
    data = model.contract.data
    inputs = np.clip(made[f"{name}.data"], data.low, data.high)
    encoded = model.encode(inputs, **encoding)
    mean, logvar = encoded if isinstance(encoded, tuple) else (encoded, {})
    close(made, f"{name}.mean", mean, only)
    if isinstance(encoded, tuple):
        close(made, f"{name}.logvar", logvar, only)
    both = decoding | encoding
    assert np.allclose(made[f"{name}.reconstructed"], model.reconstruct(inputs, **both), rtol=1e-4, atol=1e-4)
    if f"{name}.between" in made:
        between = model.interpolate(inputs[0], inputs[1], 4, **both)
        assert np.allclose(made[f"{name}.between"], between, rtol=1e-4, atol=1e-4)
    assert (f"{name}.pixels" in made) == model.contract.is_image
    if model.contract.is_image:
        check_pixels(model, made[f"{name}.pixels"], model.decode(prior, **decoding))
        assert (np.moveaxis(made[f"{name}.planes"], 1, -1) == made[f"{name}.pixels"]).all()


def check_pixels(model: Model, pixels: np.ndarray, images: np.ndarray) -> None:
    """Assert that pixels are the levels of images; values between two levels may round either way."""
    image = np.moveaxis(images, 1, -1)
    lowest, highest = (to_levels(image + step, *model.contract.image_range) for step in (-1e-4, 1e-4))
    assert pixels.dtype == np.uint8
    assert ((pixels >= lowest) & (pixels <= highest)).all()


def test_argument_that_does_not_fit_is_refused_by_name(verbs: Path) -> None:
    said = output_of(verbs, "--refused", REFERENCE).splitlines()
    expected = [
        "not finite: 'latent' at 3; expected finite numbers, got inf",
        "wrong shape: 'latent'; expected [N, 10], got [1, 11]",
        "wrong shape: 'latent'; expected [N, 10], got [1, 10]",
        "wrong inputs: decoder; expected latent, got z",
        "wrong inputs: decoder; expected latent, got label, latent",
        "wrong type: 'latent'; expected float32, got int64",
        "out of range: 'image' at 0; expected numbers in [0.000000, 1.000000], got 255.000000",
        "wrong shape: 'image'; expected [N, 1, 28, 28], got [1, 28, 28, 1]",
        "bad number of samples; expected 1 and up, got 0",
        "unknown size: h",
        "bad number of steps; expected 2 and up, got 1",
        "bundle has no autoencoder as onnx that this engine can run",
        "bad seed: -1; expected 0 to 2^64 - 1",
        "bundle cannot be read: nothing.zip",
        "precision is not known; got fp2",
    ]
    assert said == expected


@pytest.mark.parametrize("layout", ["hwc", "chw"])
def test_decoder_to_bytes_is_used_in_either_layout(verbs: Path, layout: str, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(bytes_only(layout))
    lines = output_of(verbs, "--pixels", tmp_path, "x", tmp_path / "x.zip").splitlines()
    assert lines == ["x.pixels uint8 [5, 28, 28, 1]", "x.planes uint8 [5, 1, 28, 28]", "x passed"]
    pixels = np.frombuffer((tmp_path / "x.pixels").read_bytes(), np.uint8).reshape(5, 28, 28, 1)
    model = load(REFERENCE)
    check_pixels(model, pixels, model.decode(model.prior(5, 7)))
    assert (tmp_path / "x.planes").read_bytes() == pixels.tobytes()


def test_other_sizes_and_start_match_python(verbs: Path, paths: dict[str, Path], tmp_path: Path) -> None:
    lines = output_of(verbs, "--sizes", tmp_path, "x", paths["maps"]).splitlines()
    model = load(paths["maps"])
    prior = model.prior(5, 3, start=5, sizes={"h": 5, "w": 4})
    images = model.decode(prior)
    assert lines == [
        f"x.latents.latent float32 {list(prior.shape)}",
        f"x.data float32 {list(images.shape)}",
        "x.pixels uint8 [5, 20, 16, 3]",
    ]
    assert (tmp_path / "x.latents.latent").read_bytes() == prior.tobytes()
    data = np.frombuffer((tmp_path / "x.data").read_bytes(), np.float32).reshape(images.shape)
    assert np.allclose(data, images, rtol=1e-4, atol=1e-4)
    check_pixels(model, np.frombuffer((tmp_path / "x.pixels").read_bytes(), np.uint8).reshape(5, 20, 16, 3), images)


def test_first_program_of_the_page_works(tmp_path: Path) -> None:
    first = re.search(r"^```cpp\n(.*?)\n\n(.*?)^```", (LIBRARY / "README.md").read_text("utf-8"), re.M | re.S)
    assert first is not None
    (tmp_path / "main.cpp").write_text(f"{first[1]}\nint main() {{\n{first[2]}}}\n")
    compile_with_openvino(tmp_path / "main.cpp", tmp_path / "main")
    shutil.copy(REFERENCE, tmp_path)
    subprocess.run([tmp_path / "main"], cwd=tmp_path, check=True)
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")
