"""Formats of several files: what lies beside a file is hashed, certified, packed and missed like the file itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.commands import Invoke
from tests.conftest import Exported
from vae_export import verify
from vae_export.artifact.certificate import read_certificate
from vae_export.artifact.folder import read_content
from vae_export.artifact.manifest import FileContent
from vae_export.errors import IntegrityError, ModelError

NAME, WEIGHTS = "decoder.openvino.xml", "decoder.openvino.bin"


def test_content_lists_file_before_sidecars() -> None:
    assert FileContent(b"data").by_name("decoder.onnx") == {"decoder.onnx": b"data"}
    files = FileContent(b"graph", {".bin": b"weights"}).by_name(NAME)
    assert list(files.items()) == [(NAME, b"graph"), (WEIGHTS, b"weights")]


def test_manifest_and_certificate_name_the_sidecar(mlp: Exported) -> None:
    entry = mlp.artifact.entry("decoder", "openvino")
    assert [stored.name for stored in entry.stored] == [NAME, WEIGHTS]
    files = read_certificate(mlp.artifact.certificate).document["files"]
    assert {stored.name: stored.sha256 for stored in entry.stored}.items() <= files.items()


def test_manifest_omits_beside_for_files_without_sidecars(mlp: Exported) -> None:
    document = json.loads(mlp.artifact.manifest.text)
    assert {entry["format"] for entry in document["files"] if "beside" in entry} == {"openvino"}


def test_flipped_bit_in_the_sidecar_is_named(mlp: Exported, tmp_path: Path) -> None:
    """OpenVINO itself would run them without a word."""
    artifact = mlp.copied(tmp_path / "export")
    weights = bytearray((artifact.folder / WEIGHTS).read_bytes())
    weights[1000] ^= 1
    (artifact.folder / WEIGHTS).write_bytes(weights)
    with pytest.raises(IntegrityError, match=rf"altered: .*{WEIGHTS}; expected"):
        read_content(artifact, artifact.entry("decoder", "openvino"))
    with pytest.raises(IntegrityError, match=WEIGHTS):
        verify(artifact, mlp.source, targets=["openvino/CPU"], thorough=False)


@pytest.mark.parametrize("change", ["removed", "a link"])
def test_weights_that_are_not_there_are_named(mlp: Exported, tmp_path: Path, change: str) -> None:
    artifact = mlp.copied(tmp_path / "export")
    path = artifact.folder / WEIGHTS
    path.rename(tmp_path / "elsewhere")
    if change == "a link":
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match=WEIGHTS) as caught:
        read_content(artifact, artifact.entry("decoder", "openvino"))
    assert change == "a link" or "; export again" in str(caught.value)


def test_certificate_of_another_sidecar_is_refused(mlp: Exported) -> None:
    certificate = read_certificate(mlp.artifact.certificate)
    certificate.require(mlp.artifact.manifest, "here")
    certificate.document["files"][WEIGHTS] = "0" * 64
    with pytest.raises(IntegrityError, match=rf"certificate belongs to another file: here, {WEIGHTS}"):
        certificate.require(mlp.artifact.manifest, "here")


def test_graph_without_its_sidecar_is_refused(mlp: Exported) -> None:
    from vae_export.formats import FORMATS
    from vae_export.session_options import SessionOptions

    alone = FileContent(mlp.artifact.read(mlp.artifact.entry("decoder", "openvino")))
    with pytest.raises(ModelError, match="without its weights: decoder; expected a .bin file beside it"):
        FORMATS["openvino"].open(alone, mlp.source.contract.spec("decoder"), SessionOptions("CPU", threads=1))


@pytest.mark.slow
def test_single_file_is_verified_with_its_sidecar(mlp: Exported, invoke: Invoke, tmp_path: Path) -> None:
    given = ("verify", "--checkpoint", mlp.checkpoint, "--file", tmp_path / NAME, "--part", "decoder", "--quick")
    shutil.copy(mlp.folder / NAME, tmp_path)
    refused = invoke(*given)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "a file in format openvino is checked by nobody before OpenVINO parses it" in refused.err
    alone = invoke(*given, "--trust")
    assert (alone.code, f"not a plain file: {tmp_path / WEIGHTS}" in alone.err) == (3, True)
    shutil.copy(mlp.folder / WEIGHTS, tmp_path)
    assert invoke(*given, "--trust").code == 0
