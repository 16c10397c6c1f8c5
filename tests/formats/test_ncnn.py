"""ncnn's pairs of graph and weights: what is certified, what is refused by name, and what `verify` finds in them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import sample_models
from tests.commands import Invoke, run_python, tree
from tests.conftest import Exported
from tests.formats.one_format import assert_rows_are_computed_one_by_one, with_decoder_alone
from tests.formats.test_formats import traces
from tests.required import require_extra
from vae_export import Artifact, Certificate, Contract, Source, bundle, export, verify
from vae_export.artifact.folder import read_content
from vae_export.artifact.manifest import FileContent
from vae_export.capture import capture
from vae_export.contract import PARTS, Part
from vae_export.errors import ModelError, ParityError
from vae_export.formats import FORMATS, WriteOptions
from vae_export.formats.base import StatedFile
from vae_export.parity import References
from vae_export.parity.oracle import evaluate_graph
from vae_export.session_options import SessionOptions

pytestmark = pytest.mark.slow

NCNN = FORMATS["ncnn"]
CPU = SessionOptions("cpu", threads=1)
CONTRACT = Contract((1, 2, 2), (4,))


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    require_extra("ncnn")


@pytest.fixture(scope="module")
def references() -> References:
    return References(Source.of(sample_models.checkpoint()))


@pytest.fixture(scope="module")
def made(references: References, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Certificate]:
    return export(references, tmp_path_factory.mktemp("ncnn") / "export", formats=["ncnn"])


def decoder(module: nn.Module, contract: Contract = CONTRACT) -> Source:
    torch.manual_seed(0)
    return Source(contract, decoder=module)


def test_export_is_certified_and_says_what_made_it(made: tuple[Artifact, Certificate]) -> None:
    artifact, certificate = made
    assert certificate.passed
    assert {row.target for row in certificate.results if row.part in PARTS} == {"ncnn/cpu"}
    assert {"largest", "data"} <= {row.probe for row in certificate.results}
    assert {"ncnn", "pnnx", "torch"} <= set(artifact.manifest.versions)
    assert artifact.manifest.opset is None
    for part in PARTS:
        entry = artifact.entry(part, "ncnn")
        assert [stored.name for stored in entry.stored] == [f"{part}.ncnn.param", f"{part}.ncnn.bin"]
        for stored in entry.stored:
            assert traces(artifact.read(stored)) == []
    left = {"certificate.html", "certificate.json", "golden", "manifest.json"}
    assert {path.name for path in artifact.folder.iterdir()} - {
        stored.name for stored in artifact.manifest.stored
    } == left


def test_convolutions_are_certified(tmp_path: Path) -> None:
    source = Source.of(sample_models.checkpoint("conv", (1, 12, 12)))
    _, certificate = export(source, tmp_path / "out", formats=["ncnn"])
    assert certificate.passed


def deep_source() -> Source:
    """A network whose long sums ncnn computes too coarsely for a certificate on some processors."""
    return Source.of(sample_models.checkpoint("resnet", (1, 12, 12)))


@pytest.mark.parametrize("source", [sample_models.foreign_source, deep_source])
@pytest.mark.parametrize("part", PARTS)
def test_maps_attention_and_deep_networks_are_translated(source: Callable[[], Source], part: Part) -> None:
    """ncnn has no `mT`: PyTorch takes it apart first."""
    graph = capture(source(), part)
    given = {
        tensor.name: np.random.default_rng(0).standard_normal((3, *tensor.fixed_item)).astype(np.float32)
        for tensor in graph.spec.inputs
    }
    outputs = NCNN.open(NCNN.write(graph, WriteOptions()), graph.spec, CPU)(given)
    for name, expected in evaluate_graph(graph, given).items():
        np.testing.assert_allclose(outputs[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "function",
    [lambda x: x.flip(3), lambda x: x.cumsum(2), lambda x: x.softmax(1), torch.abs, lambda x: x @ x.transpose(2, 3)],
    ids=["flip", "cumsum", "softmax", "abs", "matmul"],
)
def test_rows_have_no_batch_axis_whatever_pnnx_makes_of_it(function: Callable[[Tensor], Tensor]) -> None:
    """pnnx keeps an axis of 1 where no operator tells which axis is the batch, and counts it in those of operators."""
    contract = Contract((2, 4, 4), (2, 4, 4), None)
    graph = capture(decoder(sample_models.Lambda(function), contract), "decoder")
    latent = {"latent": np.random.default_rng(0).standard_normal((3, 2, 4, 4)).astype(np.float32)}
    content = NCNN.write(graph, WriteOptions())
    outputs = NCNN.open(content, graph.spec, CPU)(latent)
    np.testing.assert_allclose(outputs["image"], evaluate_graph(graph, latent)["image"], rtol=1e-5, atol=1e-6)


def test_network_that_ncnn_computes_wrongly_is_refused(tmp_path: Path) -> None:
    """ncnn's remainder has the sign of the dividend, PyTorch's that of the divisor."""
    remainder = sample_models.Lambda(lambda x: torch.remainder(x, 0.7))
    source = decoder(nn.Sequential(nn.Linear(4, 4), remainder, nn.Unflatten(1, (1, 2, 2))))
    with pytest.raises(ParityError, match="decoder on ncnn/cpu"):
        export(source, tmp_path / "out", formats=["ncnn"])
    assert tree(tmp_path) == {}


def test_blobs_have_the_names_of_the_contract(made: tuple[Artifact, Certificate]) -> None:
    artifact, _ = made
    for part in PARTS:
        spec, text = artifact.manifest.contract.spec(part), read_content(artifact, artifact.entry(part, "ncnn")).data
        words = text.decode().split()
        for tensor in (*spec.inputs, *spec.outputs):
            assert tensor.name in words
        assert not {"in0", "out0"} & set(words)


def test_weights_have_32_bits(made: tuple[Artifact, Certificate], references: References) -> None:
    """pnnx rounds them to 16 unless it is told not to."""
    artifact, _ = made
    stored = read_content(artifact, artifact.entry("decoder", "ncnn")).sidecars[".bin"]
    numbers = np.frombuffer(stored, np.float32)
    for weight in references.captured.graph("decoder").module.parameters():
        assert set(weight.flatten().tolist()) <= set(numbers.tolist())


@pytest.mark.parametrize("part", PARTS)
def test_rows_are_computed_one_by_one(made: tuple[Artifact, Certificate], references: References, part: Part) -> None:
    assert_rows_are_computed_one_by_one(made[0], references, part, "ncnn")


def test_first_layer_in_place_leaves_the_input_and_lives() -> None:
    """ncnn counts the users of a blob before it writes to it, and crashes where memory that is NumPy's has no count."""
    graph = capture(decoder(nn.Sequential(nn.ReLU(), nn.Unflatten(1, (1, 2, 2)))), "decoder")
    run = NCNN.open(NCNN.write(graph, WriteOptions()), graph.spec, CPU)
    latent = np.array([[-1, 2, -3, 4]], np.float32)
    for _ in range(2):
        np.testing.assert_array_equal(run({"latent": latent})["image"].ravel(), [0, 2, 0, 4])


def test_another_process_writes_the_same_bytes(made: tuple[Artifact, Certificate], tmp_path: Path) -> None:
    code = """if True:
        from tests import sample_models
        from vae_export import Source
        from vae_export.artifact.manifest import FileEntry
        from vae_export.capture import capture
        from vae_export.formats import FORMATS, WriteOptions
        graph = capture(Source.of(sample_models.checkpoint()), "autoencoder")
        content = FORMATS["ncnn"].write(graph, WriteOptions())
        print(*(stored.sha256 for stored in FileEntry.of("a.ncnn.param", "autoencoder", "ncnn", content).stored))
    """
    artifact, _ = made
    done = run_python(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [stored.sha256 for stored in artifact.entry("autoencoder", "ncnn").stored]
    assert tree(tmp_path) == {}


def test_threads_that_share_a_core_do_not_hold_each_other_up(made: tuple[Artifact, Certificate]) -> None:
    """Threads that spin while they wait take their core from the thread that they wait for: 130 ms a row."""
    code = """if True:
        import os, sys, time
        import torch
        torch.ones(999, 999) @ torch.ones(999, 999)  # PyTorch's OpenMP library is loaded, and has threads
        import numpy as np
        from vae_export import open_artifact
        from vae_export.artifact.folder import read_content
        from vae_export.formats import FORMATS
        from vae_export.session_options import SessionOptions
        artifact = open_artifact(sys.argv[1])
        entry, spec = artifact.entry("decoder", "ncnn"), artifact.manifest.contract.spec("decoder")
        run = FORMATS["ncnn"].open(read_content(artifact, entry), spec, SessionOptions("cpu", threads=2))
        rows = {"latent": np.zeros((20, *spec.inputs[0].fixed_item), np.float32)}
        run(rows)
        core = min(os.sched_getaffinity(0))
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), {core})
        taken = []
        for _ in range(5):
            start = time.perf_counter()
            run(rows)
            taken.append(time.perf_counter() - start)
        print(min(taken) / 20, "OMP_WAIT_POLICY" in os.environ)
    """
    done = run_python(code, made[0].folder)
    assert done.returncode == 0, done.stderr
    seconds, changed = done.stdout.split()
    assert float(seconds) < 0.02
    assert changed == str("OMP_WAIT_POLICY" in os.environ)


def changed(artifact: Artifact, folder: Path, change: Callable[[FileContent], FileContent]) -> Artifact:
    """An export of the decoder alone, changed."""
    content = change(read_content(artifact, artifact.entry("decoder", "ncnn")))
    return with_decoder_alone(artifact, folder, "ncnn", content)


def one_weight(content: FileContent, by: float) -> FileContent:
    weights = np.frombuffer(content.sidecars[".bin"], np.float32).copy()
    weights[int(np.abs(weights).argmax())] += np.float32(by)
    return FileContent(content.data, {".bin": weights.tobytes()})


@pytest.mark.parametrize("by", [1e-5, 0.1])
def test_changed_weight_is_named(
    made: tuple[Artifact, Certificate], references: References, tmp_path: Path, by: float
) -> None:
    artifact = changed(made[0], tmp_path / "changed", lambda content: one_weight(content, by))
    certificate = verify(artifact, references, trust=True)
    assert not certificate.passed
    (finding,) = (finding for finding in certificate.errors if finding.rule == "other-structure")
    assert "initialiser 'weights': 1 of " in finding.detail
    assert [found.state for found in certificate.reproductions] == ["different"]


def test_changed_weight_is_found_by_its_outputs_alone(
    made: tuple[Artifact, Certificate], references: References, tmp_path: Path
) -> None:
    artifact = changed(made[0], tmp_path / "changed", lambda content: one_weight(content, 0.1))
    certificate = verify(artifact, references, trust=True, allow_unreproduced=True)
    with pytest.raises(ParityError, match=r"ncnn/cpu"):
        certificate.require()


def test_exchanged_layers_are_another_structure(made: tuple[Artifact, Certificate]) -> None:
    """The weights lie in the order of the layers, whatever their names."""
    content = read_content(made[0], made[0].entry("encoder", "ncnn"))
    lines = content.data.decode().splitlines()
    heads = [place for place, line in enumerate(lines) if line.split()[-1:] and {"mean", "logvar"} & set(line.split())]
    first, second = heads
    lines[first], lines[second] = lines[second], lines[first]
    other = FileContent("\n".join([*lines, ""]).encode(), content.sidecars)
    before, after = (NCNN.structure(one) for one in (content, other))
    assert before is not None
    assert after is not None
    assert {name: node.digest for name, node in before.outputs.items()} != {
        name: node.digest for name, node in after.outputs.items()
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: FileContent(c.data), "without its weights"),
        (lambda c: FileContent(c.data, {".bin": c.sidecars[".bin"][:-8]}), "cannot read the model"),
        (
            lambda c: FileContent(c.data.replace(b"Sigmoid", b"Sigmund"), c.sidecars),
            "does not know an operator.*Sigmund",
        ),
        (lambda c: FileContent(c.data.replace(b"latent", b"letter"), c.sidecars), "inputs do not match the contract"),
        (lambda c: FileContent(c.data.replace(b"image", b"bitmap"), c.sidecars), "outputs do not match the contract"),
    ],
)
def test_damaged_model_is_refused(
    made: tuple[Artifact, Certificate],
    references: References,
    change: Callable[[FileContent], FileContent],
    reason: str,
) -> None:
    artifact, _ = made
    content = change(read_content(artifact, artifact.entry("decoder", "ncnn")))
    with pytest.raises(ModelError, match=reason):
        NCNN.open(content, references.captured.graph("decoder").spec, CPU)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"7767517\n",
        b"7767517\n1 1\nInput a 0 1\n",
        b"7767517\n1 1\nReLU a 1 1 b c\n",
        b"7767518\n1 1\nInput a 0 1 a\n",
    ],
)
def test_text_that_is_no_model_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"not (a layer|an ncnn model)|not enough values"):
        list(NCNN.lint(FileContent(text, {".bin": b""}), StatedFile("decoder.ncnn.param")))


def twice(hidden: Tensor) -> Tensor:
    return torch.special.i0(hidden)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (lambda: decoder(nn.Sequential(sample_models.Lambda(twice), nn.Unflatten(1, (1, 2, 2)))), "i0"),
        (
            lambda: decoder(nn.ConvTranspose2d(4, 1, 2, 2), Contract((1, "2*h", "2*w"), (4, "h", "w"))),
            r"ncnn models have fixed sizes: decoder, tensor 'latent'; expected numbers, got \(4, 'h', 'w'\)",
        ),
        (
            lambda: decoder(
                nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Unflatten(1, (1, 2, 2))),
                Contract((1, 2, 2), (1,), encoding="codes", codebook_size=7, code_dtype="int64"),
            ),
            "ncnn models take and give float32: decoder, tensor 'codes'; expected float32, got int64",
        ),
    ],
    ids=["operator", "sizes", "integers"],
)
def test_network_that_ncnn_has_no_words_for_is_refused(
    source: Callable[[], Source], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=reason):
        export(source(), tmp_path / "out", formats=["ncnn"])
    assert tree(tmp_path) == {}


def test_bytes_for_a_screen_are_refused(references: References, tmp_path: Path) -> None:
    reported: list[str] = []
    with pytest.raises(ModelError, match=r"decoder-uint8-hwc, tensor 'pixels'; expected float32, got uint8"):
        options: dict[str, Any] = {"parts": ["decoder"], "pixels": ["uint8-hwc"], "report": reported.append}
        export(references, tmp_path / "out", formats=["ncnn"], **options)
    assert reported == [], "it is refused before the decoder is captured"


def test_bundle_has_both_files(made: tuple[Artifact, Certificate], tmp_path: Path) -> None:
    packed = bundle(made[0], tmp_path / "model.zip")
    assert {"decoder.ncnn.param", "decoder.ncnn.bin"} <= {stored.name for stored in packed.manifest.stored}


def test_missing_pnnx_is_reported_with_the_pip_line(
    mlp: Exported, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pnnx", None)
    refused = invoke("export", "--checkpoint", mlp.checkpoint, "--out", tmp_path / "out", "--format", "ncnn")
    wanted = "pnnx is not installed; run: pip install 'vae-export[ncnn]'"
    assert refused.err == f"vae-export: error: format ncnn cannot be written here; got {wanted}\n"
    assert refused.code == 6


def test_model_is_left_out_of_all_and_of_the_untrusted(
    mlp: Exported, made: tuple[Artifact, Certificate], invoke: Invoke
) -> None:
    from vae_export.cli.export import _formats

    assert "ncnn" not in _formats(["all"], ("fp32",))
    assert "ncnn" in _formats(["all", "ncnn"], ("fp32",))
    file = made[0].folder / "decoder.ncnn.param"
    refused = invoke("verify", "--checkpoint", mlp.checkpoint, "--file", file, "--part", "decoder")
    assert refused.code == 2
    assert "is checked by nobody before ncnn reads it" in refused.err
