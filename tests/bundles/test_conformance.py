"""Readers agree with the specification, and so with each other, on every bundle of the conformance corpus."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bundles.conformance import read_by, write_corpus
from tests.bundles.tampering import FUZZED
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


def read_by_library(folder: Path) -> dict[str, str]:
    """Return the answers of the library."""
    found = {}
    for path in folder.glob("*.zip"):
        try:
            read_bundle(path.read_bytes(), path)
            found[path.stem] = "accept"
        except VaeExportError:
            found[path.stem] = "refuse"
    return found


def test_corpus_has_bundles_of_both_kinds(expected: dict[str, str]) -> None:
    answers = list(expected.values())
    assert len(answers) >= 150
    assert answers.count("accept") >= 100
    assert answers.count("refuse") >= 300
    assert len({name.lower() for name in expected}) == len(expected)


def test_python_library_agrees(folder: Path, expected: dict[str, str]) -> None:
    assert read_by_library(folder) == expected


def test_python_example_agrees(folder: Path, expected: dict[str, str]) -> None:
    assert read_by([sys.executable, str(ROOT / "examples/python/bundle.py")], folder) == expected


def test_javascript_package_agrees(folder: Path, expected: dict[str, str]) -> None:
    assert read_by(javascript(), folder) == expected


def test_cpp_library_agrees(folder: Path, expected: dict[str, str], cpp_reader: Path) -> None:
    assert read_by([str(cpp_reader)], folder) == expected


def javascript() -> list[str]:
    """Return the command of the reader of the JavaScript package."""
    node = shutil.which("node") or skip_or_fail("node", "install Node.js 20 or later")
    return [node, str(ROOT / "js/tests/conformance.js")]


@pytest.mark.parametrize("name", ["base", "extended-condition", "extended-codes", "extended-sizes"])
def test_readers_agree_on_documents_with_random_values(
    name: str, folder: Path, expected: dict[str, str], cpp_reader: Path, tmp_path: Path
) -> None:
    assert expected[name] == "accept"
    good = (folder / f"{name}.zip").read_bytes()
    for kind in FUZZED:
        rng = random.Random(f"{kind.__name__} of {name}")
        for number in range(60):
            (tmp_path / f"{kind.__name__}-{number}.zip").write_bytes(kind(good, rng).data)
    found = read_by_library(tmp_path)
    assert set(found.values()) == {"accept", "refuse"}
    assert read_by(javascript(), tmp_path) == found
    assert read_by([sys.executable, str(ROOT / "examples/python/bundle.py")], tmp_path) == found
    assert read_by([str(cpp_reader)], tmp_path) == found


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
