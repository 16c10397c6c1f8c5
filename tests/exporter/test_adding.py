"""Files are added to an export: verified with the others, and published together or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests import sample_models
from tests.commands import tree
from tests.exporter.conftest import Toy
from vae_export import Source, export, open_artifact
from vae_export.artifact.certificate import read_certificate
from vae_export.errors import ModelError, ParityError, UsageError


@pytest.fixture
def out(source: Source, tmp_path: Path) -> Path:
    export(source, tmp_path / "out")
    return tmp_path / "out"


def names(out: Path) -> set[str]:
    return {entry.name for entry in open_artifact(out).manifest.files}


@pytest.mark.slow
@pytest.mark.usefixtures("toy")
def test_format_precision_and_byte_decoder_join_what_is_there(source: Source, out: Path) -> None:
    before = (out / "decoder.onnx").read_bytes()
    (out / "timings.json").write_text("{}")
    export(source, out, formats=["toy"], add=True)
    export(source, out, precisions=["int8"], add=True)
    artifact, certificate = export(source, out, pixels=["uint8-hwc"], add=True)
    everything = {"decoder.onnx", "decoder.toy", "decoder.int8.onnx", "decoder-uint8-hwc.onnx"}
    assert names(out) == {entry.name for entry in artifact.manifest.files} == everything
    assert (out / "decoder.onnx").read_bytes() == before
    assert (out / "timings.json").exists()
    targets = {result.target.partition("/")[0] for result in certificate.results}
    assert targets >= {"onnx", "toy", "onnx+int8"}
    assert read_certificate(artifact.certificate).document["verdict"] == "pass"


def test_added_file_that_is_wrong_changes_nothing(toy: Toy, source: Source, out: Path) -> None:
    before = tree(out)
    toy.wrong = 0.1
    with pytest.raises(ParityError):
        export(source, out, formats=["toy"], add=True)
    assert tree(out) == before


@pytest.mark.slow
@pytest.mark.usefixtures("toy")
def test_files_of_another_model_or_opset_are_refused(source: Source, out: Path) -> None:
    other = Source.of(sample_models.checkpoint("mlp", (1, 4, 4), seed=1))
    other = replace(other, encoder=None, provenance={**other.provenance, "checkpoint_sha256": "0" * 64})
    with pytest.raises(UsageError, match="files cannot be added.*got another model"):
        export(other, out, formats=["toy"], add=True)
    with pytest.raises(UsageError, match="got another ONNX opset"):
        export(source, out, opset=19, precisions=["int8"], add=True)
    assert names(out) == {"decoder.onnx"}


def test_nothing_is_added_to_a_folder_that_is_no_export(source: Source, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        export(source, tmp_path / "out", add=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("toy")
def test_thorough_certificate_stays_thorough_or_its_loss_is_said(source: Source, out: Path) -> None:
    torch.set_num_threads(1)
    export(source, out, formats=["toy"], thorough=True, force=True)
    _, certificate = export(source, out, formats=["onnx"], add=True)
    assert certificate.environment["thorough"] is True
    said: list[str] = []
    export(source, out, formats=["toy"], force=True, report=said.append)
    assert [line for line in said if line.startswith("note: replaces a thorough certificate")]
