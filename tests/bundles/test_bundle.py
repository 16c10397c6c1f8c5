"""A bundle returns the files that were packed, in the form that docs/bundle-format.md specifies."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.commands import ROOT, run_cli
from tests.conftest import PACKED, Exported
from vae_export import Source, export, load, open_artifact
from vae_export.artifact.certificate import StoredCertificate, parse_certificate, read_certificate
from vae_export.bundles import open_bundle
from vae_export.bundles.archive import read_archive, write_archive
from vae_export.bundles.model_card import model_card
from vae_export.bundles.writer import pack
from vae_export.errors import InputError, IntegrityError, ModelError, ParityError, UsageError
from vae_export.likelihood import Likelihood, LikelihoodName
from vae_export.models import VAE, VAEConfig


@pytest.fixture
def path(packed: bytes, tmp_path: Path) -> Path:
    file = tmp_path / "small.zip"
    file.write_bytes(packed)
    return file


def certificate_of(mlp: Exported) -> StoredCertificate:
    return read_certificate(mlp.artifact.certificate)


def test_equal_contents_give_equal_bytes(mlp: Exported, packed: bytes) -> None:
    again = pack(mlp.artifact, certificate_of(mlp), name="small", formats=PACKED)
    assert again == packed
    assert pack(mlp.artifact, certificate_of(mlp), name="other", formats=PACKED) != packed


def test_entries_match_the_specification(path: Path, mlp: Exported) -> None:
    names = list(open_bundle(path).files)
    assert names[:2] == ["SHA256SUMS", "manifest.json"]
    assert names[-3:] == ["certificate.json", "MODEL_CARD.md", "LICENSE"]
    chosen = [entry for entry in mlp.artifact.manifest.files if entry.format in PACKED]
    models = [stored.name for entry in chosen for stored in entry.stored]
    assert {"decoder.onnx", "decoder.torchscript.pt", "decoder.openvino.xml", "decoder.openvino.bin"} <= set(models)
    assert names[2 : 2 + len(models)] == models
    assert all(name.startswith("golden/") for name in names[2 + len(models) : -3])
    assert open_bundle(path).read(mlp.artifact.entry("decoder")) == mlp.artifact.read(mlp.artifact.entry("decoder"))


def test_any_zip_library_reads_it(path: Path) -> None:
    opened = open_bundle(path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == list(opened.files)
        assert all(archive.read(name) == data for name, data in opened.files.items())
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_unpacked_bundle_is_an_export_with_valid_hashes(path: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "unpacked")
    check = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    assert subprocess.run(check, cwd=tmp_path / "unpacked", capture_output=True, check=False).returncode == 0
    assert open_artifact(tmp_path / "unpacked").manifest == open_bundle(path).manifest
    load(tmp_path / "unpacked").self_test().require()


def test_its_identity_is_the_hash_of_its_list_of_hashes(path: Path) -> None:
    opened = open_bundle(path)
    assert opened.identity == hashlib.sha256(opened.files["SHA256SUMS"]).hexdigest()


def test_archive_round_trips() -> None:
    files = {"a": b"", "b/c.txt": b"x" * 1000, "B1": bytes(range(256))}
    assert {name: bytes(data) for name, data in read_archive(write_archive(files), "here").items()} == files
    assert read_archive(write_archive({"a": b""}), "here") == {"a": b""}


@pytest.mark.parametrize("name", ["../a", "/a", "a\\b", "", ".", ".a", "a/b/c", "a.", "é", "a b", "x" * 101, "a\0"])
def test_unsafe_entry_name_is_never_written(name: str) -> None:
    with pytest.raises(IntegrityError, match="file name is not allowed"):
        write_archive({name: b""})


def test_names_differing_only_in_case_are_refused() -> None:
    with pytest.raises(IntegrityError, match="two files have one name: LICENSE; got license"):
        write_archive({"license": b"", "LICENSE": b""})


def test_only_what_was_asked_for_is_packed(mlp: Exported, tmp_path: Path) -> None:
    data = pack(mlp.artifact, certificate_of(mlp), name="decoder", formats=["onnx"], parts=["decoder"])
    (tmp_path / "decoder.zip").write_bytes(data)
    opened = open_bundle(tmp_path / "decoder.zip")
    assert [entry.name for entry in opened.manifest.files] == ["decoder.onnx"]
    assert [part.part for part in opened.manifest.golden] == ["decoder"]
    model = load(tmp_path / "decoder.zip")
    assert model.self_test().passed
    with pytest.raises(ModelError, match=r"export has no such file: encoder, onnx, fp32; expected decoder\.onnx"):
        model.encode(model.sample(1))


@pytest.mark.parametrize(
    ("chosen", "said"),
    [({"formats": ["tflite"]}, "format"), ({"parts": ["prior"]}, "part"), ({"precisions": ["int8"]}, "precision")],
)
def test_parts_missing_from_the_export_are_refused(mlp: Exported, chosen: dict[str, list[str]], said: str) -> None:
    with pytest.raises(UsageError, match=f"export has no such {said}; expected .*; run: vae-export export --{said}"):
        pack(mlp.artifact, certificate_of(mlp), name="x", **chosen)  # type: ignore[arg-type]


def test_failed_certificate_cannot_be_bundled(mlp: Exported) -> None:
    document = json.loads(certificate_of(mlp).data) | {"verdict": "fail"}
    failed = parse_certificate(json.dumps(document).encode(), "here")
    with pytest.raises(ParityError, match="certificate did not pass"):
        pack(mlp.artifact, failed, name="x")


def test_certificate_of_other_files_cannot_be_bundled(mlp: Exported) -> None:
    document = json.loads(certificate_of(mlp).data)
    document["files"]["decoder.onnx"] = "0" * 64
    other = parse_certificate(json.dumps(document).encode(), "here")
    with pytest.raises(IntegrityError, match=r"certificate belongs to another file: .*decoder\.onnx"):
        pack(mlp.artifact, other, name="x")
    del document["files"]["decoder.onnx"]
    with pytest.raises(IntegrityError, match="nothing about it"):
        pack(mlp.artifact, parse_certificate(json.dumps(document).encode(), "here"), name="x")


def test_export_without_golden_vectors_cannot_be_bundled(mlp: Exported) -> None:
    bare = replace(mlp.artifact, manifest=replace(mlp.artifact.manifest, golden=()))
    with pytest.raises(ModelError, match="export has no golden vectors: .*; export again"):
        pack(bare, certificate_of(mlp), name="x")


def test_altered_file_cannot_be_bundled(mlp: Exported, tmp_path: Path) -> None:
    artifact = mlp.copied(tmp_path / "export")
    golden = artifact.folder / "golden" / "latent.f32"
    golden.write_bytes(golden.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(IntegrityError, match=r"exported file was altered: .*golden/latent\.f32"):
        pack(artifact, certificate_of(mlp), name="x")


def test_linked_golden_folder_is_refused(mlp: Exported, tmp_path: Path) -> None:
    artifact = mlp.copied(tmp_path / "export")
    shutil.move(artifact.folder / "golden", tmp_path / "elsewhere")
    (artifact.folder / "golden").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="exported file is a link or a device"):
        pack(artifact, certificate_of(mlp), name="x")


def test_model_card_answers_common_questions(path: Path) -> None:
    card = open_bundle(path).card
    for text in (
        "# small",
        "(N, 1, 28, 28), values in [0, 1]",
        "protocol `grey`",
        "| decoder | `onnx/CPU",
        "no signature",
    ):
        assert text in card
    assert "comparisons" in card
    assert "Lower precision" not in card


def test_model_card_states_degradation_and_tolerance(mlp: Exported) -> None:
    known = certificate_of(mlp)
    pixels = {"part": "decoder", "target": "onnx+int8/CPU", "worst_levels": 12, "mean_levels": 0.28}
    cost = {**pixels, "nats": 0.02, "nats_low": -0.018, "nats_high": 0.059}
    document = {**known.document, "drift": [cost]}
    card = model_card("x", mlp.artifact.manifest, StoredCertificate(known.data, document))
    assert "| decoder | `onnx+int8/CPU` | 12 | 0.28 | +0.020 (-0.018 to +0.059) |" in card
    unknown = {**dict.fromkeys(cost), "part": "decoder", "target": "onnx+int8/CPU"}  # the finding `no-drift`
    card = model_card("x", mlp.artifact.manifest, StoredCertificate(known.data, {**document, "drift": [unknown]}))
    assert "| decoder | `onnx+int8/CPU` | — | — | — |" in card
    rows = [line for line in card.splitlines() if line.startswith("| scores of real images |")]
    assert rows, card
    assert all(re.fullmatch(r".* nats \| \d+% \|", row) for row in rows)


def test_certificate_unfit_for_card_is_one_line_error(mlp: Exported) -> None:
    known = certificate_of(mlp)
    wrong = StoredCertificate(known.data, {**known.document, "drift": ["free"]})
    with pytest.raises(IntegrityError, match="certificate cannot be read: .*certificate.json; got "):
        pack(mlp.artifact, wrong, name="x")


@pytest.mark.slow
def test_card_and_inspection_name_custom_tolerance(mlp: Exported, tmp_path: Path) -> None:
    """The card must state a custom tolerance, because with --atol 1000 any file passes."""
    known = certificate_of(mlp)
    document = {**known.document, "tolerance": {"atol": 1000.0, "rtol": 0.0}}
    loose = StoredCertificate(json.dumps(document).encode(), document)
    (tmp_path / "x.zip").write_bytes(pack(mlp.artifact, loose, name="x", formats=["onnx"]))
    opened = open_bundle(tmp_path / "x.zip")
    assert "The tolerance was set by the maker (atol 1000.0, rtol 0.0)" in opened.card
    seen = run_cli("inspect", str(tmp_path / "x.zip"), cwd=tmp_path)
    assert "within the maker's own tolerance: atol 1000.0, rtol 0.0" in " ".join(seen.stdout.split())
    assert "own" not in model_card("x", mlp.artifact.manifest, known).partition("## Files")[0]


def test_notes_page_and_licence_travel_along(mlp: Exported, tmp_path: Path) -> None:
    data = pack(mlp.artifact, certificate_of(mlp), name="x", page=b"<p>", notes="For *tests*.\n", licence="Mine.\n")
    (tmp_path / "x.zip").write_bytes(data)
    opened = open_bundle(tmp_path / "x.zip")
    assert opened.card.endswith("## Notes\n\nFor *tests*.\n")
    assert (opened.licence, bytes(opened.files["certificate.html"])) == ("Mine.\n", b"<p>")


@pytest.mark.slow
def test_from_export_to_inspection_by_the_command_line(mlp: Exported, tmp_path: Path) -> None:
    out = tmp_path / "my model.zip"
    arguments = ("--export", str(mlp.folder), "--format", "onnx", "--name", "digits", "--out", str(out))
    made = run_cli("bundle", *arguments, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert f"bundled to {out}" in made.stdout
    again = run_cli("bundle", *arguments, cwd=tmp_path)
    assert again.returncode == 2
    assert "output exists" in again.stderr
    shown = run_cli("inspect", out, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    for text in (
        "digits",
        "float32 (N, 1, 28, 28) in [0, 1]",
        "pass: ",
        "decoder, onnx",
        "golden output",
        "not signed",
    ):
        assert text in shown.stdout
    document = json.loads(run_cli("inspect", out, "--json", cwd=tmp_path).stdout)
    assert document["certificate"]["verdict"] == "pass"
    assert document["files"]["decoder.onnx"] == (mlp.folder / "decoder.onnx").stat().st_size
    assert run_cli("inspect", out, "--card", cwd=tmp_path).stdout.startswith("# digits\n")


@pytest.mark.slow
def test_damaged_bundle_exits_4_and_shows_nothing(packed: bytes, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(packed[:5000] + b"?" + packed[5001:])
    result = run_cli("inspect", damaged, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (4, "")
    assert result.stderr.startswith("vae-export: error: ")
    assert result.stderr.count("\n") == 1


def test_path_that_is_not_a_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("pipe", "got not a file"), ("missing", "got no such file"), (".", "got a folder")):
        with pytest.raises(ModelError, match=said):
            open_bundle(tmp_path / name)


def test_missing_certificate_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no certificate: .*certificate\.json; got No such file .*; run: vae-export"):
        read_certificate(tmp_path / "certificate.json")


@pytest.mark.slow
def test_opening_a_bundle_brings_in_no_heavy_import(path: Path) -> None:
    code = f"import sys, vae_export; vae_export.load({str(path)!r}).sample(1); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert {"torch", "onnx", "jinja2", "typer", "rich", "zipfile"} & set(result.stdout.split()) <= {"zipfile"}


def test_container_bytes_match_the_specification() -> None:
    """Written out by hand from the tables of docs/bundle-format.md, section 1."""
    data, name = b"hello", b"a.txt"
    crc, size = bytes.fromhex("86a61036"), b"\x05\0\0\0"
    local = b"PK\x03\x04\x14\0\0\0\0\0\0\0\x21\0" + crc + size + size + b"\x05\0\0\0" + name
    central = b"PK\x01\x02\x14\x03\x14\0\0\0\0\0\0\0\x21\0" + crc + size + size + b"\x05\0" + b"\0" * 8
    central += b"\0\0\xa4\x81" + b"\0\0\0\0" + name
    end = b"PK\x05\x06\0\0\0\0\x01\0\x01\0" + bytes([len(central), 0, 0, 0, len(local) + 5, 0, 0, 0, 0, 0])
    assert write_archive({"a.txt": data}) == local + data + central + end
    assert zipfile.ZipFile(io.BytesIO(write_archive({"a.txt": data}))).read("a.txt") == data


def test_hashes_of_statements_are_those_of_the_specification(path: Path) -> None:
    """From the bytes of the manifest, as section 2 of docs/bundle-format.md says."""
    files = open_bundle(path).files
    manifest, certificate = (json.loads(bytes(files[name])) for name in ("manifest.json", "certificate.json"))
    statements = {name: manifest[name] for name in ("contract", "opset", "versions", "provenance")}
    for file in manifest["files"]:
        statements[f"file {file['name']}"] = {key: file[key] for key in file if key not in ("inputs", "outputs")}
    statements |= {f"golden vectors of {part['part']}": part for part in manifest["golden"]}
    for subject, value in statements.items():
        assert (
            certificate["manifest"][subject] == hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
        ), subject


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["gaussian", "discretised-logistic"])
def test_decoder_with_two_outputs_passes_self_test_from_bundle(likelihood: LikelihoodName, tmp_path: Path) -> None:
    config = VAEConfig("mlp", (3, 8, 8), 4, 16, likelihood=Likelihood(likelihood))
    torch.manual_seed(0)
    network = VAE(config)
    artifact, _ = export(Source(config.contract, network.encoder, network.decoder), tmp_path / "export")
    (tmp_path / "colour.zip").write_bytes(pack(artifact, read_certificate(artifact.certificate), name="colour"))
    model = load(tmp_path / "colour.zip")
    model.self_test().require()
    second = artifact.manifest.contract.spec("decoder").outputs[1].name
    outputs = model.run("decoder", latent=model.prior(2))
    assert outputs[second].shape == outputs["image"].shape == (2, 3, 8, 8)
    assert model.sample(2).tobytes() == outputs["image"].tobytes()
    tested = {(comparison.part, comparison.output) for comparison in model.self_test().outputs}
    assert ("decoder", second) in tested
