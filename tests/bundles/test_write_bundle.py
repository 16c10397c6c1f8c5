"""`vae_export.bundle` makes a bundle of an export, or of a model that it exports and verifies first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vae_export
from tests import sample_models
from vae_export.errors import OutputExistsError, UsageError, VaeExportError


@pytest.mark.slow
def test_model_becomes_a_bundle_by_one_call(tmp_path: Path) -> None:
    made = vae_export.bundle(sample_models.checkpoint(), tmp_path / "faces.zip", notes="For tests.")
    assert made.card.startswith("# faces\n")
    assert "For tests." in made.card
    assert [entry.name for entry in made.manifest.files] == ["encoder.onnx", "decoder.onnx", "autoencoder.onnx"]
    assert vae_export.load(tmp_path / "faces.zip").decode(np.zeros((1, 4), np.float32)).shape == (1, 1, 28, 28)
    assert [path.name for path in tmp_path.iterdir()] == ["faces.zip"]


@pytest.mark.slow
def test_export_becomes_a_bundle_named_by_its_model(tmp_path: Path) -> None:
    source = sample_models.foreign_source({"name": "somebody's"})
    artifact, _ = vae_export.export(source, tmp_path / "out", parts=["decoder"])
    made = vae_export.bundle(tmp_path / "out", tmp_path / "b.zip")
    assert made.card.startswith("# somebody's\n")
    with pytest.raises(OutputExistsError):
        vae_export.bundle(artifact, tmp_path / "b.zip")
    assert vae_export.bundle(artifact, tmp_path / "b.zip", name="other", force=True).card.startswith("# other\n")


@pytest.mark.parametrize("content", [b"mine", b"P", b"PK\x03\x04" + bytes(26) + b"holiday.jpg"])
def test_file_that_is_no_bundle_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    out = tmp_path / "photos.zip"
    out.write_bytes(content)
    with pytest.raises(UsageError, match=r"not a bundle, so --force will not replace it: .*photos.zip; choose another"):
        vae_export.bundle(sample_models.checkpoint(), out, force=True)
    assert out.read_bytes() == content


@pytest.mark.parametrize(
    ("out", "key", "said"),
    [
        ("a.zip", "missing", "key cannot be read: .*missing; got No such file"),
        ("a.zip", "notes", "key cannot be read: .*notes; expected an Ed25519 private key"),
        ("notes/a.zip", None, "not a folder: .*notes"),
    ],
)
def test_what_cannot_be_signed_or_written_is_refused_before_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, key: str | None, said: str
) -> None:
    (tmp_path / "notes").write_text("mine")
    monkeypatch.setattr("vae_export.exporter.export", lambda *_, **__: pytest.fail("exported first"))
    with pytest.raises(VaeExportError, match=said):
        vae_export.bundle(sample_models.checkpoint(), tmp_path / out, sign_key=key and str(tmp_path / key))
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_wrong_model_leaves_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "b.zip").touch()
    with pytest.raises(
        OutputExistsError, match="output exists: .*b.zip; pass force=True to replace it, or another out"
    ):
        vae_export.bundle(sample_models.checkpoint(), tmp_path / "b.zip")
    assert (tmp_path / "b.zip").read_bytes() == b""
