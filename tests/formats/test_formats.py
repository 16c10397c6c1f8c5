"""Every format in the registry, with every family: a new format is tested by being there."""

from __future__ import annotations

import io
import site
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import sample_models
from tests.commands import ROOT, run_python
from tests.conftest import Exported
from vae_export import Source
from vae_export.artifact.folder import read_content
from vae_export.artifact.manifest import FileContent, FileEntry
from vae_export.capture import capture
from vae_export.contract import PARTS, Contract, Part
from vae_export.errors import ModelError
from vae_export.formats import FORMATS, WriteOptions
from vae_export.formats.base import Runner
from vae_export.models import FAMILIES
from vae_export.parity.oracle import evaluate_graph
from vae_export.session_options import SessionOptions
from vae_export.system.extras import EXTRAS

SOURCES = [*FAMILIES, "foreign"]
#: Formats that promise equal bytes for equal inputs, here without `aoti`, which is slow.
REPRODUCIBLE = tuple(format for format in sample_models.QUICK if format != "ort")
every_format = pytest.mark.parametrize("format", sample_models.QUICK)
every_source = pytest.mark.parametrize("name", SOURCES)
every_part = pytest.mark.parametrize("part", PARTS)


def opened(exported: Exported, part: Part, format: str) -> Runner:
    entry = exported.artifact.entry(part, format)
    provider = FORMATS[format].providers()[-1 if format != "onnx" else 0]
    spec = exported.source.contract.spec(part)
    return FORMATS[format].open(read_content(exported.artifact, entry), spec, SessionOptions(provider, threads=1))


def inputs(exported: Exported, part: Part, batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch)
    return {
        tensor.name: rng.uniform(0, 1, (batch, *tensor.fixed_item)).astype(np.float32)
        for tensor in exported.source.contract.spec(part).inputs
    }


@every_part
@every_format
@every_source
def test_outputs_match_pytorch_at_any_batch(
    exported: Callable[[str], Exported], name: str, format: str, part: Part
) -> None:
    export = exported(name)
    run, spec = opened(export, part, format), export.source.contract.spec(part)
    for batch in (1, 5, 64):
        given = inputs(export, part, batch)
        outputs, eager = run(given), evaluate_graph(export.graph(part), given)
        assert list(outputs) == [tensor.name for tensor in spec.outputs]
        for tensor in spec.outputs:
            tensor.check(outputs[tensor.name], batch=batch)
            np.testing.assert_allclose(outputs[tensor.name], eager[tensor.name], rtol=1e-4, atol=1e-5)


@every_format
@every_part
def test_bound_call_computes_what_a_run_computes(mlp: Exported, format: str, part: Part) -> None:
    run = opened(mlp, part, format)
    for batch in (1, 64, 5):
        given = inputs(mlp, part, batch)
        with run.bind(given) as bound:
            bound.call()
            outputs = bound.fetch(bound.call())
        expected = run(given)
        assert list(outputs) == list(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(outputs[name], array)


@every_format
def test_binding_restores_process_wide_settings(mlp: Exported, format: str) -> None:
    entry = mlp.artifact.entry("decoder", format)
    spec, provider = mlp.source.contract.spec("decoder"), FORMATS[format].providers()[0]
    run = FORMATS[format].open(read_content(mlp.artifact, entry), spec, SessionOptions(provider, threads=2))
    before = torch.get_num_threads(), torch.is_inference_mode_enabled()
    with pytest.raises(KeyError), run.bind(inputs(mlp, "decoder", 3)) as bound:
        bound.call()
        raise KeyError
    assert (torch.get_num_threads(), torch.is_inference_mode_enabled()) == before


def contents(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The bytes of a file, of each member if it is a zip archive, and of whatever in it is compressed."""
    yield "the file", data
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                member = archive.read(name)
                yield name, name.encode()
                yield from ((f"{name}: {inner}", found) for inner, found in contents(member))
    elif data[:1] == b"\x78":
        with_zlib = zlib.decompressobj()
        try:
            yield "decompressed", with_zlib.decompress(data)
        except zlib.error:
            return


#: What would tell where a file was made, or show a line of somebody's source.
TRACES = {
    str(ROOT),
    str(Path.home()),
    torch.__path__[0],
    *site.getsitepackages(),
    str(Path(io.__file__).parent),
    "/usr/",
    "/home/",
    "site-packages",
    'File "',
    "= self.encoder(image)",
    "self.body(image)",
}


def traces(data: bytes) -> list[str]:
    return [f"{trace} in {where}" for where, content in contents(data) for trace in TRACES if trace.encode() in content]


@every_format
@every_source
def test_file_has_no_path_or_source_line_of_this_machine(
    exported: Callable[[str], Exported], name: str, format: str
) -> None:
    artifact = exported(name).artifact
    for part in PARTS:
        for stored in artifact.entry(part, format).stored:
            assert traces(artifact.read(stored)) == []


def test_search_for_traces_finds_one() -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("debug", f'File "{ROOT}/vae_export/graphs.py", line 1')
    assert traces(archive.getvalue())
    assert traces(zlib.compress(str(ROOT).encode()))


@every_source
def test_pt2_file_has_no_example_inputs(exported: Callable[[str], Exported], name: str) -> None:
    """Example inputs would be stored as a pickle, which a loader runs."""
    artifact = exported(name).artifact
    for part in PARTS:
        with zipfile.ZipFile(io.BytesIO(artifact.read(artifact.entry(part, "pt2")))) as archive:
            inputs = [archive.read(name) for name in archive.namelist() if "sample_inputs" in name]
        assert not any(inputs), "records, if there are some, are empty"


def operators(content: FileContent, format: str) -> list[str]:
    """Return the operators of a file, as its own format names them."""
    data = content.data
    match format:
        case "onnx":
            import onnx

            return [node.op_type for node in onnx.load_from_string(data).graph.node]
        case "torchscript":
            with pytest.warns((DeprecationWarning, FutureWarning)):
                module = torch.jit.load(io.BytesIO(data))
            return [node.kind() for node in module.inlined_graph.nodes()]
        case "pt2":
            return [str(node.target) for node in torch.export.load(io.BytesIO(data)).graph.nodes]
        case "openvino":
            import openvino

            model = openvino.Core().read_model(data, content.sidecars[".bin"])
            return [node.get_type_name() for node in model.get_ops()]
        case "ort":
            from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import InferenceSession

            graph = InferenceSession.GetRootAs(data).Model().Graph()
            return [graph.Nodes(place).OpType().decode() for place in range(graph.NodesLength())]
    pytest.fail(f"say here how to list the operators of format {format}")


@every_format
@every_source
def test_file_has_no_stochastic_op_and_no_dropout(exported: Callable[[str], Exported], name: str, format: str) -> None:
    artifact = exported(name).artifact
    for part in PARTS:
        used = operators(read_content(artifact, artifact.entry(part, format)), format)
        assert used
        bad = ("dropout", "rand", "bernoulli", "normal", "multinomial")
        assert [name for name in used if any(word in name.lower().replace("normalization", "") for word in bad)] == []


@pytest.mark.slow
@pytest.mark.parametrize("format", REPRODUCIBLE)
def test_writing_again_gives_the_same_bytes(mlp: Exported, format: str) -> None:
    """The shared export made all parts in all formats, in another order, perhaps in another process."""
    options = options_of(mlp)
    for part in reversed(PARTS):
        entry = mlp.artifact.entry(part, format)
        again = FORMATS[format].write(capture(mlp.source, part), options[part])
        assert FileEntry.of(entry.name, part, format, again) == entry


@pytest.mark.slow
@pytest.mark.parametrize("name", ["blog", "foreign"])
def test_another_process_writes_the_same_bytes(exported: Callable[[str], Exported], name: str, tmp_path: Path) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from tests import sample_models
        from tests.formats.test_formats import REPRODUCIBLE, options_of, source_named
        from vae_export.capture import capture
        from vae_export.formats import FORMATS
        from vae_export.artifact.manifest import FileEntry, FileContent
        source = source_named(sys.argv[1])
        for format in reversed(REPRODUCIBLE):
            data = FORMATS[format].write(capture(source, "decoder"), options_of(source)["decoder"])
            entry = FileEntry.of("decoder" + FORMATS[format].suffix, "decoder", format, data)
            print(format, *(stored.sha256 for stored in entry.stored))
    """
    export = exported(name)
    (tmp_path / "elsewhere").mkdir()
    result = run_python(code, name if export.checkpoint is None else export.checkpoint, cwd=tmp_path / "elsewhere")
    assert result.returncode == 0, result.stderr
    said = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines()}
    entries = {format: export.artifact.entry("decoder", format) for format in REPRODUCIBLE}
    assert said == {format: [stored.sha256 for stored in entry.stored] for format, entry in entries.items()}


def source_named(name: str) -> Source:
    from vae_export import load_checkpoint

    return sample_models.foreign_source() if name == "foreign" else Source.of(load_checkpoint(name))


def options_of(export: Exported | Source) -> dict[Part, WriteOptions]:
    from vae_export.artifact.file_metadata import file_metadata
    from vae_export.formats import OPSET

    source = export.source if isinstance(export, Exported) else export
    return {part: WriteOptions(file_metadata(source.contract.spec(part), source.provenance), OPSET) for part in PARTS}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "operator"),
    [
        (lambda z: z + torch.randn_like(z), "randn_like"),
        (lambda z: z + torch.randn(z.shape[0], 4), "randn"),
        (lambda z: z + torch.rand(1), "rand"),
        (lambda z: torch.nn.functional.dropout(z, 0.5, training=True), "dropout"),
        (lambda z: z * torch.bernoulli(torch.sigmoid(z)), "bernoulli"),
        (lambda z: torch.normal(z, 1.0), "normal"),
        (lambda z: z.clone().uniform_(), "uniform"),
        (lambda z: torch.nn.functional.scaled_dot_product_attention(z, z, z, dropout_p=0.5), "scaled_dot_product"),
    ],
)
def test_stochastic_module_is_refused_with_the_operators_name(draw: Callable[[Tensor], Tensor], operator: str) -> None:
    decoder = torch.nn.Sequential(sample_models.Lambda(draw), torch.nn.Linear(4, 4), torch.nn.Unflatten(1, (1, 2, 2)))
    graph = capture(Source(Contract((1, 2, 2), (4,)), decoder=decoder), "decoder")
    for format in sample_models.QUICK:
        with pytest.raises(ModelError, match=rf"graph draws random numbers: decoder, operator aten\.{operator}"):
            FORMATS[format].write(graph, WriteOptions())


def test_writing_leaves_the_shared_program_unchanged(mlp: Exported) -> None:
    """All formats write from one captured program: the order in which they do must not matter."""
    graph = capture(mlp.source, "decoder")
    program = graph.program
    before = str(program), program.example_inputs, dict(program.state_dict)
    for format in sample_models.QUICK:
        FORMATS[format].write(graph, WriteOptions())
        assert graph.program is program
        assert (str(program), program.example_inputs) == before[:2], format
        assert all(program.state_dict[name] is tensor for name, tensor in before[2].items()), format


def test_dropout_as_the_last_layer_is_exported() -> None:
    decoder = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Unflatten(1, (1, 2, 2)), torch.nn.Dropout(0.5))
    graph = capture(Source(Contract((1, 2, 2), (4,)), decoder=decoder), "decoder")
    latent = {"latent": np.ones((3, 4), np.float32)}
    for format in sample_models.QUICK:
        data = FORMATS[format].write(graph, WriteOptions())
        run = FORMATS[format].open(data, graph.spec, SessionOptions(FORMATS[format].providers()[0], threads=1))
        np.testing.assert_allclose(run(latent)["image"], evaluate_graph(graph, latent)["image"], rtol=1e-5)


@pytest.mark.parametrize("format", FORMATS)
def test_format_describes_itself(format: str) -> None:
    item = FORMATS[format]
    assert item.name == format
    assert item.suffix.startswith(".")
    assert item.extra in EXTRAS
    assert item.summary
    assert "\n" not in item.summary
    if (reason := item.unavailable()) is None:
        assert item.providers()
    else:
        assert f"run: pip install 'vae-export[{item.extra}]'" in reason


def test_formats_have_distinct_suffixes() -> None:
    assert len({item.suffix for item in FORMATS.values()}) == len(FORMATS)
