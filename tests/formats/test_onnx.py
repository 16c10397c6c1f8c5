"""ONNX files: operator sets, metadata, and no sidecar."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests import sample_models
from tests.conftest import Exported
from vae_export import Source, export
from vae_export.capture import Graph, capture, onnx_translation
from vae_export.contract import PARTS, Contract, Part
from vae_export.errors import UsageError
from vae_export.formats import FORMATS, WriteOptions
from vae_export.formats.onnx import MIN_OPSET
from vae_export.session_options import EXACT_INT8, EXACT_LEVELS, SessionOptions

NEWEST = onnx.defs.onnx_opset_version()


@pytest.fixture(scope="module")
def decoder() -> Source:
    return Source.of(sample_models.checkpoint("mlp", (1, 4, 4)))


@pytest.fixture(scope="module")
def graph(decoder: Source) -> Graph:
    return capture(decoder, "decoder")


@pytest.mark.slow
@pytest.mark.parametrize("opset", range(14, 23))
def test_requested_opset_is_written(graph: Graph, opset: int) -> None:
    data = FORMATS["onnx"].write(graph, WriteOptions(opset=opset)).data
    assert [(entry.domain, entry.version) for entry in onnx.load_from_string(data).opset_import] == [("", opset)]


@pytest.mark.parametrize("opset", [-1, 0, MIN_OPSET - 1, NEWEST + 1, 10**6])
def test_unsupported_opset_is_refused(graph: Graph, opset: int) -> None:
    with pytest.raises(UsageError, match=f"opset cannot be written; expected {MIN_OPSET} to {NEWEST}, got {opset}"):
        FORMATS["onnx"].write(graph, WriteOptions(opset=opset))


@pytest.mark.slow
def test_model_to_quantise_states_no_shapes_of_weights(graph: Graph) -> None:
    """ONNX Runtime before 1.32 transposes weights, and then refuses the shapes that were stated of them."""
    from vae_export.formats.onnx_quantize import _preprocessed

    prepared = _preprocessed(graph.onnx(18, 1 << 30).complete()).graph
    stated = {value.name for value in prepared.value_info}
    assert stated
    assert stated.isdisjoint(tensor.name for tensor in prepared.initializer)


def test_functions_of_the_exporter_are_the_same_without_parsing_them() -> None:
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    whole, quick = ONNXRegistry.from_torchlib(18), onnx_translation._registry(ONNXRegistry.from_torchlib, 18)
    assert isinstance(quick, ONNXRegistry)
    assert len(whole.functions) > 400
    assert {name: [str(meta) for meta in found] for name, found in quick.functions.items()} == {
        name: [str(meta) for meta in found] for name, found in whole.functions.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("opset", [11, 13])
def test_opset_that_the_model_cannot_have_is_refused_with_the_lowest(graph: Graph, opset: int) -> None:
    said = f"opset cannot be written: decoder, No Adapter .*; expected 14 and up for this model, got {opset}"
    with pytest.raises(UsageError, match=said):
        FORMATS["onnx"].write(graph, WriteOptions(opset=opset))


@pytest.mark.slow
def test_export_of_an_older_opset_is_verified(decoder: Source, tmp_path: Path) -> None:
    artifact, certificate = export(decoder, tmp_path / "export", parts=["decoder"], opset=15)
    model = onnx.load_from_string(artifact.read(artifact.entry("decoder")))
    assert certificate.passed
    assert (artifact.manifest.opset, model.ir_version, model.opset_import[0].version) == (15, 8, 15)


@pytest.mark.parametrize("part", PARTS)
def test_file_states_its_part_contract_and_provenance(mlp: Exported, part: Part) -> None:
    model = onnx.load_from_string(mlp.artifact.read(mlp.artifact.entry(part)))
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert said["vae_export.part"] == part
    assert json.loads(said["vae_export.contract"]) == mlp.source.contract.spec(part).to_json()
    assert json.loads(said["vae_export.provenance"])["training"] == sample_models.PROVENANCE


@pytest.mark.parametrize("part", PARTS)
def test_file_has_no_external_data_and_passes_the_checker(mlp: Exported, part: Part, tmp_path: Path) -> None:
    path = tmp_path / "alone.onnx"
    path.write_bytes(mlp.artifact.read(mlp.artifact.entry(part)))
    model = onnx.load(path, load_external_data=False)
    assert not any(tensor.external_data or tensor.data_location for tensor in model.graph.initializer)
    onnx.checker.check_model(path, full_check=True)


@pytest.mark.parametrize("part", PARTS)
def test_batch_axis_is_named_as_in_the_contract(mlp: Exported, part: Part) -> None:
    graph = onnx.load_from_string(mlp.artifact.read(mlp.artifact.entry(part))).graph
    for value in (*graph.input, *graph.output):
        first, *rest = value.type.tensor_type.shape.dim
        assert first.dim_param == "N"
        assert all(dim.dim_value > 0 for dim in rest)
    assert {dim.dim_param for value in graph.value_info for dim in value.type.tensor_type.shape.dim} <= {"N", ""}


@pytest.mark.parametrize("part", PARTS)
def test_exporters_notes_are_removed(mlp: Exported, part: Part) -> None:
    """Notes on modules and scopes of the exported program are removed; the file's own metadata stays."""
    model = onnx.load_from_string(mlp.artifact.read(mlp.artifact.entry(part)))
    graph = model.graph
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        assert not item.metadata_props
        assert not item.doc_string
    assert all(entry.key.startswith("vae_export.") for entry in model.metadata_props)


@pytest.mark.slow
def test_writing_prints_nothing(tmp_path: Path) -> None:
    """The exporter of PyTorch prints lines with emoji to stdout."""
    from tests.commands import run_python

    code = """if True:
        from tests import sample_models
        from vae_export.capture import Graph, capture, onnx_translation
        from vae_export import Source
        from vae_export.formats import FORMATS, WriteOptions
        graph = capture(Source.of(sample_models.checkpoint("blog", (1, 4, 4))), "autoencoder")
        for format in sample_models.QUICK:
            FORMATS[format].write(graph, WriteOptions())
    """
    result: subprocess.CompletedProcess[str] = run_python(code, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


class SharedWeight(nn.Module):
    """One convolution twice, and once more transposed, which stays in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        image = self.convolution(torch.relu(self.convolution(latent)))
        return functional.conv_transpose2d(image, self.convolution.weight, padding=1)


@pytest.mark.parametrize("level", EXACT_LEVELS)
def test_weight_that_several_operators_share_is_quantised_for_exact_products(level: str) -> None:
    torch.manual_seed(0)
    source = Source(Contract((2, 4, 4), (2, 4, 4), None), decoder=SharedWeight())
    graph = capture(source, "decoder")
    content = FORMATS["onnx"].write(graph, WriteOptions(precision="int8"))
    nodes = onnx.load_from_string(content.data).graph.node
    assert len({node.input[1] for node in nodes if "Conv" in node.op_type}) == 3
    options = SessionOptions(optimisation=level, switches=(EXACT_INT8,))
    latent = np.random.default_rng(0).standard_normal((3, 2, 4, 4), dtype=np.float32)
    outputs = FORMATS["onnx"].open(content, graph.spec, options)({"latent": latent})
    with torch.no_grad():
        expected = graph.module(torch.from_numpy(latent)).numpy()
    np.testing.assert_allclose(next(iter(outputs.values())), expected, atol=0.05)
