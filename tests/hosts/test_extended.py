"""Hosts read version 2 of the format: conditions, codes, open sizes, several latents, tables, batches with bounds."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import headless
import numpy as np
import pytest
from host import HOSTS, PICTURE, Host, browse
from PIL import Image

from tests.extended_models import CONTRACTS
from tests.hosts.conftest import run_with
from vae_export import load
from vae_export.io.atomic import write_atomic
from vae_export.pixels import to_levels

pytestmark = pytest.mark.slow

#: Hosts that run ONNX files, which these bundles hold.
PROGRAMS = [name for name in HOSTS if name not in ("browser", "cpp-libtorch")]
#: What OpenCV's engine cannot take or read.
NOT_IN_OPENCV = {"codes": "float32 only", "conditional": "float32 only", "several": "cannot read decoder.onnx"}
#: Hosts and the contracts of what they draw.
DRAWING = [
    (name, contract)
    for name in PROGRAMS
    for contract in ("conditional", "codes", "maps", "two channels", "four channels")
    if not (name == "cpp-opencv" and contract in NOT_IN_OPENCV)
]


@pytest.fixture(scope="module")
def bundle(folder: Path, extended: Callable[[str], Path]) -> Callable[[str], Path]:
    """`bundle(name)`: a bundle of one of `CONTRACTS`, relative to the folder in which hosts run."""

    def get(name: str) -> Path:
        path = folder / f"{name.replace(' ', '-')}.zip"
        if not path.exists():
            write_atomic(path, (extended(name) / "bundle.zip").read_bytes())  # another worker may do so too
        return Path(path.name)

    return get


@pytest.mark.parametrize("contract", list(CONTRACTS))
@pytest.mark.parametrize("name", PROGRAMS)
def test_host_passes_or_says_why_not(
    name: str, contract: str, host: Callable[[str], Host], bundle: Callable[[str], Path], folder: Path
) -> None:
    done = run_with(host(name), folder, bundle(contract))
    if name == "cpp-opencv" and contract in NOT_IN_OPENCV:
        assert done.returncode == 1
        assert done.stderr.startswith("error: OpenCV ")
        assert NOT_IN_OPENCV[contract] in done.stderr
        assert len(done.stderr.splitlines()) == 1
        return
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["pass"]), done.stdout + done.stderr
    assert re.search(r"^noise: (\d+) of \1 golden latents bit for bit$", done.stdout, re.M), done.stderr
    parts = ["decoder"] if name == "cpp-opencv" else ["encoder", "decoder"]
    outputs = [f"{part} {tensor.name}" for part in parts for tensor in CONTRACTS[contract].spec(part).outputs]  # type: ignore[arg-type]
    assert re.findall(r"^(\w+ \w+): worst error", done.stdout, re.M) == outputs


@pytest.mark.parametrize(("name", "contract"), DRAWING)
def test_hosts_draw_the_same_images(
    name: str, contract: str, host: Callable[[str], Host], bundle: Callable[[str], Path], folder: Path, tmp_path: Path
) -> None:
    done = run_with(host(name), folder, bundle(contract), tmp_path / PICTURE, 5)
    assert done.returncode == 0, done.stderr
    model = load(folder / bundle(contract))
    golden = next(part for part in model.manifest.golden if part.part == "decoder")
    arrays = {item.tensor: item for item in golden.inputs}
    opened = {item.name: arrays[item.name] for item in model.contract.conditions}
    conditions: dict[str, Any] = {
        key: np.resize(item.array(model._package.read(item)), (16, *item.shape[1:])) for key, item in opened.items()
    }
    images = model.sample(16, 5, **conditions)
    rows = images.reshape(4, 4, *images.shape[1:]).transpose(0, 3, 1, 4, 2)
    grid, channels = read_picture(tmp_path / PICTURE), images.shape[1]
    assert grid.shape == (4 * images.shape[2], 4 * images.shape[3], channels)
    low, high = model.contract.image_range
    lowest, highest = (to_levels(rows + step, low, high).reshape(grid.shape) for step in (-1e-5, 1e-5))
    assert ((grid >= lowest) & (grid <= highest)).all()
    assert grid.std() > 5


def read_picture(path: Path) -> np.ndarray:
    """Return the pixels (H, W, C) of a PNG file."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.mode in ("L", "LA", "RGB", "RGBA")
        return np.asarray(image).reshape(image.height, image.width, -1)


@pytest.mark.parametrize("name", PROGRAMS)
def test_picture_of_a_table_is_refused(
    name: str, host: Callable[[str], Host], bundle: Callable[[str], Path], folder: Path, tmp_path: Path
) -> None:
    done = run_with(host(name), folder, bundle("table"), tmp_path / PICTURE)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch("error: no images can be drawn: .*data .* is no image of 1 to 4 channels.*\n", done.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("contract", ["conditional", "codes", "maps", "table", "batch of 3"])
def test_browser_passes(
    contract: str, host: Callable[[str], Host], bundle: Callable[[str], Path], folder: Path
) -> None:
    host("browser")
    with headless.serving(folder) as served:
        report = browse(served, bundle(contract))
    assert report.passed, f"{report.text}\n{report.errors}"
    assert ("no images: data" in report.text) == (CONTRACTS[contract].output.name == "data")
