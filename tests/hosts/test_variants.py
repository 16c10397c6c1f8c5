"""Hosts run bundles with decoders to bytes only, with one part only, and with weights beside the graph."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import headless
import numpy as np
import pytest
from host import BUNDLE, PICTURE, Host, browse, run
from PIL import Image

from tests.hosts.conftest import run_with
from tests.reference_variants import VARIANTS
from vae_export import load

pytestmark = pytest.mark.slow

#: Hosts that run ONNX files of every part.
PROGRAMS = ("python", "node", "cpp-openvino", "cpp-onnxruntime")
OUTPUTS = {"bytes hwc": ["decoder-uint8-hwc pixels"], "bytes chw": ["decoder-uint8-chw pixels"]}
OUTPUTS |= {"encoder": ["encoder mean", "encoder logvar"], "decoder": ["decoder image"], "sidecar": ["decoder image"]}


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`bundle(name)`: a bundle of `VARIANTS`, relative to the folder in which hosts run."""

    def get(name: str) -> Path:
        path = folder / f"variant-{name.replace(' ', '-')}.zip"
        if not path.exists():
            path.write_bytes(VARIANTS[name](tmp_path_factory.mktemp("variant")))
        return Path(path.name)

    return get


def compared(text: str) -> list[str]:
    """Return the outputs that a host has compared."""
    return re.findall(r"^([\w-]+ \w+): worst error", text, re.M)


@pytest.mark.parametrize("variant", ["bytes hwc", "bytes chw", "decoder", "sidecar"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_host_draws_with_any_decoder(
    name: str, variant: str, host: Callable[[str], Host], bundle: Callable[[str], Path], folder: Path, tmp_path: Path
) -> None:
    report = run(host(name), folder, bundle(variant), seed=3, picture=tmp_path / PICTURE)
    assert report.passed, f"{report.text}\n{report.errors}"
    assert compared(report.text) == OUTPUTS[variant]
    with Image.open(tmp_path / PICTURE) as picture:
        found = np.asarray(picture).astype(int)
    model = load(folder / BUNDLE)
    expected = model.pixels(model.prior(16, 3)).reshape(4, 4, 28, 28).swapaxes(1, 2).reshape(112, 112)
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("name", PROGRAMS)
def test_host_tests_an_encoder_alone_and_draws_nothing(
    name: str, host: Callable[[str], Host], bundle: Callable[[str], Path], folder: Path, tmp_path: Path
) -> None:
    done = run_with(host(name), folder, bundle("encoder"))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "pass"), done.stderr
    assert compared(done.stdout) == OUTPUTS["encoder"]
    done = run_with(host(name), folder, bundle("encoder"), tmp_path / PICTURE)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: bundle has no decoder as onnx")
    assert list(tmp_path.iterdir()) == []


NO_FILE = dict.fromkeys(("python", "node"), "bundle has no part as onnx")
NO_FILE |= dict.fromkeys(("cpp-openvino", "cpp-onnxruntime"), "bundle has no file that this engine can run")


@pytest.mark.parametrize("variant", ["torchscript", "compiled"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_host_names_a_bundle_without_a_file_for_its_engine(
    name: str, variant: str, host: Callable[[str], Host], bundle: Callable[[str], Path], folder: Path
) -> None:
    done = run_with(host(name), folder, bundle(variant))
    assert (done.returncode, done.stderr) == (1, f"error: {NO_FILE[name]}\n")
    assert "FAIL" not in done.stdout


def test_libtorch_host_draws_with_a_decoder_alone(
    host: Callable[[str], Host], bundle: Callable[[str], Path], folder: Path, tmp_path: Path
) -> None:
    found = host("cpp-libtorch")
    report = run(found, folder, bundle("torchscript"), seed=3, picture=tmp_path / PICTURE)
    assert report.passed, f"{report.text}\n{report.errors}"
    assert compared(report.text) == OUTPUTS["decoder"]
    done = run_with(found, folder, bundle("decoder"))
    assert (done.returncode, done.stderr) == (1, "error: bundle has no file that this engine can run\n")


def test_opencv_host_names_the_decoder_that_it_needs(
    host: Callable[[str], Host], bundle: Callable[[str], Path], folder: Path
) -> None:
    found = host("cpp-opencv")
    assert run(found, folder, bundle("decoder")).passed
    done = run_with(found, folder, bundle("encoder"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: bundle has no decoder as onnx that this engine can run\n"


def test_browser_tests_an_encoder_alone(
    host: Callable[[str], Host], bundle: Callable[[str], Path], folder: Path
) -> None:
    host("browser")
    with headless.serving(folder) as served:
        report = browse(served, bundle("encoder"))
        assert report.passed, f"{report.text}\n{report.errors}"
        assert compared(report.text) == OUTPUTS["encoder"]
        assert "no images: the bundle has no decoder" in report.text
        report = browse(served, bundle("sidecar"))
        assert report.passed, f"{report.text}\n{report.errors}"
