"""Files and manifests that were damaged, exchanged or taken from another model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import sample_models
from tests.parity.small_exports import Subject, assert_fails, tampered, verified
from vae_export import open_artifact, verify
from vae_export.artifact.manifest import MANIFEST, FileContent, FileEntry, Manifest
from vae_export.contract import Contract, Part
from vae_export.errors import IntegrityError, ModelError, VaeExportError
from vae_export.io.atomic import sha256

pytestmark = pytest.mark.slow

Subjects = Callable[..., Subject]
Outputs = dict[str, Any]


def test_decoder_of_another_checkpoint_fails(mlp: Subject, subject: Subjects, tmp_path: Path) -> None:
    data = subject("mlp", 1).data("decoder")
    certificate = verified(tampered(mlp, tmp_path / "e", {("decoder", "onnx"): data}), mlp.references)
    assert_fails(certificate)
    assert {row.output for row in certificate.failures} == {"image"}
    assert certificate.node_mismatches["decoder.onnx"].output == "linear"


def test_encoder_of_another_family_with_the_same_shapes_fails(mlp: Subject, subject: Subjects, tmp_path: Path) -> None:
    data = subject("blog").data("encoder")
    certificate = verified(tampered(mlp, tmp_path / "e", {("encoder", "onnx"): data}), mlp.references)
    assert_fails(certificate)
    assert {row.output for row in certificate.failures} == {"mean", "logvar"}


def test_exchanged_encoder_and_decoder_are_refused(mlp: Subject, tmp_path: Path) -> None:
    files: dict[tuple[Part, str], bytes] = {
        ("encoder", "onnx"): mlp.data("decoder"),
        ("decoder", "onnx"): mlp.data("encoder"),
    }
    with pytest.raises(ModelError, match="inputs do not match the contract: encoder"):
        verified(tampered(mlp, tmp_path / "e", files), mlp.references)


def test_export_of_another_checkpoint_is_refused(mlp: Subject, subject: Subjects) -> None:
    with pytest.raises(IntegrityError, match="export is of another checkpoint"):
        verified(subject("mlp", 1).artifact, mlp.references)


@pytest.mark.parametrize("place", np.linspace(0, 1, 24).tolist(), ids=lambda place: f"{place:.0%}")
def test_flipped_bit_is_an_integrity_error(mlp: Subject, place: float, tmp_path: Path) -> None:
    data = bytearray(mlp.data("decoder"))
    data[round(place * (len(data) - 1))] ^= 1 << round(7 * place)
    with pytest.raises(IntegrityError, match=r"exported file was altered: .*decoder\.onnx"):
        verified(tampered(mlp, tmp_path / "e", {("decoder", "onnx"): bytes(data)}, rehash=False), mlp.references)


@pytest.mark.parametrize("seed", range(24))
def test_flipped_bit_with_matching_hash_gives_an_error_or_a_verdict(mlp: Subject, seed: int, tmp_path: Path) -> None:
    """Whether the graph or a weight is hit, there is no traceback, and it passes only if every row passes."""
    data = bytearray(mlp.data("decoder"))
    rng = np.random.default_rng(seed)
    # Half of the seeds hit the graph, because weights are most of the file.
    structure = [i for i in range(len(data)) if i < 300 or i > len(data) - 700]
    position = int(rng.choice(structure)) if seed % 2 else int(rng.integers(len(data)))
    data[position] ^= 1 << int(rng.integers(8))
    artifact = tampered(mlp, tmp_path / "e", {("decoder", "onnx"): bytes(data)})
    with contextlib.suppress(VaeExportError):  # its message is always one line
        certificate = verified(artifact, mlp.references)
        certificate.write(tmp_path / "certificate.json")
        assert certificate.passed == all(row.passed for row in certificate.results) & (not certificate.errors)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut short": lambda data: data[:-100],
    "half": lambda data: data[: len(data) // 2],
    "text": lambda _: b"this is no model\n" * 100,
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("format", sample_models.QUICK)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file_is_refused(mlp: Subject, format: str, damage: str, tmp_path: Path) -> None:
    data = DAMAGES[damage](mlp.data("decoder", format))
    files: dict[tuple[Part, str], bytes] = {("decoder", format): data}
    with pytest.raises(IntegrityError, match="altered"):
        verified(tampered(mlp, tmp_path / "old hash", files, rehash=False), mlp.references)
    with pytest.raises(ModelError, match=r"not a readable|cannot be opened"):
        verified(tampered(mlp, tmp_path / "new hash", files), mlp.references)


def test_missing_file_is_refused(mlp: Subject, tmp_path: Path) -> None:
    artifact = tampered(mlp, tmp_path / "e", {("decoder", "onnx"): mlp.data("decoder")})
    (artifact.folder / "decoder.onnx").unlink()
    with pytest.raises(IntegrityError, match=r"cannot be read: .*; got No such file"):
        verified(artifact, mlp.references)


def test_link_in_place_of_a_file_is_refused(mlp: Subject, tmp_path: Path) -> None:
    artifact = tampered(mlp, tmp_path / "e", {("decoder", "onnx"): mlp.data("decoder")})
    path = artifact.folder / "decoder.onnx"
    path.unlink()
    path.symlink_to(mlp.artifact.folder / "decoder.onnx")
    with pytest.raises(IntegrityError, match="is a link"):
        verified(artifact, mlp.references)


def with_manifest(mlp: Subject, folder: Path, change: Callable[[Manifest], Manifest]) -> Any:
    artifact = tampered(mlp, folder, {("decoder", "onnx"): mlp.data("decoder")})
    (folder / MANIFEST).write_bytes(change(replace(artifact.manifest, golden=())).text)
    return open_artifact(folder)


def entries(**changes: object) -> Callable[[Manifest], Manifest]:
    return lambda manifest: replace(manifest, files=tuple(replace(entry, **changes) for entry in manifest.files))  # type: ignore[arg-type]


MANIFESTS: dict[str, tuple[Callable[[Manifest], Manifest], type[VaeExportError], str]] = {
    "another hash": (entries(sha256=sha256(b"")), IntegrityError, "altered"),
    "another part": (entries(part="encoder"), ModelError, "inputs do not match the contract"),
    "another format": (entries(format="pt2"), ModelError, "not a readable pt2 file"),
    "an unknown format": (entries(format="tflite"), IntegrityError, "unknown format"),
    "a file that is not there": (entries(name="decoder-2.onnx"), IntegrityError, "cannot be read"),
    "another range of images": (
        lambda manifest: replace(
            manifest, contract=replace(manifest.contract, data_range=(-1.0, 1.0), likelihood=None)
        ),
        IntegrityError,
        "another contract",
    ),
    "another latent": (
        lambda manifest: replace(manifest, contract=Contract(manifest.contract.image_shape, (5,))),
        IntegrityError,
        "another contract",
    ),
    "another checkpoint": (
        lambda manifest: replace(manifest, provenance={"checkpoint_sha256": sha256(b"")}),
        IntegrityError,
        "another checkpoint",
    ),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_altered_manifest_is_refused(mlp: Subject, name: str, tmp_path: Path) -> None:
    change, error, text = MANIFESTS[name]
    artifact = with_manifest(mlp, tmp_path / "e", change)
    with pytest.raises(error, match=text):
        verify(artifact, mlp.references, thorough=False, trust=True)


def test_manifest_with_another_opset_fails(mlp: Subject, tmp_path: Path) -> None:
    artifact = with_manifest(mlp, tmp_path / "e", lambda manifest: replace(manifest, opset=18))
    certificate = verified(artifact, mlp.references)
    assert_fails(certificate)
    assert [finding.rule for finding in certificate.errors] == ["opset"]


def test_manifest_without_files_fails(mlp: Subject, tmp_path: Path) -> None:
    artifact = with_manifest(mlp, tmp_path / "e", lambda manifest: replace(manifest, files=()))
    certificate = verify(artifact, mlp.references)
    assert_fails(certificate)
    assert certificate.results == ()


def test_manifest_naming_a_file_outside_the_folder_is_refused(mlp: Subject, tmp_path: Path) -> None:
    entry = FileEntry.of("../decoder.onnx", "decoder", "onnx", FileContent(mlp.data("decoder")))
    with pytest.raises(IntegrityError, match="file name is not allowed"):
        with_manifest(mlp, tmp_path / "e", lambda manifest: replace(manifest, files=(entry,)))
