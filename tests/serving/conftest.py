"""One server for all tests that do it no harm."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.required import skip_or_fail
from tests.serving.running import Running, started
from vae_export import Model, load
from vae_export.system.extras import EXTRAS


@pytest.fixture(scope="session")
def _packages() -> None:
    """The packages of the extra `serve`, and the client."""
    for module in (*EXTRAS["serve"], "tritonclient", "geventhttpclient"):
        if find_spec(module.partition(".")[0]) is None:
            skip_or_fail(module, "run: pip install -e '.[dev]'")


@pytest.fixture(scope="session")
def bundle(packed: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "small.zip"
    path.write_bytes(packed)
    return path


@pytest.fixture(scope="session")
def model(bundle: Path) -> Model:
    """What the server should compute."""
    return load(bundle, threads=1)


@pytest.fixture(scope="session")
def server(_packages: None, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of two versions of a bundle, and the same bundle by another name."""
    arguments = [bundle, f"small:2={bundle}", f"other:7={bundle}", "--max-request-mb", 1, "--client-timeout", 3]
    with started(arguments, tmp_path_factory.mktemp("server") / "log") as running:
        running.wait_until_ready()
        yield running
