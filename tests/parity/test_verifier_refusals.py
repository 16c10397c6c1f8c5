"""`verify` refuses exports, sources and targets it cannot verify, and restores global settings."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests import sample_models
from tests.conftest import Exported
from vae_export import Contract, Source, open_artifact, verify
from vae_export.artifact.manifest import MANIFEST
from vae_export.errors import IntegrityError, ModelError, TargetError, UsageError
from vae_export.io.atomic import sha256, write_atomic

#: Each verifies small exports, several seconds in all.
pytestmark = pytest.mark.slow

ONNX = "onnx/CPUExecutionProvider"


@pytest.fixture(scope="session")
def mlp(exported: Callable[[str], Exported]) -> Exported:
    return exported("mlp")


def test_altered_file_is_refused_with_its_path_and_both_hashes(mlp: Exported, tmp_path: Path) -> None:
    artifact = mlp.copied(tmp_path / "export")
    entry = artifact.entry("encoder", "pt2")
    path = artifact.folder / entry.name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError) as caught:
        verify(artifact, mlp.references, thorough=False)
    for said in (str(path), entry.sha256, sha256(bytes(data))):
        assert said in str(caught.value)


@pytest.mark.parametrize("name", ["autoencoder.onnx", "golden/latent.f32"])
def test_missing_file_is_named_before_any_is_compared(mlp: Exported, tmp_path: Path, name: str) -> None:
    artifact = mlp.copied(tmp_path / "export")
    (artifact.folder / name).unlink()
    said: list[str] = []
    with pytest.raises(IntegrityError, match=f"exported file cannot be read: .*{name}; got No such file"):
        verify(artifact, mlp.references, thorough=False, report=said.append)
    assert said == []


def test_grown_file_is_refused_before_it_fills_the_memory(mlp: Exported, tmp_path: Path) -> None:
    import os

    artifact = mlp.copied(tmp_path / "export")
    path = artifact.folder / "decoder.onnx"
    os.truncate(path, 1 << 42)  # sparse: larger than any memory, but empty on disk
    with pytest.raises(IntegrityError, match=r"was altered: .*decoder\.onnx; expected .*, got 4398046511104 bytes;"):
        verify(artifact, mlp.references, thorough=False)


def test_missing_engine_is_refused_with_its_install_command(mlp: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr("vae_export.formats.openvino.core", lambda: importlib.import_module("openvino"))
    with pytest.raises(TargetError, match=r"cannot be verified here: \w+\.openvino\.xml; got .*pip install") as caught:
        verify(mlp.artifact, mlp.references, thorough=False)
    assert caught.value.exit_code == 6


def test_file_that_crashed_an_engine_is_not_read_in_this_process(
    mlp: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "vae_export.parity.file_verifier.crash_check",
        lambda scenes, _: {(scene.name, scene.provider): "a process that died of SIGSEGV" for scene in scenes},
    )
    monkeypatch.setattr("vae_export.formats.openvino._read", lambda *_: pytest.fail("read"))
    with pytest.raises(TargetError, match=r"engine crashed: \w+\.openvino\.xml on openvino/CPU; .*SIGSEGV"):
        verify(mlp.artifact, mlp.references, targets=["openvino/CPU"], thorough=False)


@pytest.mark.parametrize("damage", ["missing", "link", "folder", "pipe"])
def test_missing_or_special_file_is_refused(mlp: Exported, tmp_path: Path, damage: str) -> None:
    import os

    artifact = mlp.copied(tmp_path / "export")
    path = artifact.folder / "decoder.onnx"
    path.rename(tmp_path / "real")
    if damage == "link":
        path.symlink_to(tmp_path / "real")
    elif damage == "folder":
        path.mkdir()
    elif damage == "pipe":
        os.mkfifo(path)
    with pytest.raises(IntegrityError, match=r"decoder\.onnx"):
        verify(artifact, mlp.references, thorough=False)


def test_export_of_another_checkpoint_is_refused(mlp: Exported) -> None:
    other = replace(mlp.source, provenance=dict(mlp.source.provenance) | {"checkpoint_sha256": "0" * 64})
    with pytest.raises(IntegrityError, match=f"export is of another checkpoint: .*; expected SHA-256 {'0' * 64}, got"):
        verify(mlp.artifact, other)


@pytest.mark.parametrize(
    "change", [{"data_range": (-1.0, 1.0), "likelihood": None}, {"latent_shape": (2, 2)}, {"data_shape": (1, 14, 56)}]
)
def test_manifest_with_another_contract_is_refused(mlp: Exported, tmp_path: Path, change: dict[str, object]) -> None:
    """Hosts trust the manifest: with a wrong range they would scale images wrongly."""
    artifact = mlp.copied(tmp_path / "export")
    contract: Contract = replace(mlp.source.contract, **change)  # type: ignore[arg-type]
    write_atomic(artifact.folder / MANIFEST, replace(artifact.manifest, contract=contract, golden=()).text)
    with pytest.raises(IntegrityError, match="export has another contract"):
        verify(open_artifact(artifact.folder), mlp.references)


def test_part_missing_from_the_source_is_refused(foreign: Exported) -> None:
    with pytest.raises(ModelError, match="nothing to compare with: encoder"):
        verify(foreign.artifact, replace(foreign.source, encoder=None), trust=True)


@pytest.mark.parametrize(
    ("target", "error", "code"),
    [
        ("onnx/CUDAExecutionProvider", TargetError, 6),
        ("onnx/TensorrtExecutionProvider", TargetError, 6),
        ("onnx/CpuExecutionProvider", TargetError, 6),
        ("torchscript/cuda", TargetError, 6),
        ("torchscript/toaster", TargetError, 6),
        ("pt2/cuda", TargetError, 6),
        ("pt2/toaster", TargetError, 6),
        ("onnx", UsageError, 2),
        ("onnx/", UsageError, 2),
        ("/cpu", UsageError, 2),
        ("", UsageError, 2),
        ("zip/cpu", UsageError, 2),
    ],
)
def test_unavailable_target_is_an_error_without_fallback(
    mlp: Exported, target: str, error: type[Exception], code: int
) -> None:
    if target in available_targets():
        pytest.skip(f"{target} is there")
    with pytest.raises(error) as caught:
        verify(mlp.artifact, mlp.references, targets=[target])
    assert caught.value.exit_code == code  # type: ignore[attr-defined]
    assert "\n" not in str(caught.value)


def available_targets() -> set[str]:
    from vae_export.cli import doctor

    return {target for state in doctor.examine().formats for target in state.targets}


def test_only_requested_targets_are_run(mlp: Exported) -> None:
    certificate = verify(mlp.artifact, mlp.references, targets=["torchscript/cpu"], thorough=False)
    assert certificate.passed
    assert {row.target for row in certificate.results} == {"torchscript/cpu"}
    assert all("torchscript" in name for name in certificate.files)


def test_file_in_an_unknown_precision_is_refused_or_listed_as_a_gap(mlp: Exported, tmp_path: Path) -> None:
    artifact = mlp.copied(tmp_path / "export")
    text = artifact.manifest.text.decode()
    (tmp_path / "export" / MANIFEST).write_text(_of_tomorrow(text))
    later = open_artifact(artifact.folder)
    with pytest.raises(TargetError, match=r"cannot be verified here: decoder\.onnx; .*got precision fp2"):
        verify(later, mlp.references)
    # Without provenance every file is checked for danger, which must skip unknown formats.
    certificate = verify(later, replace(mlp.source, provenance={}), targets=[ONNX], thorough=False)
    assert certificate.passed
    assert "decoder.onnx" in certificate.not_verified


def _of_tomorrow(manifest: str) -> str:
    """Return the manifest with the decoder in an unknown precision and format."""
    document = json.loads(manifest)
    files = [item for item in document["files"] if not item["name"].startswith("autoencoder")]
    kept = [item for item in files if item["format"] == "onnx"]
    for item in kept:
        if item["part"] == "decoder":
            item |= {"precision": "fp2", "format": "tomorrow"}
    golden = [item for item in document["golden"] if item["part"] != "autoencoder"]
    return json.dumps(document | {"files": kept, "golden": golden})


def test_export_without_files_does_not_pass(mlp: Exported, tmp_path: Path) -> None:
    write_atomic(tmp_path / MANIFEST, replace(mlp.artifact.manifest, files=(), golden=()).text)
    certificate = verify(open_artifact(tmp_path), mlp.references)
    assert not certificate.passed


def test_module_with_non_finite_outputs_is_refused(tmp_path: Path) -> None:
    from torch import nn

    from vae_export import export

    huge = sample_models.Lambda(lambda z: (z * 60).exp())
    decoder = nn.Sequential(huge, nn.Unflatten(1, (1, 2, 2)))
    source = Source(Contract((1, 2, 2), (4,), (0.0, 1.0)), decoder=decoder)
    with pytest.raises(ModelError, match="module gives numbers that are not finite: decoder, 'image', probe"):
        export(source, tmp_path / "out", formats=["torchscript"])
    assert not list(tmp_path.iterdir())


def test_module_that_overflows_for_data_without_a_range_is_answered_with_one(tmp_path: Path) -> None:
    from torch import nn

    from vae_export import export

    huge = nn.Sequential(nn.Flatten(), sample_models.Lambda(lambda x: ((x * 60).exp(), x)))
    source = Source(Contract((1, 2, 2), (4,), None), encoder=huge)
    said = "not finite: encoder, 'mean', probe .*; state what the data can be, such as --data-range -1,1"
    with pytest.raises(ModelError, match=said):
        export(source, tmp_path / "out", formats=["torchscript"])


def test_verify_restores_the_settings_of_the_caller(mlp: Exported) -> None:
    import os

    import torch

    def settings() -> tuple[object, ...]:
        return (
            torch.get_num_threads(),
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
            torch.is_grad_enabled(),
            torch.random.get_rng_state().tolist(),
            os.environ.get("NVIDIA_TF32_OVERRIDE"),
        )

    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        before = settings()
        verify(mlp.artifact, mlp.references, targets=[ONNX], thorough=False)
        assert settings() == before
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
