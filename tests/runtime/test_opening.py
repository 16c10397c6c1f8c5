"""The runtime opens the file that the manifest names, on the requested provider, or raises an error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.conftest import Exported
from tests.runtime.conftest import latents
from vae_export import Artifact, load
from vae_export.artifact.manifest import MANIFEST
from vae_export.contract import Contract
from vae_export.errors import IntegrityError, ModelError, TargetError, UsageError, VaeExportError
from vae_export.io.atomic import sha256
from vae_export.runtime.session import Session


def test_altered_file_never_reaches_onnx_runtime(
    mlp: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = mlp.copied(tmp_path / "export")
    path = artifact.folder / "decoder.onnx"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    opened: list[bytes] = []
    real = onnxruntime.InferenceSession

    def recorded(data: bytes, *arguments: object, **options: object) -> object:
        opened.append(data)
        return real(data, *arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", recorded)
    model = load(artifact.folder)
    with pytest.raises(IntegrityError, match=r"exported file was altered: .*decoder\.onnx; expected .* with SHA-256"):
        model.decode(latents(1))
    assert opened == []
    model.encode(np.zeros((1, 1, 28, 28), np.float32))
    assert len(opened) == 1, "the recorder works"


def test_run_folder_is_answered_with_its_export(mlp: Exported, tmp_path: Path) -> None:
    artifact = mlp.copied(tmp_path / "run" / "export")
    with pytest.raises(ModelError, match=rf"no export found: {tmp_path}/run; .*; pass {artifact.folder}$"):
        load(tmp_path / "run")
    with pytest.raises(ModelError, match=r"no export found: .*; run: vae-export export$"):
        load(tmp_path)


def test_unknown_part_is_named_with_the_known_ones(mlp: Exported) -> None:
    model = load(mlp.folder)
    for call in (lambda: model.run("head"), lambda: model.running("head")):  # type: ignore[arg-type]
        with pytest.raises(ModelError, match=r"unknown part; expected encoder \| decoder \| .*, got head"):
            call()


@pytest.mark.parametrize("provider", ["CPU", "cpu", "CPUExecutionProvider"])
def test_provider_may_be_written_short(mlp: Exported, provider: str) -> None:
    assert "CPUExecutionProvider" in str(load(mlp.folder, provider=provider).running("decoder"))


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "CudaExecutionProvider", ""])
def test_missing_provider_is_an_error_without_fallback(mlp: Exported, provider: str) -> None:
    if provider in onnxruntime.get_available_providers():
        pytest.skip(f"{provider} is there")
    with pytest.raises(TargetError, match="provider not found: .*expected .*CPUExecutionProvider"):
        load(mlp.folder, provider=provider).decode(latents(1))


@pytest.mark.parametrize("change", [{"latent_shape": (5,)}, {"latent_shape": (2, 2)}, {"data_shape": (1, 14, 56)}])
def test_file_unlike_its_manifest_is_refused(mlp: Exported, tmp_path: Path, change: dict[str, object]) -> None:
    artifact = mlp.copied(tmp_path / "export")
    contract: Contract = replace(mlp.source.contract, **change)  # type: ignore[arg-type]
    (artifact.folder / MANIFEST).write_bytes(replace(artifact.manifest, contract=contract, golden=()).text)
    model = load(artifact.folder)
    latent = np.zeros((1, *contract.latent_shape), np.float32)
    with pytest.raises(ModelError, match="do not match the contract: decoder; expected"):
        model.decode(latent)


def replace_decoder(artifact: Artifact, data: bytes) -> None:
    """Put other bytes in the place of the decoder, with their hash in the manifest."""
    (artifact.folder / "decoder.onnx").write_bytes(data)
    files = (
        replace(one, size=len(data), sha256=sha256(data)) if one.name == "decoder.onnx" else one
        for one in artifact.manifest.files
    )
    (artifact.folder / MANIFEST).write_bytes(replace(artifact.manifest, files=tuple(files)).text)


@pytest.mark.parametrize(
    ("key", "old", "new", "said"),
    [
        ("part", "decoder", "encoder", "file is of another part: decoder.onnx; expected decoder, got encoder"),
        ("contract", '"range": [0.0, 1.0]', '"range": [-1.0, 1.0]', "file states another contract than the manifest"),
        ("provenance", '"checkpoint_sha256": "', '"checkpoint_sha256": "0', "file states another provenance than the"),
        ("contract", "{", "no JSON {", "contract cannot be read: decoder.onnx, metadata"),
    ],
)
def test_file_that_states_something_else_than_its_manifest_is_refused(
    mlp: Exported, tmp_path: Path, key: str, old: str, new: str, said: str
) -> None:
    artifact = mlp.copied(tmp_path / "export")
    model = onnx.load_from_string(mlp.data("decoder"))
    [entry] = [entry for entry in model.metadata_props if entry.key == f"vae_export.{key}"]
    assert old in entry.value
    entry.value = entry.value.replace(old, new, 1)
    replace_decoder(artifact, model.SerializeToString())
    with pytest.raises(IntegrityError, match=said) as error:
        load(artifact.folder).decode(latents(1))
    assert error.value.exit_code == 4


def test_file_without_metadata_is_run(mlp: Exported, tmp_path: Path) -> None:
    artifact = mlp.copied(tmp_path / "export")
    model = onnx.load_from_string(mlp.data("decoder"))
    model.ClearField("metadata_props")
    replace_decoder(artifact, model.SerializeToString())
    assert load(artifact.folder).decode(latents(2)).shape[0] == 2


@pytest.mark.parametrize("data", [b"", b"no onnx", b"\x08\x08\x12\x00" * 50])
def test_invalid_onnx_bytes_are_refused_in_one_line(mlp: Exported, data: bytes) -> None:
    with pytest.raises(ModelError) as caught:
        Session(data, mlp.source.contract.spec("decoder"))
    assert "\n" not in str(caught.value)


def test_missing_part_is_refused_by_name(mlp: Exported, tmp_path: Path) -> None:
    artifact = mlp.copied(tmp_path / "export")
    files = tuple(entry for entry in artifact.manifest.files if entry.part != "encoder")
    (artifact.folder / MANIFEST).write_bytes(replace(artifact.manifest, files=files, golden=()).text)
    with pytest.raises(ModelError, match=r"export has no such file: encoder, onnx, fp32; expected decoder\.onnx"):
        load(artifact.folder).encode(np.zeros((1, 1, 28, 28), np.float32))


def test_file_compiled_for_one_machine_is_never_run(mlp: Exported, tmp_path: Path) -> None:
    artifact = mlp.copied(tmp_path / "export")
    first, *others = artifact.manifest.files
    files = (*others, replace(first, machine="linux x86_64 AVX2"))
    (artifact.folder / MANIFEST).write_bytes(replace(artifact.manifest, files=files).text)
    model = load(artifact.folder)
    assert first.part not in model.parts
    assert {comparison.part for comparison in model.self_test().outputs} == {
        entry.part for entry in others if entry.format == "onnx"
    }
    said = rf"file is for one machine: {first.name}; expected an ONNX file for any machine, got linux x86_64 AVX2"
    with pytest.raises(ModelError, match=said):
        model.run(first.part)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "no such file or folder: .*; expected a bundle, or the folder of an export; check the path"),
        ("file", "not a bundle: .*; expected a ZIP file"),
        ("folder", r"no export found: .*; expected manifest\.json"),
    ],
)
def test_path_without_export_is_refused(tmp_path: Path, kind: str, said: str) -> None:
    if kind == "file":
        (tmp_path / kind).touch()
    elif kind == "folder":
        (tmp_path / kind).mkdir()
    with pytest.raises(VaeExportError, match=said):
        load(tmp_path / kind)


@pytest.mark.parametrize("option", ["threads", "batch_size"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
def test_bad_option_is_refused(mlp: Exported, option: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"bad {option}; expected an integer from 1 "):
        load(mlp.folder, **{option: value})  # type: ignore[arg-type]


def test_excessive_thread_count_is_refused(mlp: Exported) -> None:
    """ONNX Runtime would start them."""
    with pytest.raises(UsageError, match="bad threads; expected an integer from 1 to 1,024, got 20000"):
        load(mlp.folder, threads=20_000)


def test_unreadable_path_is_refused() -> None:
    with pytest.raises(ModelError, match=r"path cannot be read: a{60}…; expected .*, got File name too long; check"):
        load("a" * 5000)


def test_repr_names_parts_shapes_precision_and_provider(mlp: Exported) -> None:
    lines = repr(load(mlp.folder, threads=2)).splitlines()
    assert (lines[0], lines[-1]) == ("Model(", ")")
    assert lines[1:-1] == [
        "  encoder: image (N, 1, 28, 28) in [0, 1] → mean (N, 4), logvar (N, 4); fp32, CPUExecutionProvider, 2 threads",
        "  decoder: latent (N, 4) → image (N, 1, 28, 28) in [0, 1]; fp32, CPUExecutionProvider, 2 threads",
        "  autoencoder: image (N, 1, 28, 28) in [0, 1], noise (N, 4) → reconstruction (N, 1, 28, 28) in [0, 1], "
        "mean (N, 4), logvar (N, 4), latent (N, 4); fp32, CPUExecutionProvider, 2 threads",
    ]
