"""Golden vectors: finite tolerances, and bytes that do not depend on the machine."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.extended_models import CONTRACTS, extended_source
from tests.parity.small_exports import Subject, verified
from vae_export import Artifact, Contract, Source, export
from vae_export.artifact.golden import GoldenArray, compare_golden
from vae_export.artifact.manifest import FileContent, FileEntry, Manifest, parse_manifest
from vae_export.capture import Captured
from vae_export.errors import IntegrityError, ModelError
from vae_export.io.atomic import sha256
from vae_export.parity import References, golden_vectors
from vae_export.parity.golden import golden_findings
from vae_export.parity.oracle import evaluate_graph
from vae_export.parity.plan import batches_plan
from vae_export.rng import sample_codes
from vae_export.tensors import Symbol

pytestmark = pytest.mark.slow


class Edge(nn.Module):
    """latent (N, 2) → image (N, 1, 2, 2): finite with these weights, and NaN if they are one rounding lower."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        edge = torch.sigmoid(latent + torch.sqrt(self.weight - 0.5))
        return torch.cat([edge, edge], 1).reshape(-1, 1, 2, 2)


def test_network_one_rounding_away_from_nan_has_no_finite_tolerance(tmp_path: Path) -> None:
    source = Source(Contract((1, 2, 2), (2,)), decoder=Edge())
    references = References(source)
    [case] = [case for case in references.cases("decoder", plan=batches_plan((1,))) if case.probe == "prior"]
    assert case.limits["image"].tolerance() == np.inf
    with pytest.raises(ModelError, match="golden vectors have no finite tolerance: decoder, 'image', fp32"):
        export(source, tmp_path / "export")
    assert not list(tmp_path.iterdir())


def test_golden_vectors_and_calibration_use_one_thread() -> None:
    """The number of threads changes the order of sums, so bytes would depend on the machine's cores."""
    seen: set[int] = set()

    class Watched(nn.Linear):
        def forward(self, latent: Tensor) -> Tensor:
            seen.add(torch.get_num_threads())
            return super().forward(latent).sigmoid().reshape(-1, 1, 2, 2)

    source = Source(Contract((1, 2, 2), (3,)), decoder=Watched(3, 4))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        references = References(source)
        references.captured.graphs()
        seen.clear()
        golden_vectors(references, source.parts)
        assert references.calibration
        assert seen == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", list(CONTRACTS))
def test_golden_vectors_of_any_contract_are_read_back_and_judged(name: str) -> None:
    source = extended_source(name)
    captured = Captured(source)
    references = References(captured)
    golden, files = golden_vectors(references, source.parts)
    manifest = Manifest(captured.contract, _entries(source), 20, {}, {}, golden=golden)
    document = parse_manifest(manifest.text, "manifest.json")
    assert document == manifest
    for part in document.golden:
        spec = captured.contract.spec(part.part)
        inputs = {array.tensor: array.array(files[array.name]) for array in part.inputs}
        spec.check_inputs(inputs)
        spec.check_ranges(inputs)
        outputs = evaluate_graph(captured.graph(part.part), inputs)
        for tensor, stored in zip(spec.outputs, part.outputs, strict=True):
            exact = stored.array(files[stored.name])
            assert exact.dtype == np.dtype(tensor.dtype)
            tensor.check(exact, batch=len(next(iter(inputs.values()))))
            assert compare_golden(part.part, tensor, outputs[tensor.name], stored, exact).passed
            assert not compare_golden(part.part, tensor, outputs[tensor.name] + 1, stored, exact).passed


def _entries(source: Source) -> tuple[FileEntry, ...]:
    return tuple(FileEntry.of(f"{part}.onnx", part, "onnx", FileContent(b"x")) for part in source.parts)


def test_rows_of_codes_and_conditions_are_the_documented_ones() -> None:
    source = extended_source("codes")
    [decoder], files = golden_vectors(source, ["decoder"])
    [codes] = decoder.inputs
    values = codes.array(files["golden/codes.i64"])
    assert (codes.name, codes.dtype, codes.shape) == ("golden/codes.i64", "int64", (16, 4, 4))
    assert (set(values[0].ravel()), set(values[1].ravel())) == ({0}, {31})
    assert len(np.unique(values[2:])) == 32
    assert "dtype" not in decoder.outputs[0].to_json()
    [encoder], files = golden_vectors(extended_source("tokens"), ["encoder"])
    values = encoder.inputs[0].array(files["golden/data.i64"])
    assert (values.dtype, values.shape) == (np.int64, (16, 6))
    assert (set(values[0]), set(values[1])) == ({0}, {19})
    assert np.array_equal(values[2:], sample_codes((14, 6), 20, 1 << 32))


class Tie(nn.Module):
    """image (N, 1, 1, 4) → codes (N, 4) of 2: which of two scores is higher; for pixels above 0.5 they are equal."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor([1.0, 1.0]))

    def forward(self, image: Tensor) -> Tensor:
        pixels = image.flatten(1)
        first, second = pixels * self.scores[0], pixels * self.scores[1]
        return (second > first - (pixels <= 0.5).to(image.dtype)).long()


def test_golden_codes_that_rounding_changes_are_counted() -> None:
    source = Source(Contract((1, 1, 4), (4,), encoding="codes", codebook_size=2), encoder=Tie())
    [encoder], files = golden_vectors(source, ["encoder"])
    image, codes = encoder.inputs[0], encoder.outputs[0]
    above = int((image.array(files[image.name]) > 0.5).sum())
    assert above > 8
    assert codes.tolerance == above
    exact = codes.array(files[codes.name])
    spec = source.contract.spec("encoder").outputs[0]
    assert compare_golden("encoder", spec, exact, codes, exact).passed
    assert not compare_golden("encoder", spec, 1 - exact, codes, exact).passed


def test_large_open_sizes_shrink() -> None:
    contract = Contract((3, "8*h", 8), (4, "h", 1), (-1, 1), symbols={"h": Symbol(1, None, usual=8192)})
    source = Source(contract, decoder=nn.Sequential(nn.ConvTranspose2d(4, 3, 8, 8), nn.Tanh()))
    [decoder], _ = golden_vectors(source, ["decoder"])
    assert [array.shape for array in decoder.inputs] == [(16, 4, 8, 1)]


def test_large_networks_have_few_golden_rows_of_small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    source = extended_source("maps")
    monkeypatch.setattr("vae_export.parity.golden._LARGE_NETWORK", 100)
    wide = replace(source.contract, symbols={name: Symbol(1, None, usual=64) for name in ("h", "w")})
    [decoder], _ = golden_vectors(replace(source, contract=wide), ["decoder"])
    assert [array.shape for array in decoder.inputs] == [(3, 2, 4, 4)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dtype": "float64"}, "dtype of a golden array is 'float64'"),
        ({"dtype": "int64", "band": 0.5}, "tolerance of a golden array is 0.5"),
        ({"dtype": "int64", "band": -1}, "tolerance of a golden array is -1"),
        ({"dtype": "float32", "band": 0}, "tolerance of a golden array is 0"),
    ],
)
def test_bad_golden_array_is_refused(changes: dict[str, object], said: str) -> None:
    good = {"tensor": "codes", "file": "golden/codes.i64", "shape": [2, 4], "sha256": "0", "dtype": "int64", "band": 0}
    assert GoldenArray.from_json(good, output=True).size == 64
    with pytest.raises(ValueError, match=said):
        GoldenArray.from_json(good | changes, output=True)


Change = Callable[[GoldenArray, bytes], tuple[GoldenArray, bytes]]


def with_golden(mlp: Subject, folder: Path, change: Change) -> Artifact:
    """A copy of an export whose golden arrays were changed, with fitting hashes."""
    artifact = mlp.copied(folder)

    def apply(array: GoldenArray) -> GoldenArray:
        new, data = change(array, mlp.artifact.read(array))
        (folder / array.name).write_bytes(data)
        return replace(new, sha256=sha256(data))

    golden = tuple(
        replace(part, inputs=tuple(map(apply, part.inputs)), outputs=tuple(map(apply, part.outputs)))
        for part in artifact.manifest.golden
    )
    return Artifact(folder, replace(artifact.manifest, golden=golden))


def scaled(output: str, factor: float) -> Change:
    def change(array: GoldenArray, data: bytes) -> tuple[GoldenArray, bytes]:
        is_wanted = array.name == f"golden/{output}.f32"
        return array, (array.array(data) * np.float32(factor)).astype("<f4").tobytes() if is_wanted else data

    return change


def widened(output: str, factor: float) -> Change:
    def change(array: GoldenArray, data: bytes) -> tuple[GoldenArray, bytes]:
        is_wanted = array.name == f"golden/{output}.f32"
        return (replace(array, tolerance=array.tolerance * factor) if is_wanted and array.tolerance else array), data

    return change


@pytest.mark.parametrize("thorough", [False, True], ids=["depth of export", "thorough"])
def test_golden_outputs_of_nine_tenths_fail_the_verification(mlp: Subject, thorough: bool, tmp_path: Path) -> None:
    artifact = with_golden(mlp, tmp_path / "e", scaled("decoder.image", 0.9))
    onnx = tuple(entry for entry in artifact.manifest.files if entry.format == "onnx")
    artifact = replace(artifact, manifest=replace(artifact.manifest, files=onnx))
    certificate = verified(artifact, mlp.references, thorough=thorough, allow_unreproduced=False)
    assert not certificate.passed
    [finding] = certificate.errors
    assert (finding.rule, finding.where) == ("golden-vectors", "golden/decoder.image.f32")
    assert re.search(r"[\d,]+ of [\d,]+ expected outputs are wrong, first .* at \[0, 0, 0, 0\];", finding.detail)


GOLDEN_CHANGES = {
    "an output": (scaled("encoder.mean", 1 + 1e-5), r"golden/encoder\.mean\.f32: .* expected outputs are wrong"),
    "a wider tolerance": (
        widened("decoder.image", 1.5),
        r"golden/decoder\.image\.f32: tolerance of fp32 is",
    ),
    "a narrower tolerance": (widened("encoder.logvar", 0.1), r"golden/encoder\.logvar\.f32: tolerance of fp32"),
    "latents": (scaled("latent", 0.5), r"golden/latent\.f32: other inputs of (decoder|autoencoder) than export makes"),
    "data out of range": (scaled("image", 3), r"manifest\.json: golden vectors of encoder: .*"),
}


@pytest.mark.parametrize("name", GOLDEN_CHANGES)
def test_changed_golden_vectors_are_found(mlp: Subject, name: str, tmp_path: Path) -> None:
    change, expected = GOLDEN_CHANGES[name]
    findings = golden_findings(with_golden(mlp, tmp_path / "e", change), mlp.references)
    lines = [f"{finding.where}: {finding.detail}" for finding in findings if finding.severity == "error"]
    assert any(re.match(expected, line) for line in lines), lines


def test_tolerances_of_another_processor_are_a_warning(mlp: Subject, tmp_path: Path) -> None:
    """Nobody can tell them from tolerances that somebody widened, so that they are named."""

    def change(array: GoldenArray, data: bytes) -> tuple[GoldenArray, bytes]:
        return (replace(array, tolerance=array.tolerance * 1.01) if array.tolerance else array), data

    findings = golden_findings(with_golden(mlp, tmp_path / "e", change), mlp.references)
    warned = [finding.detail for finding in findings if finding.severity == "warning"]
    assert warned
    assert all(re.match(r"tolerance of fp32 is \S+, as another processor may find; here \S+", line) for line in warned)


def test_golden_vectors_of_an_export_are_those_that_it_makes_again(mlp: Subject) -> None:
    assert golden_findings(mlp.artifact, References(mlp.references.captured)) == []


def test_other_data_with_right_outputs_is_a_warning(mlp: Subject, tmp_path: Path) -> None:
    """Another processor may decode other data; what PyTorch computes for them is right."""

    def change(array: GoldenArray, data: bytes) -> tuple[GoldenArray, bytes]:
        values = array.array(data).copy()
        if array.tensor == "image" and array.tolerance is None:
            values[0, 0, 0, 0] += (1 if values[0, 0, 0, 0] < 0.5 else -1) / 255
        return array, values.tobytes()

    artifact = with_golden(mlp, tmp_path / "e", change)
    # The outputs for those data, as the other processor would have stored them.
    stated = artifact.manifest.golden
    data = {array.name: artifact.read(array) for part in stated for array in (*part.inputs, *part.outputs)}
    changed: dict[str, bytes] = {}
    for part in stated:
        arrays = {array.tensor: array.array(data[array.name]) for array in part.inputs}
        expected = mlp.references.oracle(part.part).expected(arrays)
        changed |= {array.name: expected[array.tensor].astype("<f4").tobytes() for array in part.outputs}
    artifact = with_golden(mlp, tmp_path / "f", lambda array, _: (array, (data | changed)[array.name]))
    findings = golden_findings(artifact, mlp.references)
    inputs = [finding for finding in findings if "other inputs" in finding.detail]
    assert {finding.severity for finding in inputs} == {"warning"}, findings
    assert not any("outputs are wrong" in finding.detail for finding in findings), findings


def test_easier_inputs_fail_whatever_version_is_stated(mlp: Subject, tmp_path: Path) -> None:
    """Inputs of zeros hardly test a file, so that right outputs for them are no golden vectors of an export."""
    zeros = with_golden(mlp, tmp_path / "e", lambda array, data: (array, data if array.tolerance else bytes(len(data))))
    versions = {**zeros.manifest.versions, "vae-export": "0.0.1"}
    artifact = replace(zeros, manifest=replace(zeros.manifest, versions=versions))
    wrong = [finding.where for finding in golden_findings(artifact, mlp.references) if finding.severity == "error"]
    assert {"golden/latent.f32", "golden/noise.f32", "golden/image.f32"} <= set(wrong)


def test_altered_golden_vector_is_an_integrity_error(mlp: Subject, tmp_path: Path) -> None:
    artifact = mlp.copied(tmp_path / "e")
    path = artifact.folder / "golden" / "latent.f32"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(IntegrityError, match=r"exported file was altered: .*latent\.f32"):
        golden_findings(artifact, mlp.references)
