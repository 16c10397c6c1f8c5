"""Random changes of files, golden vectors and manifests are caught: a few of those that the benchmark makes."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from vae_export.artifact.manifest import FileContent, FileEntry, Manifest
from vae_export.formats import FORMATS, OPSET, versions
from vae_export.parity import References
from vae_export.parity.reproduction import reproduce

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import mutations

pytestmark = pytest.mark.slow


def test_every_random_change_with_an_effect_is_caught(tmp_path: Path) -> None:
    tally = mutations.measure(mutations.small_checkpoint(), tmp_path, 12, 1, formats=("onnx",))
    assert tally.missed == []
    assert sum(tally.made.values()) == 12
    assert sum(tally.effect.values()) >= 6
    assert tally.table().splitlines()[-1].startswith("| all | 12 | ")


@pytest.mark.filterwarnings("ignore:Duplicate name")  # of records, as one of the changes makes
def test_hidden_content_of_every_format_is_caught() -> None:
    """Each kind of hidden content in each file, by the comparison with the file that is written anew."""
    references = References(mutations.small_checkpoint())
    names = [name for name in mutations.KINDS_OF_FILES if FORMATS[name].unavailable() is None]
    for name in names:
        content = references.writer.write("decoder", name, "fp32")
        entry = FileEntry.of("decoder", "decoder", name, content)
        manifest = Manifest(references.source.contract, (entry,), OPSET, versions([name]), references.source.provenance)
        changes = mutations.CHANGES.get(name) or mutations.program_changes(entry, references)
        kinds = [kind for kind in changes if "hidden," in kind]
        assert kinds, name
        for kind, seed in itertools.product(kinds, range(8)):
            changed = changes[kind](content, np.random.default_rng(seed))
            assert changed is not None
            found = reproduce(
                FileEntry.of("decoder", "decoder", name, changed),
                manifest,
                references.writer,
                lambda changed=changed: changed,  # type: ignore[misc]
            )
            assert not found.is_proof, (name, kind, seed)


def test_effect_is_measured_without_verification(tmp_path: Path) -> None:
    references = References(mutations.small_checkpoint())
    artifact = mutations._exported(references, tmp_path, ["onnx"])
    entry = artifact.entry("decoder")
    effects = mutations.Effects(artifact, references)
    content = FileContent(artifact.read(entry))
    rng = np.random.default_rng(0)
    for name, effect in (("another operator", True), ("metadata changed", False)):
        changed = mutations.ONNX[name](content, rng)
        assert effects.of(mutations.Changed(name, artifact, tells=False, entry=entry, content=changed)) == effect
    assert not effects.of(mutations.Changed("", artifact, tells=False, entry=entry, content=content))


def test_counts_of_two_pieces_are_added(tmp_path: Path) -> None:
    one, other = mutations.Tally(), mutations.Tally()
    one.add("onnx: one weight", effect=True, caught=True, by_numbers=True)
    other.add("onnx: one channel", effect=True, caught=False, by_numbers=False)
    other.add("manifest: versions", effect=False, caught=False, by_numbers=False)
    for name, tally in (("a", one), ("b", other)):
        tally.write(tmp_path / name)
    merged = mutations.Tally.read(tmp_path / "a") + mutations.Tally.read(tmp_path / "b")
    assert merged.missed == ["onnx: one channel"]
    assert merged.grouped().table().splitlines()[2:] == [
        "| manifest: versions | 1 | 0 | 0 | 0 | 0 |",
        "| onnx: weights | 2 | 2 | 1 | 1 | 1 |",
        "| all | 3 | 2 | 1 | 1 | 1 |",
    ]
