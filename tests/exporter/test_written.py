"""The files of an export are exactly those that its manifest and certificate name."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests import sample_models
from tests.commands import run_cli, tree
from tests.conftest import Exported
from vae_export import Source, export, load_checkpoint, open_artifact, save_checkpoint, verify
from vae_export.exporter import Stopwatch
from vae_export.io.atomic import sha256


def test_force_replaces_a_whole_export(source: Source, tmp_path: Path, mlp: Exported) -> None:
    old = mlp.copied(tmp_path / "out")
    assert len(old.manifest.files) == 3 * len(sample_models.QUICK)
    export(source, tmp_path / "out", formats=["torchscript"], force=True)
    assert sorted(tree(tmp_path / "out")) == [
        "certificate.html",
        "certificate.json",
        "decoder.torchscript.pt",
        "golden",
        "golden/decoder.image.f32",
        "golden/latent.f32",
        "manifest.json",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_one_part_alone_has_the_same_bytes_as_among_others(mlp: Exported, tmp_path: Path) -> None:
    artifact, _ = export(mlp.source, tmp_path / "out", formats=["pt2", "onnx"], parts=["decoder"])
    for format in ("onnx", "pt2"):
        assert artifact.entry("decoder", format) == mlp.artifact.entry("decoder", format)


def test_manifest_states_size_and_hash_of_every_file(mlp: Exported) -> None:
    manifest = json.loads((mlp.folder / "manifest.json").read_text())
    assert manifest["format"] == "vae-export/1"
    golden = {array["file"] for part in manifest["golden"] for array in (*part["inputs"], *part["outputs"])}
    stored = [stored for entry in manifest["files"] for stored in (entry, *entry.get("beside", ()))]
    assert {item["name"] for item in stored} | golden == set(tree(mlp.folder)) - {
        "certificate.html",
        "certificate.json",
        "golden",
        "manifest.json",
    }
    for item in stored:
        data = (mlp.folder / item["name"]).read_bytes()
        assert (item["size"], item["sha256"]) == (len(data), sha256(data))
    for entry in manifest["files"]:
        assert entry["inputs"] == mlp.source.contract.spec(entry["part"]).to_json()["inputs"]
    assert mlp.checkpoint is not None
    assert manifest["provenance"]["checkpoint_sha256"] == sha256(mlp.checkpoint)


def test_certificate_names_every_file_and_passes(mlp: Exported) -> None:
    certificate = json.loads((mlp.folder / "certificate.json").read_text())
    assert certificate["verdict"] == "pass"
    assert certificate["files"] == {stored.name: stored.sha256 for stored in mlp.artifact.manifest.stored}
    assert {row["target"].split("/")[0] for row in certificate["rows"]} == set(sample_models.QUICK)
    assert {row["probe"] for row in certificate["rows"]} >= {"prior", "posterior", "data", "zeros", "six-sigma"}
    assert all(row["passed"] for row in certificate["rows"])


def test_manifest_and_certificate_do_not_name_this_machine(mlp: Exported) -> None:
    from tests.formats.test_formats import traces

    for name in ("manifest.json", "certificate.json"):
        assert traces((mlp.folder / name).read_bytes()) == []


@pytest.mark.slow
def test_checkpoint_alone_can_be_exported(tmp_path: Path) -> None:
    path = tmp_path / "some where" / os.fsdecode(b"caf\xe9.safetensors")
    save_checkpoint(sample_models.checkpoint("mlp", (1, 4, 4)), path)
    result = run_cli(
        "export", "--checkpoint", path, "--format", "torchscript", "--part", "decoder", "--json", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["verdict"] == "pass"
    artifact = open_artifact(document["folder"])
    assert artifact.folder == path.parent / "export"
    assert document["manifest"] == artifact.manifest.to_json()
    assert verify(artifact, load_checkpoint(path)).passed


def test_seconds_inside_a_lap_are_those_of_the_inner_one() -> None:
    watch = Stopwatch()
    with watch.lap("capture"), watch.lap("onnx"):
        time.sleep(0.05)
    assert list(watch.seconds) == ["capture", "onnx"]
    assert watch.seconds["capture"] < 0.02 < 0.05 <= watch.seconds["onnx"]
