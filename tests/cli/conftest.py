"""Fixtures of the command line's tests."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vae_export.cli import app


@pytest.fixture
def decoder_run(run_folder: Path) -> Path:
    """A run whose export has one file, decoder.torchscript.pt, so that verifying it takes a second."""
    keep_decoders(run_folder, "decoder.torchscript.pt")
    return run_folder


def keep_decoders(run: Path, *names: str) -> None:
    """Leave these files of the decoder alone in the manifest of a run's export."""
    manifest = run / "export" / "manifest.json"
    data = json.loads(manifest.read_text())
    data["files"] = [entry for entry in data["files"] if entry["name"] in names]
    data["golden"] = [item for item in data["golden"] if item["part"] == "decoder"]
    manifest.write_text(json.dumps(data))


@pytest.fixture
def run_app() -> Iterator[Callable[[Callable[..., None]], int]]:
    """Run the application with one more command and return its exit code; the handler of SIGTERM is restored."""
    before = signal.getsignal(signal.SIGTERM)
    yield lambda command: app.run(command)
    signal.signal(signal.SIGTERM, before)
