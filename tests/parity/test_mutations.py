"""Every seeded fault is caught, and by the check that should catch it.

A fault is one of: a wrong ONNX file (the catalogue in `mutations`), a wrong TorchScript or `.pt2` file, a file or
manifest that is not the one that was written, an engine that computes something else.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from tests.parity import mutations
from tests.parity.mutations import MUTATIONS, Differs, Faulty, Linted, Mutation, Recorded, Refused
from tests.parity.subject import ONNX_CPU, Subject, checkpoint, exported, tampered, verified
from vae_export import Certificate, Source, open_artifact, verify
from vae_export.contract import Contract, PartSpec
from vae_export.errors import IntegrityError, ModelError, ParityError, TargetError, UsageError, VaeExportError
from vae_export.files import sha256
from vae_export.formats import FORMATS, Runner, Setting, WriteOptions
from vae_export.manifest import NAME, FileEntry, Manifest
from vae_export.models import FAMILIES
from vae_export.models.config import Family

ROOT = Path(__file__).parent.parent.parent
Subjects = Callable[..., Subject]
Outputs = dict[str, Any]


# --- what is right passes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_files_pass_as_they_were_written(subject: Subjects, family: Family) -> None:
    chosen = subject(family)
    certificate = verified(chosen.artifact, chosen.source)
    certificate.require()
    assert certificate.passed
    assert certificate.findings == ()
    assert certificate.divergences == {}
    assert set(certificate.files) == {entry.name for entry in chosen.artifact.manifest.files}
    assert {row.part for row in certificate.rows} == {"encoder", "decoder", "autoencoder", "metric"}


def test_there_are_enough_mutations_and_each_has_its_own_name() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 100


# --- wrong ONNX files -----------------------------------------------------------------------------------------------


def weights_of(model: onnx.ModelProto) -> dict[str, bytes]:
    return {tensor.name: tensor.raw_data for tensor in model.graph.initializer}


def first_reader_of_a_changed_weight(before: bytes, after: bytes) -> str | None:
    """The value that the first node computes which reads a weight that is not what it was; None if all are."""
    old, new = onnx.load_from_string(before), onnx.load_from_string(after)
    kept = weights_of(new)
    changed = {name for name, data in weights_of(old).items() if kept.get(name) != data}
    return next((node.output[0] for node in new.graph.node if changed & set(node.input)), None)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_wrong_onnx_file_is_caught(mutation: Mutation, subject: Subjects, tmp_path: Path) -> None:
    chosen = subject(mutation.family)
    before = chosen.data(mutation.part)
    after = mutation.apply(before)
    artifact = tampered(chosen, tmp_path / "export", {(mutation.part, "onnx"): after})
    match mutation.caught:
        case Refused(error, text):
            with pytest.raises(error, match=text):
                verified(artifact, chosen.source)
        case Recorded(rule):
            certificate = verified(artifact, chosen.source)
            assert certificate.passed
            assert [(finding.rule, finding.severity) for finding in certificate.findings] == [(rule, "warning")]
        case Linted(rule):
            certificate = verified(artifact, chosen.source)
            refused(certificate)
            assert rule in {finding.rule for finding in certificate.errors}
        case Faulty(fault):
            certificate = verified(artifact, chosen.source)
            refused(certificate)
            assert not certificate.errors
            assert any(fault in (row.measure.fault or "") for row in certificate.failures)
        case Differs(outputs, at):
            certificate = verified(artifact, chosen.source, thorough=mutation.thorough)
            refused(certificate)
            assert not certificate.errors
            # Where the largest inputs overflow there is nothing to measure: those rows fail as well.
            measured = [row for row in certificate.failures if row.measure.fault is None]
            assert {row.output for row in measured} == outputs
            for row in measured:
                assert row.measure.error is not None
                assert row.measure.error > row.band
            [divergence] = certificate.divergences.values()
            expected = at or first_reader_of_a_changed_weight(before, after)
            assert expected in (None, divergence.output)


def refused(certificate: Certificate) -> None:
    assert not certificate.passed
    assert json.loads(json.dumps(certificate.to_json(), allow_nan=False))["verdict"] == "fail"
    with pytest.raises(ParityError):
        certificate.require()


def test_a_bound_that_acts_is_missed_when_it_is_left_out(tmp_path: Path) -> None:
    """One that no image reaches could go unnoticed: then both compute the same for every image."""
    low = checkpoint("mlp")
    bias = low.weights["encoder.logvar.0.bias"].clone()
    bias[0] = -31.0
    bounded = exported(replace(low, weights={**low.weights, "encoder.logvar.0.bias": bias}), tmp_path)
    change = Mutation("no bound", mutations.left_out("logvar"), mutations.differs("logvar"), "encoder")
    artifact = tampered(bounded, tmp_path / "changed", {("encoder", "onnx"): change.apply(bounded.data("encoder"))})
    certificate = verified(artifact, bounded.source)
    assert {row.output for row in certificate.failures} == {"logvar"}
    assert certificate.divergences["encoder.onnx"].output == "logvar"


def test_weights_that_lie_beside_the_working_folder_are_no_better(
    mlp: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime reads them from the working folder: the file runs, and still does not stand alone."""
    before = onnx.load_from_string(mlp.data("decoder"))
    data = mutations.initialiser(before, "decoder.body.2.weight").raw_data
    (tmp_path / "decoder.onnx.data").write_bytes(data)
    monkeypatch.chdir(tmp_path)
    mutations.sidecar(before)
    certificate = verified(tampered(mlp, tmp_path / "e", {("decoder", "onnx"): before.SerializeToString()}), mlp.source)
    refused(certificate)
    assert not certificate.failures
    assert [finding.rule for finding in certificate.errors] == ["sidecar"]


def test_another_grey_level_is_counted(mlp: Subject, tmp_path: Path) -> None:
    change = mutations.after("image", mutations.step("Add", mutations.f32(1.01 / 255 * mutations._ONE_PIXEL)))
    data = Mutation("a level", change, mutations.differs("image")).apply(mlp.data("decoder"))
    certificate = verified(tampered(mlp, tmp_path / "e", {("decoder", "onnx"): data}), mlp.source)
    counted = [row for row in certificate.failures if row.measure.grey and row.measure.grey.unexplained]
    assert counted
    assert "of another grey level" in counted[0].reason
    assert max(row.measure.grey.worst for row in counted if row.measure.grey) in (1, 2)


def test_a_wrong_decoder_shows_in_nats(mlp: Subject, tmp_path: Path) -> None:
    data = Mutation(
        "scaled", mutations.weight("decoder.body.4.weight", lambda w: w * 1.01), mutations.differs("image")
    ).apply(mlp.data("decoder"))
    files = {("encoder", "onnx"): mlp.data("encoder"), ("decoder", "onnx"): data}
    certificate = verified(tampered(mlp, tmp_path / "e", files), mlp.source)
    failed = {(row.part, row.output) for row in certificate.failures}
    assert failed == {("decoder", "image"), ("metric", "negative_elbo"), ("metric", "iwae_nll")}


# --- files of another model -----------------------------------------------------------------------------------------


def test_the_decoder_of_another_checkpoint(mlp: Subject, subject: Subjects, tmp_path: Path) -> None:
    data = subject("mlp", 1).data("decoder")
    certificate = verified(tampered(mlp, tmp_path / "e", {("decoder", "onnx"): data}), mlp.source)
    refused(certificate)
    assert {row.output for row in certificate.failures} == {"image"}
    assert certificate.divergences["decoder.onnx"].output == "linear"


def test_the_encoder_of_another_family_with_the_same_shapes(mlp: Subject, subject: Subjects, tmp_path: Path) -> None:
    data = subject("post").data("encoder")
    certificate = verified(tampered(mlp, tmp_path / "e", {("encoder", "onnx"): data}), mlp.source)
    refused(certificate)
    assert {row.output for row in certificate.failures} == {"mean", "logvar"}


def test_encoder_and_decoder_exchanged(mlp: Subject, tmp_path: Path) -> None:
    files = {("encoder", "onnx"): mlp.data("decoder"), ("decoder", "onnx"): mlp.data("encoder")}
    with pytest.raises(ModelError, match="inputs are not those of the contract: encoder"):
        verified(tampered(mlp, tmp_path / "e", files), mlp.source)


def test_an_export_of_another_checkpoint(mlp: Subject, subject: Subjects) -> None:
    with pytest.raises(IntegrityError, match="export is of another checkpoint"):
        verified(subject("mlp", 1).artifact, mlp.source)


# --- TorchScript and pt2 --------------------------------------------------------------------------------------------

PROGRAMS = ("torchscript", "pt2")
programs = pytest.mark.parametrize("format", PROGRAMS)


def fresh(mlp: Subject) -> Source:
    """Its modules are copied for every graph: they may be changed."""
    return Source(mlp.source.contract, mlp.source.encoder, mlp.source.decoder)


def written(mlp: Subject, format: str, change: Callable[[torch.nn.Module], object]) -> bytes:
    """The decoder in a format, changed before it was written."""
    graph = fresh(mlp).graph("decoder")
    with torch.no_grad():
        change(graph.module)
    return FORMATS[format].write(graph, WriteOptions())


def nudge(module: torch.nn.Module) -> None:
    weight = module.get_parameter("decoder.body.2.weight")
    weight.mul_(1 + 1e-5 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))


CHANGES: dict[str, Callable[[torch.nn.Module], object]] = {
    "noise of 1e-5 on a layer": nudge,
    "a bias is zeros": lambda module: module.get_parameter("decoder.body.0.bias").zero_(),
    "weights are float16": lambda module: module.half().float(),
    "another model's weights": lambda module: module.decoder.load_state_dict(
        {
            name.removeprefix("decoder."): weight
            for name, weight in checkpoint("mlp", 1).weights.items()
            if name.startswith("decoder.")
        }
    ),
}


@programs
@pytest.mark.parametrize("change", CHANGES)
def test_a_wrong_program_is_caught(mlp: Subject, format: str, change: str, tmp_path: Path) -> None:
    data = written(mlp, format, CHANGES[change])
    certificate = verified(tampered(mlp, tmp_path / "e", {("decoder", format): data}), mlp.source)
    refused(certificate)
    assert not certificate.errors
    assert {(row.output, row.measure.fault) for row in certificate.failures} == {("image", None)}


@programs
def test_a_weight_of_a_program_is_nan(mlp: Subject, format: str, tmp_path: Path) -> None:
    data = written(mlp, format, lambda module: module.get_parameter("decoder.body.2.weight").fill_(torch.nan))
    certificate = verified(tampered(mlp, tmp_path / "e", {("decoder", format): data}), mlp.source)
    refused(certificate)
    assert all("not finite" in (row.measure.fault or "") for row in certificate.rows)


@programs
def test_a_program_with_dropout_in_training_mode(mlp: Subject, format: str, tmp_path: Path) -> None:
    decoder = torch.nn.Sequential(mlp.source.graph("decoder").module, torch.nn.Dropout(0.2)).train()
    example = mlp.source.graph("decoder").example
    buffer = io.BytesIO()
    if format == "pt2":
        torch.export.save(torch.export.export(decoder, example, dynamic_shapes=({0: torch.export.Dim("N")},)), buffer)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated
            torch.jit.save(torch.jit.trace(decoder, example, check_trace=False), buffer)
    certificate = verified(tampered(mlp, tmp_path / "e", {("decoder", format): buffer.getvalue()}), mlp.source)
    refused(certificate)
    assert "random-operator" in {finding.rule for finding in certificate.errors}


@programs
def test_the_program_of_the_other_part(mlp: Subject, format: str, tmp_path: Path) -> None:
    certificate = verified(
        tampered(mlp, tmp_path / "e", {("decoder", format): mlp.data("encoder", format)}), mlp.source
    )
    refused(certificate)
    assert all((row.measure.fault or "").startswith("cannot run") for row in certificate.rows)


# --- damaged files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", np.linspace(0, 1, 24).tolist(), ids=lambda place: f"{place:.0%}")
def test_a_flipped_bit_is_an_integrity_error(mlp: Subject, place: float, tmp_path: Path) -> None:
    data = bytearray(mlp.data("decoder"))
    data[round(place * (len(data) - 1))] ^= 1 << round(7 * place)
    with pytest.raises(IntegrityError, match=r"exported file was altered: .*decoder\.onnx"):
        verified(tampered(mlp, tmp_path / "e", {("decoder", "onnx"): bytes(data)}, rehash=False), mlp.source)


@pytest.mark.parametrize("seed", range(24))
def test_a_flipped_bit_with_its_hash_is_one_line_or_a_certificate(mlp: Subject, seed: int, tmp_path: Path) -> None:
    """Whatever it hits, the graph or a weight: never a traceback, and passed only if all figures are within bands."""
    data = bytearray(mlp.data("decoder"))
    rng = np.random.default_rng(seed)
    # Half of them outside the weights, which are most of the file.
    structure = [i for i in range(len(data)) if i < 300 or i > len(data) - 700]
    position = int(rng.choice(structure)) if seed % 2 else int(rng.integers(len(data)))
    data[position] ^= 1 << int(rng.integers(8))
    artifact = tampered(mlp, tmp_path / "e", {("decoder", "onnx"): bytes(data)})
    with contextlib.suppress(VaeExportError):  # whose message is one line, always
        certificate = verified(artifact, mlp.source)
        certificate.write(tmp_path / "certificate.json")
        assert certificate.passed == all(row.passed for row in certificate.rows) & (not certificate.errors)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut short": lambda data: data[:-100],
    "half": lambda data: data[: len(data) // 2],
    "text": lambda _: b"this is no model\n" * 100,
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_line(mlp: Subject, format: str, damage: str, tmp_path: Path) -> None:
    data = DAMAGES[damage](mlp.data("decoder", format))
    files = {("decoder", format): data}
    with pytest.raises(IntegrityError, match="altered"):
        verified(tampered(mlp, tmp_path / "old hash", files, rehash=False), mlp.source)
    with pytest.raises(ModelError, match=r"not a readable|cannot be opened"):
        verified(tampered(mlp, tmp_path / "new hash", files), mlp.source)


def test_a_missing_file(mlp: Subject, tmp_path: Path) -> None:
    artifact = tampered(mlp, tmp_path / "e", {("decoder", "onnx"): mlp.data("decoder")})
    (artifact.folder / "decoder.onnx").unlink()
    with pytest.raises(IntegrityError, match=r"cannot be read: .*; got No such file"):
        verified(artifact, mlp.source)


def test_a_link_in_place_of_a_file(mlp: Subject, tmp_path: Path) -> None:
    artifact = tampered(mlp, tmp_path / "e", {("decoder", "onnx"): mlp.data("decoder")})
    path = artifact.folder / "decoder.onnx"
    path.unlink()
    path.symlink_to(mlp.artifact.folder / "decoder.onnx")
    with pytest.raises(IntegrityError, match="is a link"):
        verified(artifact, mlp.source)


# --- wrong manifests ------------------------------------------------------------------------------------------------


def with_manifest(mlp: Subject, folder: Path, change: Callable[[Manifest], Manifest]) -> Any:
    artifact = tampered(mlp, folder, {("decoder", "onnx"): mlp.data("decoder")})
    (folder / NAME).write_bytes(change(artifact.manifest).text)
    return open_artifact(folder)


def entries(**changes: object) -> Callable[[Manifest], Manifest]:
    return lambda manifest: replace(manifest, files=tuple(replace(entry, **changes) for entry in manifest.files))  # type: ignore[arg-type]


MANIFESTS: dict[str, tuple[Callable[[Manifest], Manifest], type[VaeExportError], str]] = {
    "another hash": (entries(sha256=sha256(b"")), IntegrityError, "altered"),
    "another part": (entries(part="encoder"), ModelError, "inputs are not those of the contract"),
    "another format": (entries(format="pt2"), ModelError, "not a readable pt2 file"),
    "an unknown format": (entries(format="tflite"), IntegrityError, "unknown format"),
    "a file that is not there": (entries(name="decoder-2.onnx"), IntegrityError, "cannot be read"),
    "another range of images": (
        lambda manifest: replace(manifest, contract=replace(manifest.contract, image_range=(-1.0, 1.0))),
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
def test_a_manifest_that_says_something_else(mlp: Subject, name: str, tmp_path: Path) -> None:
    change, error, text = MANIFESTS[name]
    artifact = with_manifest(mlp, tmp_path / "e", change)
    with pytest.raises(error, match=text):
        verify(artifact, mlp.source, thorough=False)


def test_a_manifest_with_another_opset(mlp: Subject, tmp_path: Path) -> None:
    artifact = with_manifest(mlp, tmp_path / "e", lambda manifest: replace(manifest, opset=18))
    certificate = verified(artifact, mlp.source)
    refused(certificate)
    assert [finding.rule for finding in certificate.errors] == ["opset"]


def test_a_manifest_without_files_verifies_nothing_and_fails(mlp: Subject, tmp_path: Path) -> None:
    artifact = with_manifest(mlp, tmp_path / "e", lambda manifest: replace(manifest, files=()))
    certificate = verify(artifact, mlp.source)
    refused(certificate)
    assert certificate.rows == ()


def test_a_manifest_that_names_a_file_outside(mlp: Subject, tmp_path: Path) -> None:
    entry = FileEntry.of("../decoder.onnx", "decoder", "onnx", mlp.data("decoder"))
    with pytest.raises(IntegrityError, match="outside its folder"):
        with_manifest(mlp, tmp_path / "e", lambda manifest: replace(manifest, files=(entry,)))


# --- wrong engines --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Engine:
    """ONNX Runtime with something wrong: `change` gets the outputs of each run and the setting."""

    change: Callable[[Outputs, Setting], Outputs]

    def __getattr__(self, name: str) -> Any:
        return getattr(_ONNX, name)

    def open(self, data: bytes, spec: PartSpec, provider: str, setting: Setting) -> Runner:
        run = _ONNX.open(data, spec, provider, setting)
        return lambda inputs: self.change(run(inputs), setting)


_ONNX = FORMATS["onnx"]


def through(
    mlp: Subject,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    change: Callable[..., Outputs],
    thorough: bool = False,
) -> Certificate:
    """The decoder as it was written, run by a wrong engine."""
    monkeypatch.setitem(FORMATS, "onnx", Engine(change))
    artifact = tampered(mlp, tmp_path / "e", {("decoder", "onnx"): mlp.data("decoder")})
    return verified(artifact, mlp.source, thorough=thorough)


def shifted(outputs: Mapping[str, Any]) -> Outputs:
    return {name: array + np.float32(1e-4) for name, array in outputs.items()}


@pytest.mark.parametrize(
    ("where", "thorough"),
    [
        (Setting(1, "all"), False),
        (Setting(1, "disabled"), False),
        (Setting(1, "basic"), True),
        (Setting(2, "all"), True),
        (Setting(2, "extended"), True),
    ],
    ids=str,
)
def test_an_engine_that_is_wrong_with_one_setting(
    mlp: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: Setting, thorough: bool
) -> None:
    def change(outputs: Outputs, setting: Setting) -> Outputs:
        return shifted(outputs) if setting == where else outputs

    certificate = through(mlp, monkeypatch, tmp_path, change, thorough=thorough)
    refused(certificate)
    assert {row.setting for row in certificate.failures} == {where}


ENGINES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "float64 is given": (lambda image: image.astype(np.float64), "wrong dtype"),
    "float16 is given": (lambda image: image.astype(np.float16), "wrong dtype"),
    "big-endian is given": (lambda image: image.astype(">f4"), "wrong dtype"),
    "pixels are flat": (lambda image: image.reshape(len(image), -1), "wrong shape"),
    "channels are last": (lambda image: np.moveaxis(image, 1, -1), "wrong shape"),
    "an axis is missing": (lambda image: image[:, 0], "wrong shape"),
    "one row broadcasts": (lambda image: image[:1], "wrong shape"),
    "a row is missing": (lambda image: image[:-1], "wrong shape"),
    "a row too many": (lambda image: np.concatenate([image, image[:1]]), "wrong shape"),
    "a list is given": (lambda image: image.tolist(), "not an array"),
    "nothing is given": (lambda _: None, "not an array"),
    "one pixel is NaN": (lambda image: np.where(np.arange(16) == 3, np.float32(np.nan), image), "not finite"),
    "one pixel is infinite": (lambda image: np.where(np.arange(16) == 3, np.float32(np.inf), image), "not finite"),
}


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_that_gives_no_comparable_array(
    mlp: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    change, fault = ENGINES[name]
    certificate = through(mlp, monkeypatch, tmp_path, lambda outputs, _: {"image": change(outputs["image"])})
    refused(certificate)
    assert any(fault in (row.measure.fault or "") for row in certificate.failures)
    certificate.write(tmp_path / "certificate.json")


@pytest.mark.parametrize("outputs", [{}, {"images": 0}, {"image": 0, "more": 0}], ids=str)
def test_an_engine_that_gives_other_outputs(
    mlp: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, outputs: Outputs
) -> None:
    certificate = through(mlp, monkeypatch, tmp_path, lambda *_: outputs)
    refused(certificate)
    assert all((row.measure.fault or "").startswith("wrong outputs") for row in certificate.rows)


def test_an_engine_that_cannot_run_one_batch_fails_that_row_alone(
    mlp: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def change(outputs: Outputs, _: Setting) -> Outputs:
        if len(outputs["image"]) == 7:
            raise RuntimeError("no memory\nfor seven")
        return outputs

    certificate = through(mlp, monkeypatch, tmp_path, change)
    refused(certificate)
    assert {row.batch for row in certificate.failures} == {7}
    assert certificate.failures[0].reason == "cannot run: RuntimeError: no memory for seven"


def test_an_engine_that_is_not_deterministic(mlp: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Within the band it passes, and the certificate says so; beyond it fails."""
    rng = np.random.default_rng(0)

    def jitter(scale: float) -> Callable[[Outputs, Setting], Outputs]:
        def change(outputs: Outputs, _: Setting) -> Outputs:
            image = outputs["image"]
            return {"image": (image * (1 + scale * rng.uniform(-1, 1, image.shape))).astype(np.float32)}

        return change

    certificate = through(mlp, monkeypatch, tmp_path, jitter(1e-7))
    certificate.require()
    assert [(item.same_session, item.fresh_session) for item in certificate.determinism] == [(False, False)]
    refused(through(mlp, monkeypatch, tmp_path, jitter(1e-4)))


def test_a_target_that_is_not_there(mlp: Subject, tmp_path: Path) -> None:
    artifact = tampered(mlp, tmp_path / "e", {("decoder", "onnx"): mlp.data("decoder")})
    for provider, error in (("CUDAExecutionProvider", TargetError), ("NoSuchProvider", TargetError)):
        with pytest.raises(error, match=f"provider is not (there|usable): {provider}"):
            verify(artifact, mlp.source, targets=[f"onnx/{provider}"])
    with pytest.raises(UsageError, match="no file for this target"):
        verify(artifact, mlp.source, targets=["pt2/cpu"])


# --- the command line -----------------------------------------------------------------------------------------------


def command_line(mlp: Subject, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from vae_export.cli import start; start()", "verify", "--quick"]
    command += ["--checkpoint", str(mlp.checkpoint), "--export", str(folder), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("code", [3, 4, 5, 6])
def test_the_command_line_ends_with_the_code_of_the_fault(mlp: Subject, code: int, tmp_path: Path) -> None:
    noisy = Mutation(
        "noise", mutations.weight("decoder.body.2.weight", mutations.noise(1e-4)), mutations.differs("image")
    )
    right = mlp.data("decoder")
    data = {3: right[:-100], 4: right[:-1] + bytes([right[-1] ^ 1]), 5: noisy.apply(right)}.get(code, right)
    artifact = tampered(mlp, tmp_path / "e", {("decoder", "onnx"): data}, rehash=code != 4)
    target = "onnx/CUDAExecutionProvider" if code == 6 else ONNX_CPU
    result = command_line(mlp, artifact.folder, "--target", target)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("vae-export: error: ")]
    assert len(errors) == 1
    if code == 5:
        assert "first differs at node node_linear_1" in result.stdout
    assert artifact.certificate.exists() == (code == 5)
