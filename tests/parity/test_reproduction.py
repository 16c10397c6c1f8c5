"""Files that were changed where no probe may look: compared with what export writes, all are caught."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests import sample_models
from tests.parity.small_exports import Subject, assert_fails, onnx_data, tampered, verified
from tests.required import require_extra
from vae_export.artifact.manifest import FileContent, FileEntry
from vae_export.capture import Captured
from vae_export.contract import Part
from vae_export.formats import FORMATS, WriteOptions
from vae_export.formats.structure import differences
from vae_export.formats.torchscript import _ignored_deprecation
from vae_export.parity.reproduction import (
    FileWriter,
    Reproduction,
    ReproductionState,
    manifest_findings,
    reproduce,
    stated_provenance,
)
from vae_export.precision import PrecisionName

pytestmark = pytest.mark.slow

Change = Callable[[ModelProto], None]
DEPTHS = pytest.mark.parametrize("thorough", [False, True], ids=["depth of export", "thorough"])


def tensor(model: ModelProto, name: str) -> TensorProto:
    [found] = [one for one in model.graph.initializer if one.name == name]
    return found


def changed(name: str, change: Callable[[np.ndarray], object]) -> Change:
    """A change of an initialiser, in place."""

    def apply(model: ModelProto) -> None:
        values = numpy_helper.to_array(tensor(model, name)).copy()
        change(values)
        tensor(model, name).CopyFrom(numpy_helper.from_array(values, name))

    return apply


def exchange_columns(values: np.ndarray) -> None:
    values[:, [3, 4]] = values[:, [4, 3]]


def rotate_border(values: np.ndarray) -> None:
    values[:, :10] = np.roll(values[:, :10], 1, axis=1)


def make_overridable(model: ModelProto) -> None:
    weight = tensor(model, "encoder.body.1.weight")
    model.graph.input.append(helper.make_tensor_value_info(weight.name, TensorProto.FLOAT, ["a", weight.dims[1]]))


def set_metadata(key: str, old: str, new: str) -> Change:
    def apply(model: ModelProto) -> None:
        [entry] = [entry for entry in model.metadata_props if entry.key == key]
        assert old in entry.value
        entry.value = entry.value.replace(old, new)

    return apply


def insert_where(model: ModelProto) -> None:
    """Return another latent where a value of it is above 1000."""
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["mean_before" if name == "mean" else name for name in node.output]
    graph.initializer.append(numpy_helper.from_array(np.array(1000, np.float32), "far"))
    graph.node.append(helper.make_node("Greater", ["mean_before", "far"], ["is_far"]))
    graph.node.append(helper.make_node("Where", ["is_far", "far", "mean_before"], ["mean"]))


def set_attribute(model: ModelProto) -> None:
    [gemm] = [node for node in model.graph.node if "encoder.mean.weight" in node.input]
    [attribute] = [one for one in gemm.attribute if one.name == "alpha"]
    attribute.f = 1 + 2**-20


ONNX_CHANGES: dict[str, tuple[Change, str]] = {
    "two columns exchanged": (
        changed("encoder.body.1.weight", exchange_columns),
        r"initialiser 'encoder\.body\.1\.weight': \d+ of 8,192 values differ, first .* at \[0, 3\]; expected ",
    ),
    "border columns rotated": (changed("encoder.body.1.weight", rotate_border), r"'encoder\.body\.1\.weight': 3"),
    "clamp moved": (
        changed("min_val_cast", lambda values: values.fill(-8)),
        r"initialiser 'min_val_cast': 1 of 1 values differ, first -8 at \[\]; expected -30$",
    ),
    "clamp widened": (changed("max_val_cast", lambda values: values.fill(25)), r"'max_val_cast': .* first 25"),
    "a weight that callers may replace": (make_overridable, r"encoder\.body\.1\.weight: float \(a, 256\), an initial"),
    "contract in the metadata": (
        set_metadata("vae_export.contract", "1.0", "2.0"),
        r"metadata 'vae_export\.contract' is ….*2\.0.*; expected ….*1\.0",
    ),
    "provenance in the metadata": (set_metadata("vae_export.provenance", '"epoch": 0', '"epoch": 9'), r"epoch.: 9"),
    "metadata removed": (
        lambda model: model.ClearField("metadata_props"),
        r"'vae_export\.part' is missing; expected e",
    ),
    "branch on a value": (insert_where, r"Where '.*' is in the place of Gemm 'node_linear_\d'"),
    "attribute changed": (set_attribute, r"Gemm '.*': attribute 'alpha' is float 1\.0000009\d*; expected float 1\.0$"),
    "unused weight": (
        lambda model: model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "more")),
        r"constant 'more': no output depends on it",
    ),
}


@DEPTHS
@pytest.mark.parametrize("change", ONNX_CHANGES)
def test_changed_onnx_file_fails_and_the_difference_is_named(
    mlp: Subject, change: str, thorough: bool, tmp_path: Path
) -> None:
    apply, named = ONNX_CHANGES[change]
    model = onnx.load_from_string(mlp.data("encoder"))
    apply(model)
    artifact = tampered(mlp, tmp_path / "e", {("encoder", "onnx"): model.SerializeToString()})
    certificate = verified(artifact, mlp.references, thorough=thorough, allow_unreproduced=False)
    assert_fails(certificate)
    [reproduction] = certificate.reproductions
    assert reproduction.state == "different"
    assert any(re.search(named, line) for line in reproduction.differences), reproduction.differences
    rules = {finding.rule for finding in certificate.errors}
    assert "other-structure" in rules


def script_change(module: torch.jit.ScriptModule) -> None:
    """Multiply an output by a constant, as TorchScript's source would."""
    graph = module.graph
    [output] = list(graph.outputs())
    node = graph.create("aten::neg", [output], 1)
    graph.appendNode(node)
    graph.eraseOutput(0)
    graph.registerOutput(next(iter(node.outputs())))


def altered_torchscript(data: bytes) -> bytes:
    extra = {f"vae_export.{key}": "" for key in ("part", "contract", "provenance")}
    buffer = io.BytesIO()
    with _ignored_deprecation():
        module = torch.jit.load(io.BytesIO(data), _extra_files=extra)
        script_change(module)
        torch.jit.save(module, buffer, _extra_files=extra)
    return buffer.getvalue()


def with_weight(data: bytes, format: str, before: np.ndarray) -> bytes:
    """The file with one weight of the decoder changed in its last bit, where the file holds it as it is."""
    stored = np.ascontiguousarray(before).tobytes()
    place = data.find(stored)
    assert place > 0, format
    changed = bytearray(data)
    changed[place] ^= 1
    return bytes(changed)


@DEPTHS
def test_altered_torchscript_fails(mlp: Subject, thorough: bool, tmp_path: Path) -> None:
    data = altered_torchscript(mlp.data("decoder", "torchscript"))
    artifact = tampered(mlp, tmp_path / "e", {("decoder", "torchscript"): data})
    certificate = verified(artifact, mlp.references, thorough=thorough, allow_unreproduced=False)
    assert_fails(certificate)
    line, *further = certificate.reproductions[0].differences
    beside = r"record .*debug_pkl of [\d,]+ bytes|word \w+(, \d+ times)?"
    assert all(re.fullmatch(rf"({beside}); (export writes no such thing|the file lacks it)", one) for one in further)
    assert re.fullmatch(r"aten::neg '\d+' is in the place of aten::sigmoid '\d+'", line)


@pytest.mark.parametrize("format", ["onnx", "pt2", "ort"])
def test_last_bit_of_one_weight_is_named(mlp: Subject, format: str) -> None:
    weight = dict(mlp.graph("decoder").module.named_parameters())["decoder.body.0.weight"]
    data = with_weight(mlp.data("decoder", format), format, weight.numpy())
    entry = FileEntry.of("decoder", "decoder", format, FileContent(data))
    found = reproduce(entry, mlp.artifact.manifest, mlp.references.writer, lambda: FileContent(data))
    assert found.state == "different"
    [line] = found.differences
    assert line.startswith("initialiser 'decoder.body.0.weight': 1 of 192 values differ, first ")


@pytest.mark.parametrize("format", sample_models.QUICK)
def test_unchanged_files_are_reproduced(mlp: Subject, format: str) -> None:
    """A new writer has written none of them, and the ORT format alone has other bytes most times."""
    captured = Captured(mlp.source, mlp.artifact.manifest.contract)
    writer = FileWriter(captured, dict)
    entry = mlp.artifact.entry("decoder", format)
    content = FileContent(mlp.data("decoder", format), {one.suffix: mlp.artifact.read(one) for one in entry.beside})
    found = reproduce(entry, mlp.artifact.manifest, writer, lambda: content)
    states = ("same structure", "reproduced") if format == "ort" else ("reproduced",)  # its order is one of several
    assert found.state in states
    assert found.differences == ()


@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-static"])
def test_changed_row_or_scale_of_lower_precision_is_named(mlp: Subject, precision: PrecisionName) -> None:
    data = mlp.references.writer.write("decoder", "onnx", precision).data
    model = onnx.load_from_string(data)
    weights = [one for one in model.graph.initializer if numpy_helper.to_array(one).dtype == np.float16]
    scales = [one for one in model.graph.initializer if one.name.endswith("_scale") and one.dims]
    chosen = (weights or scales)[0]
    values = numpy_helper.to_array(chosen).copy()
    values[0] *= 1.02
    chosen.CopyFrom(numpy_helper.from_array(values, chosen.name))
    content = FileContent(model.SerializeToString())
    entry = FileEntry.of("decoder", "decoder", "onnx", content, precision)
    found = reproduce(entry, mlp.artifact.manifest, mlp.references.writer, lambda: content)
    assert found.state == "different"
    assert f"initialiser '{chosen.name}'" in found.differences[0]


def renamed(data: bytes) -> bytes:
    """The graph as another version of an exporter might write it: other names, order and defaults."""
    model = onnx.load_from_string(data)
    inner = {one.name: f"v{place}" for place, one in enumerate(model.graph.initializer)}
    inner |= {name: f"w.{name}" for node in model.graph.node for name in node.output}
    inner = {name: new for name, new in inner.items() if name not in {one.name for one in model.graph.output}}
    for node in model.graph.node:
        node.name = f"n.{node.name}"
        node.input[:] = [inner.get(name, name) for name in node.input]
        node.output[:] = [inner.get(name, name) for name in node.output]
        kept = [one for one in node.attribute if (one.name, one.f, one.i) not in (("alpha", 1, 0), ("transA", 0, 0))]
        del node.attribute[:]
        node.attribute.extend(kept)
    for one in model.graph.initializer:
        one.name = inner[one.name]
    del model.graph.value_info[:]
    backwards = list(model.graph.initializer)[::-1]
    del model.graph.initializer[:]
    model.graph.initializer.extend(backwards)
    model.producer_version = "2.0"
    return model.SerializeToString()


@DEPTHS
def test_file_of_another_version_with_the_same_structure_passes(mlp: Subject, thorough: bool, tmp_path: Path) -> None:
    artifact = tampered(mlp, tmp_path / "e", {("encoder", "onnx"): renamed(mlp.data("encoder"))})
    manifest = replace(artifact.manifest, versions={**artifact.manifest.versions, "torch": "2.0"})
    certificate = verified(
        replace(artifact, manifest=manifest), mlp.references, thorough=thorough, allow_unreproduced=False
    )
    certificate.require()
    [found] = certificate.reproductions
    here = torch.__version__
    assert found == Reproduction(
        "encoder.onnx", "same structure", (), f"its bytes differ, written by torch 2.0 (here {here})"
    )


def counting_rows(data: bytes, counted: str = "", end: int = 1, size: int | None = None) -> bytes:
    """An encoder whose Reshape takes the number of rows from a tensor, as earlier versions of the exporter write it.

    Args:
        counted: the tensor; empty for the input.
        end: where the sizes end that are read of it.
        size: the second size; None for the right one.
    """
    model = onnx.load_from_string(data)
    graph = model.graph
    reshape = next(node for node in graph.node if node.op_type == "Reshape")
    [shape] = [one for one in graph.initializer if one.name == reshape.input[1]]
    minus_one, columns = numpy_helper.to_array(shape).tolist()
    assert minus_one == -1
    graph.initializer.remove(shape)
    graph.initializer.append(numpy_helper.from_array(np.array([size or columns]), "columns"))
    place = list(graph.node).index(reshape)
    nodes = [
        helper.make_node("Shape", [counted or graph.input[0].name], ["rows"], start=0, end=end),
        helper.make_node("Concat", ["rows", "columns"], [shape.name], axis=0),
    ]
    rest = list(graph.node)[place:]
    del graph.node[place:]
    graph.node.extend([*nodes, *rest])
    return model.SerializeToString()


def state_of(subject: Subject, data: bytes, precision: PrecisionName = "fp32") -> ReproductionState:
    entry = FileEntry.of("encoder.onnx", "encoder", "onnx", FileContent(data), precision)
    return reproduce(entry, subject.artifact.manifest, subject.references.writer, lambda: FileContent(data)).state


def test_rows_that_are_counted_or_left_open_are_one_structure(mlp: Subject) -> None:
    data = mlp.data("encoder")
    assert state_of(mlp, counting_rows(data)) == "same structure"
    assert state_of(mlp, counting_rows(data, size=7)) == "different"
    assert state_of(mlp, counting_rows(data, end=2)) == "different"
    model = onnx.load_from_string(counting_rows(data))
    next(node for node in model.graph.node if node.op_type == "Shape").input[0] = "copied"
    for other, state in (
        (helper.make_node("Identity", ["image"], ["copied"]), "different"),
        (helper.make_node("Cast", ["image"], ["copied"], to=TensorProto.FLOAT16), "same structure"),  # as in fp16
    ):
        model.graph.node.insert(0, other)
        assert state_of(mlp, model.SerializeToString()) == state
        del model.graph.node[0]


@pytest.mark.parametrize(
    ("changes", "same"),
    [({}, True), ({"end": 2}, False), ({"counted": "image_1"}, False)],
    ids=["rows of the input", "two sizes", "rows of another value"],
)
def test_rows_that_are_counted_are_one_structure_in_openvino(
    mlp: Subject, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], same: bool
) -> None:
    """Its files are made of ONNX files, and earlier versions of the exporter count the rows there too."""
    require_extra("openvino")
    model = onnx.load_from_string(counting_rows(mlp.data("encoder"), **changes))
    if "counted" in changes:
        model.graph.node.insert(0, helper.make_node("Abs", ["image"], ["image_1"]))
    structures = []
    for data in (model.SerializeToString(), mlp.data("encoder")):
        monkeypatch.setattr("vae_export.formats.openvino.Onnx.write", lambda *_, data=data: FileContent(data))
        content = FORMATS["openvino"].write(mlp.graph("encoder"), WriteOptions({}))
        structures.append(FORMATS["openvino"].structure(content))
    [found, expected] = structures
    assert found is not None
    assert expected is not None
    assert (list(differences(found, expected)) == []) == same


def test_constants_that_are_joined_in_the_file_are_one_structure(mlp: Subject) -> None:
    for first, state in ((-1, "same structure"), (1, "different")):
        model = onnx.load_from_string(mlp.data("encoder"))
        reshape = next(node for node in model.graph.node if node.op_type == "Reshape")
        [shape] = [one for one in model.graph.initializer if one.name == reshape.input[1]]
        sizes = [first, numpy_helper.to_array(shape)[1]]
        model.graph.initializer.remove(shape)
        model.graph.initializer.extend(numpy_helper.from_array(np.array([n]), f"s{at}") for at, n in enumerate(sizes))
        model.graph.node.insert(0, helper.make_node("Concat", ["s0", "s1"], [shape.name], axis=0))
        assert state_of(mlp, model.SerializeToString()) == state


@pytest.mark.parametrize("precision", ["fp32", "int8", "int8-static"])
def test_kernel_of_a_convolution_may_be_left_to_its_weight(
    subject: Callable[..., Subject], precision: PrecisionName
) -> None:
    conv = subject("conv")
    for kernel, state in ((None, "same structure"), ([2, 2], "different")):
        model = onnx.load_from_string(conv.references.writer.write("encoder", "onnx", precision).data)
        node = next(node for node in model.graph.node if node.op_type in ("Conv", "ConvInteger"))
        [stated] = [one for one in node.attribute if one.name == "kernel_shape"]
        node.attribute.remove(stated)
        node.attribute.extend([] if kernel is None else [helper.make_attribute("kernel_shape", kernel)])
        assert state_of(conv, model.SerializeToString(), precision) == state


def test_unreproduced_file_passes_only_where_it_is_allowed(mlp: Subject, tmp_path: Path) -> None:
    model = onnx.load_from_string(mlp.data("encoder"))
    ONNX_CHANGES["unused weight"][0](model)
    artifact = tampered(mlp, tmp_path / "e", {("encoder", "onnx"): model.SerializeToString()})
    refused = verified(artifact, mlp.references, allow_unreproduced=False)
    allowed = verified(artifact, mlp.references, allow_unreproduced=True)
    assert not refused.passed
    assert not refused.failures
    allowed.require()
    assert [finding.severity for finding in allowed.findings if finding.rule == "other-structure"] == ["warning"]
    assert "encoder.onnx: not reproduced, judged by its outputs alone" in allowed.gaps
    assert allowed.to_json()["unreproduced_allowed"] is True
    assert json.loads(json.dumps(allowed.to_json()))["reproduction"]["encoder.onnx"]["state"] == "different"


def test_format_that_cannot_be_written_here_is_not_compared(mlp: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FORMATS["onnx"], "unavailable", lambda: "no onnxscript")
    entry = mlp.artifact.entry("decoder")
    found = reproduce(entry, mlp.artifact.manifest, mlp.references.writer, lambda: FileContent(b""))
    assert (found.state, found.reason, found.is_proof) == ("not compared", "no onnxscript", False)
    assert [finding.rule for finding in found.findings(allowed=False)] == ["not-reproduced"]


def test_file_of_another_exporter_need_not_describe_itself(mlp: Subject) -> None:
    """Where no manifest describes a file, it need not have our metadata; where it has some, they must be right."""
    bare = replace(mlp.artifact.manifest, opset=None, versions={}, provenance={}, golden=())
    manifest = replace(bare, is_of_single_file=True)
    part: Part = "decoder"
    for data, state in ((onnx_data(mlp, part, "fp32"), "same structure"), (mlp.data(part), "reproduced")):
        entry = FileEntry.of("x.onnx", part, "onnx", FileContent(data))
        found = reproduce(entry, manifest, mlp.references.writer, lambda data=data: FileContent(data))  # type: ignore[misc]
        assert found.state == state


def test_calibrated_file_may_differ_as_two_calibrations_do(mlp: Subject) -> None:
    data = mlp.references.writer.write("decoder", "onnx", "int8-static").data
    for error, state in ((1e-6, "same structure"), (1e-3, "different")):
        model = onnx.load_from_string(data)
        chosen = next(one for one in model.graph.initializer if one.name.endswith("_scale") and not one.dims)
        values = np.asarray(numpy_helper.to_array(chosen) * (1 + error), np.float32)
        chosen.CopyFrom(numpy_helper.from_array(values, chosen.name))
        content = FileContent(model.SerializeToString())
        entry = FileEntry.of("decoder", "decoder", "onnx", content, "int8-static")
        assert reproduce(entry, mlp.artifact.manifest, mlp.references.writer, lambda c=content: c).state == state  # type: ignore[misc]


@pytest.mark.parametrize("with_scale", [True, False])
@pytest.mark.parametrize("kind", ["zero_point", "bias_quantized"])
def test_integers_of_a_calibration_differ_only_where_their_scale_does(
    mlp: Subject, kind: str, with_scale: bool
) -> None:
    model = onnx.load_from_string(mlp.references.writer.write("decoder", "onnx", "int8-static").data)
    stored = {one.name: one for one in model.graph.initializer}
    type = TensorProto.UINT8 if kind == "zero_point" else TensorProto.INT32  # zero points of biases are 0
    nodes = [one for one in model.graph.node if one.op_type == "DequantizeLinear"]
    readers = {name: one for one in nodes for name in one.input if name in stored and name.endswith(kind)}
    name = next(name for name in readers if stored[name].data_type == type)
    stored[name].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(stored[name]) + 1, name))
    if with_scale:
        scale = stored[readers[name].input[1]]
        values = np.asarray(numpy_helper.to_array(scale) * np.float32(1 + 1e-6), np.float32)
        scale.CopyFrom(numpy_helper.from_array(values, scale.name))
    content = FileContent(model.SerializeToString())
    entry = FileEntry.of("decoder", "decoder", "onnx", content, "int8-static")
    found = reproduce(entry, mlp.artifact.manifest, mlp.references.writer, lambda: content)
    assert found.state == ("same structure" if with_scale else "different")


def test_openvino_weights_are_compared(mlp: Subject) -> None:
    entry = mlp.artifact.entry("decoder", "openvino")
    [sidecar] = entry.beside
    weights = bytearray(mlp.artifact.read(sidecar))
    weights[100] ^= 1
    content = FileContent(mlp.data("decoder", "openvino"), {sidecar.suffix: bytes(weights)})
    changed = FileEntry.of(entry.name, "decoder", "openvino", content)
    found = reproduce(changed, mlp.artifact.manifest, mlp.references.writer, lambda: content)
    assert found.state == "different"
    assert "1 of " in found.differences[0]


@pytest.mark.parametrize("format", sample_models.QUICK)
def test_structures_of_two_parts_differ(mlp: Subject, format: str) -> None:
    one, other = (mlp.references.writer.structure(part, format, "fp32", 20) for part in ("encoder", "decoder"))
    assert one is not None
    assert other is not None
    assert list(differences(one, one)) == []
    assert any("is in the place of" in line for line in differences(one, other))


def stated(mlp: Subject, **changes: object) -> list[tuple[str, str, str]]:
    """What is found about a manifest with other statements: severity, where, detail."""
    manifest = replace(mlp.artifact.manifest, **changes)  # type: ignore[arg-type]
    return [(one.severity, one.where, one.detail) for one in manifest_findings(manifest, mlp.source)]


def test_scores_in_the_provenance_are_those_of_the_checkpoint(mlp: Subject) -> None:
    right = mlp.artifact.manifest.provenance
    assert stated(mlp) == []
    praised = {**right, "training": {**right["training"], "scores": {"test": {"negative_elbo_nats_per_image": 60.0}}}}
    [(severity, where, detail)] = stated(mlp, provenance=praised)
    assert (severity, where) == ("error", "manifest.json, provenance.training.scores")
    assert detail.startswith("is stated; the source has none of {'test'")
    [(severity, where, detail)] = stated(mlp, provenance={**right, "training": {"epoch": 99}})
    assert (where, detail) == ("manifest.json, provenance.training.epoch", "is 99; the source says 0")
    [(_, where, detail)] = stated(mlp, provenance={key: right[key] for key in right if key != "training"})
    assert (where, detail) == ("manifest.json, provenance.training", "is missing; the source has {'epoch': 0}")


@DEPTHS
def test_false_provenance_fails_the_verification(mlp: Subject, thorough: bool, tmp_path: Path) -> None:
    artifact = tampered(mlp, tmp_path / "e", {("encoder", "onnx"): mlp.data("encoder")})
    provenance = {**artifact.manifest.provenance, "training": {"epoch": 99}}
    artifact = replace(artifact, manifest=replace(artifact.manifest, provenance=provenance))
    certificate = verified(artifact, mlp.references, thorough=thorough, allow_unreproduced=False)
    assert_fails(certificate)
    assert [finding.rule for finding in certificate.errors] == ["other-manifest"]
    assert certificate.reproductions[0].state == "reproduced"


def test_renamed_model_and_unknown_origin_are_warnings(mlp: Subject) -> None:
    right = mlp.artifact.manifest.provenance
    source = replace(mlp.source, provenance={**right, "name": "new"})
    manifest = replace(mlp.artifact.manifest, provenance={**right, "name": "old"})
    [finding] = manifest_findings(manifest, source)
    assert (finding.severity, finding.detail) == ("warning", "is old; the source says new")
    assert stated_provenance(manifest, source)["name"] == "old"
    unknown = replace(mlp.source, provenance={})
    assert [finding.rule for finding in manifest_findings(manifest, unknown)] == ["unknown-origin"]
    assert stated_provenance(manifest, unknown) == manifest.provenance


def test_versions_that_wrote_the_files_are_named_where_they_differ(mlp: Subject) -> None:
    versions = {**mlp.artifact.manifest.versions, "torch": "99.0"}
    [(severity, where, detail)] = stated(mlp, versions=versions)
    assert (severity, where) == ("warning", "manifest.json, versions.torch")
    assert detail.startswith("99.0 wrote the files, as nobody can check; verified with 2")
