"""`export` publishes a verified folder, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import tree
from tests.exporter.conftest import Toy
from vae_export import Source, export, verify
from vae_export.errors import ParityError, TargetError


def test_new_format_needs_only_a_registry_entry(toy: Toy, source: Source, tmp_path: Path) -> None:
    artifact, certificate = export(source, tmp_path / "out", formats=["toy"])
    golden = ["golden", "golden/decoder.image.f32", "golden/latent.f32"]
    assert sorted(tree(tmp_path / "out")) == sorted(
        ["certificate.html", "certificate.json", "decoder.toy", "manifest.json", *golden]
    )
    assert artifact.entry("decoder", toy.name).size == (tmp_path / "out" / "decoder.toy").stat().st_size
    assert {row.target for row in certificate.results} == {"toy/here"}


def test_file_with_wrong_outputs_is_not_published(toy: Toy, source: Source, tmp_path: Path) -> None:
    toy.wrong = 1e-3
    with pytest.raises(ParityError, match=r"(\d+) of \1 comparisons failed: decoder on toy/here, 'image', probe") as e:
        export(source, tmp_path / "out", formats=["toy"])
    assert e.value.exit_code == 5
    assert tree(tmp_path) == {}


def test_file_with_wrong_outputs_does_not_replace_a_good_one(toy: Toy, source: Source, tmp_path: Path) -> None:
    export(source, tmp_path / "out", formats=["toy"])
    before = tree(tmp_path)
    toy.wrong = 1e-3
    with pytest.raises(ParityError):
        export(source, tmp_path / "out", formats=["toy"], force=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("runs_on", [(), ("nowhere",)])
def test_file_that_no_provider_can_run_is_not_published(
    toy: Toy, source: Source, tmp_path: Path, runs_on: tuple[str, ...]
) -> None:
    toy.runs_on = runs_on
    with pytest.raises(TargetError, match=r"file cannot be verified here: decoder\.toy"):
        export(source, tmp_path / "out", formats=["torchscript", "toy"])
    assert tree(tmp_path) == {}


def test_unusable_target_is_recorded_in_the_certificate(toy: Toy, source: Source, tmp_path: Path) -> None:
    toy.runs_on = ("here", "nowhere")
    artifact, certificate = export(source, tmp_path / "out", formats=["toy"])
    assert certificate.unusable == {"toy/nowhere": "toy cannot run: nowhere"}
    with pytest.raises(TargetError, match="toy cannot run: nowhere"):
        verify(artifact, source, targets=["toy/nowhere"])


def test_empty_certificate_is_refused() -> None:
    from vae_export import Certificate

    empty = Certificate({}, 0, ())
    assert not empty.passed
    with pytest.raises(ParityError, match="nothing was verified"):
        empty.require()
