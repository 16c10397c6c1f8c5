"""Fixtures for tests of the hosts: a folder to run them in, and bundles that they must refuse."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.conftest import locked_waiting
from tests.reference_variants import consistent
from tests.required import skip_or_fail
from vae_export.bundles import open_bundle
from vae_export.io.atomic import sha256, write_atomic

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from host import BUNDLE, HOSTS, Host, build, there, workspace  # noqa: E402 - benchmarks/ is no package

#: Where ONNX Runtime for C++ is. Not every machine can have its headers.
ORT_ROOT = "$ORT_ROOT"
#: C++ is compiled without optimisation, which takes half as long, and warnings are errors.
QUICK = {"CMAKE_BUILD_TYPE": "None", "CXXFLAGS": "-O0 -Wall -Wextra -Wpedantic -Werror"}


@pytest.fixture(scope="session")
def folder(shared: Path) -> Path:
    """A folder in which the commands of the hosts' pages can be run."""
    folder = shared / "hosts"
    with locked_waiting(shared / "lock-hosts"):
        folder.mkdir(exist_ok=True)
        with workspace(folder):
            return folder


def require(*needs: str) -> None:
    """Skip if something is missing, or fail in CI if it could have been installed."""
    if not there(ORT_ROOT) and ORT_ROOT in needs:
        pytest.skip(f"{ORT_ROOT} is not set: see examples/cpp-onnxruntime")
    if missing := ", ".join(need for need in needs if not there(need)):
        skip_or_fail(missing, "install it")


@pytest.fixture(scope="session")
def host(folder: Path) -> Callable[[str], Host]:
    """`host(name)`: a host, built once in a session."""

    def get(name: str) -> Host:
        found = HOSTS[name]
        require(*found.needs)
        with locked_waiting(folder / f"lock-{name}"):
            if not (folder / f"built-{name}").exists():
                build(found, folder, QUICK)
                (folder / f"built-{name}").touch()
        return found

    return get


def run_with(host: Host, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a host with these arguments in place of those of its page."""
    command = host.lines[-1].partition(f" {BUNDLE} ")[0].replace("python ", f"{sys.executable} ", 1)
    line = " ".join([command, *(f"'{argument}'" for argument in arguments)])
    return subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="session")
def altered(folder: Path) -> Path:
    """The bundle with one bit of the decoder flipped: as ONNX and as TorchScript, in the middle of each."""
    data = bytearray((ROOT / BUNDLE).read_bytes())
    for name in ("decoder.onnx", "decoder.torchscript.pt"):
        content = bytes(open_bundle(ROOT / BUNDLE).files[name])
        data[data.index(content) + len(content) // 2] ^= 1
    write_atomic(folder / "altered.zip", bytes(data))
    return Path("altered.zip")


@pytest.fixture(scope="session")
def wrong(folder: Path) -> Path:
    """A consistent bundle whose golden image has one pixel of another grey level."""
    bundle = open_bundle(ROOT / BUNDLE)
    files = {name: bytes(data) for name, data in bundle.files.items()}
    manifest = json.loads(files["manifest.json"])
    output = next(part for part in manifest["golden"] if part["part"] == "decoder")["outputs"][0]
    image = np.frombuffer(files[output["file"]], "<f4").copy()
    image[5000] += 2 / 255
    files[output["file"]] = image.tobytes()
    output["sha256"] = sha256(files[output["file"]])
    write_atomic(folder / "wrong.zip", consistent(files, manifest))
    return Path("wrong.zip")


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """examples/python/bundle.py."""
    specification = importlib.util.spec_from_file_location("bundle_example", ROOT / "examples/python/bundle.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where dataclasses look it up
    specification.loader.exec_module(module)
    return module
