"""LiteRT's models. litert-torch needs an older typing_extensions than others do and is not in `dev`; `.ci/run` runs
these tests in an environment that has it, and the first one in an environment that has not."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from tests import sample_models
from tests.commands import Invoke, run_python, tree
from tests.conftest import Exported
from tests.formats.one_format import (
    assert_missing_package_is_reported,
    assert_rows_are_computed_one_by_one,
    with_decoder_alone,
)
from tests.formats.test_formats import traces
from vae_export import Artifact, Certificate, Contract, Source, export, verify
from vae_export.artifact.folder import read_content
from vae_export.artifact.manifest import FileContent
from vae_export.capture import capture
from vae_export.contract import PARTS, Part
from vae_export.errors import ModelError, ParityError
from vae_export.formats import FORMATS, WriteOptions
from vae_export.formats.structure import differences
from vae_export.models.config import Family
from vae_export.parity import References
from vae_export.parity.oracle import evaluate_graph
from vae_export.session_options import SessionOptions
from vae_export.system.extras import missing

LITERT = FORMATS["litert"]
CPU = SessionOptions("cpu", threads=1)
absent = missing("litert") is not None
needed = pytest.mark.skipif(absent, reason="litert-torch is not installed; .ci/run has an environment with it")


@pytest.mark.skipif(not absent, reason="litert-torch is installed")
def test_missing_litert_is_reported_with_the_pip_line(mlp: Exported, invoke: Invoke, tmp_path: Path) -> None:
    assert_missing_package_is_reported("litert", "litert_torch", mlp, invoke, tmp_path)


@pytest.fixture(scope="module")
def references() -> References:
    return References(Source.of(sample_models.checkpoint()))


@pytest.fixture(scope="module")
def made(references: References, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Certificate]:
    return export(references, tmp_path_factory.mktemp("litert") / "export", formats=["litert"], minutes=0.05)


@needed
@pytest.mark.slow
def test_export_is_certified_and_says_what_made_it(made: tuple[Artifact, Certificate]) -> None:
    """Latents of 1e30 too, which XNNPACK's sigmoid turns into NaN."""
    artifact, certificate = made
    assert certificate.passed
    assert {row.target for row in certificate.results if row.part in PARTS} == {"litert/cpu"}
    assert {"largest", "data"} <= {row.probe for row in certificate.results}
    assert {"ai-edge-litert", "litert-converter", "litert-torch", "torch"} <= set(artifact.manifest.versions)
    for part in PARTS:
        assert traces(artifact.read(artifact.entry(part, "litert"))) == []


@needed
@pytest.mark.slow
@pytest.mark.parametrize("family", ["conv", "foreign"])
def test_convolutions_and_attention_are_certified(family: Family | Literal["foreign"], tmp_path: Path) -> None:
    source = (
        sample_models.foreign_source()
        if family == "foreign"
        else Source.of(sample_models.checkpoint(family, (1, 12, 12)))
    )
    _, certificate = export(source, tmp_path / "out", formats=["litert"], minutes=0.05)
    assert certificate.passed


@needed
@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_rows_are_computed_one_by_one(made: tuple[Artifact, Certificate], references: References, part: Part) -> None:
    assert_rows_are_computed_one_by_one(made[0], references, part, "litert")


@needed
@pytest.mark.slow
def test_codes_and_bytes_are_certified(tmp_path: Path) -> None:
    """Tensors of integers keep their 64 and 8 bits."""
    decoder = nn.Sequential(nn.Flatten(), nn.Embedding(7, 4), nn.Flatten(), nn.Unflatten(1, (1, 4, 4)), nn.Sigmoid())
    torch.manual_seed(0)
    codes = Contract((1, 4, 4), (2, 2), encoding="codes", codebook_size=7, code_dtype="int64")
    _, certificate = export(Source(codes, decoder=decoder), tmp_path / "codes", formats=["litert"])
    assert certificate.passed
    source = Source.of(sample_models.checkpoint())
    artifact, certificate = export(
        source, tmp_path / "bytes", formats=["litert"], parts=["decoder"], pixels=["uint8-hwc"]
    )
    assert certificate.passed
    assert (artifact.folder / "decoder-uint8-hwc.tflite").exists()


@needed
@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e10, 1e30, -1e30])
@pytest.mark.parametrize("layer", [nn.Sigmoid(), nn.SiLU()])
def test_sigmoids_of_huge_numbers_are_numbers(layer: nn.Module, scale: float) -> None:
    contract = Contract((1, 2, 2), (4,), None)
    graph = capture(Source(contract, decoder=nn.Sequential(layer, nn.Unflatten(1, (1, 2, 2)))), "decoder")
    latent = {"latent": np.full((1, 4), scale, np.float32)}
    outputs = LITERT.open(LITERT.write(graph, WriteOptions()), graph.spec, CPU)(latent)
    np.testing.assert_allclose(outputs["image"], evaluate_graph(graph, latent)["image"], rtol=1e-6)


@needed
@pytest.mark.slow
def test_another_process_writes_the_same_bytes_and_prints_nothing(
    made: tuple[Artifact, Certificate], tmp_path: Path
) -> None:
    code = """if True:
        from tests import sample_models
        from vae_export import Source
        from vae_export.capture import capture
        from vae_export.formats import FORMATS, WriteOptions
        from vae_export.io.atomic import sha256
        from vae_export.session_options import SessionOptions
        graph = capture(Source.of(sample_models.checkpoint()), "autoencoder")
        content = FORMATS["litert"].write(graph, WriteOptions())
        FORMATS["litert"].open(content, graph.spec, SessionOptions("cpu", threads=1))
        print(sha256(content.data))
    """
    done = run_python(code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [made[0].entry("autoencoder", "litert").sha256]
    assert tree(tmp_path) == {}


def with_other_weight(artifact: Artifact, folder: Path, references: References, by: float) -> Artifact:
    """An export of the decoder with one row of a weight changed."""
    data = artifact.read(artifact.entry("decoder", "litert"))
    weight = references.captured.graph("decoder").module.state_dict()["decoder.body.2.weight"].numpy()
    assert data.count(weight[3].tobytes()) == 1
    other = data.replace(weight[3].tobytes(), (weight[3] + np.float32(by)).tobytes())
    return with_decoder_alone(artifact, folder, "litert", FileContent(other))


@needed
@pytest.mark.slow
@pytest.mark.parametrize("by", [1e-5, 0.1])
def test_changed_weight_is_named(
    made: tuple[Artifact, Certificate], references: References, tmp_path: Path, by: float
) -> None:
    certificate = verify(with_other_weight(made[0], tmp_path / "changed", references, by), references, trust=True)
    assert not certificate.passed
    (finding,) = (finding for finding in certificate.errors if finding.rule == "other-structure")
    assert f"{sample_models.HIDDEN} of {sample_models.HIDDEN**2} values differ" in finding.detail


@needed
@pytest.mark.slow
def test_changed_weight_is_found_by_its_outputs_alone(
    made: tuple[Artifact, Certificate], references: References, tmp_path: Path
) -> None:
    other = with_other_weight(made[0], tmp_path / "changed", references, 0.1)
    certificate = verify(other, references, trust=True, allow_unreproduced=True)
    with pytest.raises(ParityError, match="litert/cpu"):
        certificate.require()


@needed
@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_structure_has_every_operator_and_weight(
    made: tuple[Artifact, Certificate], references: References, part: Part
) -> None:
    structure = LITERT.structure(read_content(made[0], made[0].entry(part, "litert")))
    assert structure is not None
    assert structure.unused == ()
    spec = references.source.contract.spec(part)
    assert {text.partition(":")[0] for text in structure.inputs} == {tensor.name for tensor in spec.inputs}
    assert {text.partition(":")[0] for text in structure.outputs} == {tensor.name for tensor in spec.outputs}
    seen, left = set[int](), list(structure.outputs.values())
    stored = 0
    while left:
        node = left.pop()
        if id(node) not in seen:
            seen.add(id(node))
            left += node.inputs
            stored += node.value().size if node.kind == "constant" and node.value is not None else 0
    assert stored >= sum(weight.numel() for weight in references.captured.graph(part).module.state_dict().values())


#: Changes of what a model says and no engine runs, as functions of the schema's object, and how each is named.
HIDDEN: dict[str, tuple[Callable[[Any], object], str]] = {
    "description": (lambda model: setattr(model, "description", b"audited"), "description b'audited', 1 times"),
    "graph": (lambda model: setattr(model.subgraphs[0], "name", b"other"), "name b'other', 1 times"),
    "signature": (lambda model: setattr(model.signatureDefs[0], "signatureKey", b"x"), "signatureKey b'x', 1 times"),
    "operator": (lambda model: setattr(model.operatorCodes[0], "version", 99), "operator .*'version': '99'"),
    "input": (lambda model: setattr(model.subgraphs[0].tensors[0], "name", b"pixels"), "b'pixels' of inputs, called"),
    "sizes": (lambda model: setattr(model.subgraphs[0].tensors[0], "shapeSignature", [-1, 6]), "shapeSignature"),
    "variable": (lambda model: setattr(model.subgraphs[0].tensors[-2], "isVariable", True), "isVariable True"),
    "range": (lambda model: setattr(model.subgraphs[0].tensors[-1].quantization, "min", [-1.0]), r"'min': '\[-1.0\]'"),
    "tensor": (lambda model: model.subgraphs[0].tensors.append(model.subgraphs[0].tensors[-2]), "tensor of type 0"),
    "metadata": (lambda model: model.metadata.append(model.metadata[0]), "metadata b'min_runtime_version', 2 times"),
    "weights": (lambda model: setattr(model.buffers[0], "data", list(b"hidden")), "6 bytes nobody reads"),
}


@needed
@pytest.mark.slow
def test_content_that_is_not_run_is_named(made: tuple[Artifact, Certificate]) -> None:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    data = made[0].read(made[0].entry("decoder", "litert"))

    def named(change: Callable[[Any], object]) -> list[str]:
        model, builder = schema.ModelT.InitFromPackedBuf(data, 0), flatbuffers.Builder(len(data))
        change(model)
        builder.Finish(model.Pack(builder), b"TFL3")
        found, expected = LITERT.structure(FileContent(bytes(builder.Output()))), LITERT.structure(FileContent(data))
        assert found is not None
        assert expected is not None
        return list(differences(found, expected))

    for name, (change, line) in HIDDEN.items():
        assert any(re.search(line, found) for found in named(change)), name
    expected, behind = LITERT.structure(FileContent(data)), LITERT.structure(FileContent(data + b"audited"))
    assert expected is not None
    assert behind is not None
    assert any("bytes beside its values" in line for line in differences(behind, expected))


@needed
@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[: len(data) // 2], "LiteRT cannot load the model"),
        (lambda data: data[:4] + b"XXXX" + data[8:], "LiteRT cannot load the model"),
        (lambda data: data.replace(b"latent", b"letter"), "inputs do not match the contract"),
        (lambda data: data.replace(b"image", b"bitma"), "outputs do not match the contract"),
    ],
    ids=["half", "identifier", "input", "output"],
)
def test_damaged_model_is_refused(
    made: tuple[Artifact, Certificate], references: References, change: Callable[[bytes], bytes], reason: str
) -> None:
    data = made[0].read(made[0].entry("decoder", "litert"))
    with pytest.raises(ModelError, match=reason):
        LITERT.open(FileContent(change(data)), references.captured.graph("decoder").spec, CPU)


@needed
@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            lambda: Source(
                Contract((1, 2, 2), (4,)),
                decoder=nn.Sequential(sample_models.Lambda(torch.special.i0), nn.Unflatten(1, (1, 2, 2)), nn.Sigmoid()),
            ),
            "graph cannot be translated: decoder; got .*i0",
        ),
        (
            lambda: Source(Contract((1, "2*h", "2*w"), (4, "h", "w")), decoder=nn.ConvTranspose2d(4, 1, 2, 2)),
            r"LiteRT models have fixed sizes: decoder, tensor 'latent'; expected numbers, got \(4, 'h', 'w'\)",
        ),
    ],
    ids=["operator", "sizes"],
)
def test_network_that_litert_has_no_words_for_is_refused(
    source: Callable[[], Source], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=reason):
        export(source(), tmp_path / "out", formats=["litert"])
    assert tree(tmp_path) == {}
