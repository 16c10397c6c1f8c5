"""Readers agree with the specification, and so with each other, on every bundle of the conformance corpus."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bundles.conformance import read_by, write_corpus
from tests.commands import ROOT
from tests.required import skip_or_fail
from vae_export.bundles.reader import read_bundle
from vae_export.errors import VaeExportError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the corpus."""
    return tmp_path_factory.mktemp("corpus")


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, str]:
    """The answer for each bundle of the corpus."""
    return write_corpus(folder)


def test_corpus_has_bundles_of_both_kinds(expected: dict[str, str]) -> None:
    answers = list(expected.values())
    assert len(answers) >= 150
    assert answers.count("accept") >= 100
    assert answers.count("refuse") >= 300
    assert len({name.lower() for name in expected}) == len(expected)


def test_python_library_agrees(folder: Path, expected: dict[str, str]) -> None:
    found = {}
    for name in expected:
        path = folder / f"{name}.zip"
        try:
            read_bundle(path.read_bytes(), path)
            found[name] = "accept"
        except VaeExportError:
            found[name] = "refuse"
    assert found == expected


def test_python_example_agrees(folder: Path, expected: dict[str, str]) -> None:
    assert read_by([sys.executable, str(ROOT / "examples/python/bundle.py")], folder) == expected


def test_javascript_package_agrees(folder: Path, expected: dict[str, str]) -> None:
    node = shutil.which("node") or skip_or_fail("node", "install Node.js 20 or later")
    assert read_by([node, str(ROOT / "js/tests/conformance.js")], folder) == expected


def test_reader_that_answers_wrongly_is_named(folder: Path, expected: dict[str, str]) -> None:
    """The command of the benchmark exits with 1 and names the bundles."""
    reader = folder / "credulous.py"
    reader.write_text(
        "import pathlib, sys\nfor p in pathlib.Path(sys.argv[1]).glob('*.zip'): print(p.stem, 'accept')\n"
    )
    command = [sys.executable, str(ROOT / "benchmarks/conformance.py"), str(folder)]
    done = subprocess.run(
        [*command, "--reader", f"{sys.executable} {reader}"], capture_output=True, text=True, check=False
    )
    refused = sum(answer == "refuse" for answer in expected.values())
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == f"{len(expected) - refused} of {len(expected)} bundles judged as specified"
    assert "name-parent: expected refuse, got accept; 1: a name that is not allowed" in done.stdout
