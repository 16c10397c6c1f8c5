"""Files with content that no engine here uses: another reader may, so each is named as a difference."""

from __future__ import annotations

import copy
import io
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import InferenceSession
from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.TensorTypeAndShape import TensorTypeAndShape

from tests.parity.small_exports import HIDDEN, Subject, assert_fails, tampered, verified
from tests.required import require_extra
from vae_export.artifact.folder import open_artifact, read_content
from vae_export.artifact.manifest import MANIFEST, FileContent, FileEntry
from vae_export.errors import ModelError
from vae_export.formats import FORMATS, WriteOptions, versions
from vae_export.formats.onnx import Onnx
from vae_export.formats.onnx_structure import onnx_structure
from vae_export.formats.structure import Structure, differences
from vae_export.formats.torch_structure import script_structure
from vae_export.formats.torchscript import _ignored_deprecation
from vae_export.parity import verify
from vae_export.parity.reproduction import Reproduction, manifest_findings, reproduce

pytestmark = pytest.mark.slow


def compared(subject: Subject, format: str, change: Callable[[FileContent], FileContent]) -> Reproduction:
    """The comparison of a changed decoder with the one that is written anew."""
    content = change(read_content(subject.artifact, subject.artifact.entry("decoder", format)))
    entry = FileEntry.of("decoder", "decoder", format, content)
    return reproduce(entry, subject.artifact.manifest, subject.references.writer, lambda: content)


def assert_named(found: Reproduction, named: str) -> None:
    assert not found.is_proof
    lines = [*found.differences, str(found.reason)]
    assert any(re.search(named, line) for line in lines), lines


# --- ONNX ---------------------------------------------------------------------------------------------------------


def weight(model: ModelProto) -> TensorProto:
    return next(one for one in model.graph.initializer if len(one.dims) == 2)


def gemm(model: ModelProto) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == "Gemm")


def training_information(model: ModelProto) -> None:
    model.training_info.add().algorithm.node.append(helper.make_node("Identity", ["a"], ["b"]))


def unknown_field(model: ModelProto) -> None:
    model.MergeFromString(b"\xfa\x3f\x05hello")  # number 1023


def note_of_an_operator(model: ModelProto) -> None:
    model.graph.node[0].doc_string = "audited"


def metadata_of_an_operator(model: ModelProto) -> None:
    entry = model.graph.node[0].metadata_props.add()
    entry.key, entry.value = "score", "1.0"


def note_of_an_output(model: ModelProto) -> None:
    model.graph.output[0].doc_string = "in [-1, 1]"


def meaning_of_an_axis(model: ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[0].denotation = "DATA_CHANNEL"


def note_of_a_weight(model: ModelProto) -> None:
    weight(model).doc_string = "audited"


def name_of_the_graph(model: ModelProto) -> None:
    model.graph.name = "another"


def version_of_the_model(model: ModelProto) -> None:
    model.model_version = 7


def quantisation_of_a_weight(model: ModelProto) -> None:
    model.graph.quantization_annotation.add().tensor_name = weight(model).name


def metadata_twice(model: ModelProto) -> None:
    entries = [copy.deepcopy(entry) for entry in model.metadata_props]
    del model.metadata_props[:]
    for entry in entries:
        if entry.key == "vae_export.provenance":
            model.metadata_props.add(key=entry.key, value=entry.value.replace("0", "9"))
        model.metadata_props.append(entry)


def metadata_with_the_name_of_a_fact(model: ModelProto) -> None:
    model.metadata_props.add(key="producer", value="audited")


def attribute_twice(model: ModelProto) -> None:
    node = gemm(model)
    right = [copy.deepcopy(one) for one in node.attribute]
    del node.attribute[:]
    node.attribute.extend([helper.make_attribute("alpha", 2.0), *right])


def operator_set_twice(model: ModelProto) -> None:
    sets = [copy.deepcopy(one) for one in model.opset_import]
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("ai.onnx", 11), *sets])


def weight_with_two_values(model: ModelProto) -> None:
    tensor = weight(model)
    tensor.float_data.extend([9.0] * int(np.prod(tensor.dims)))


def weight_outside_that_is_not_used(model: ModelProto) -> None:
    entry = weight(model).external_data.add()
    entry.key, entry.value = "location", "decoder.data"


def weight_twice(model: ModelProto) -> None:
    other = copy.deepcopy(weight(model))
    other.raw_data = (numpy_helper.to_array(other) * np.float32(1.5)).tobytes()
    model.graph.initializer.append(other)
    model.graph.initializer.append(copy.deepcopy(weight(model)))


def output_twice(model: ModelProto) -> None:
    model.graph.output.append(copy.deepcopy(model.graph.output[0]))


def sizes_of_an_inner_value(model: ModelProto) -> None:
    for value in model.graph.value_info:
        value.type.tensor_type.shape.dim[0].dim_value = 7


def sizes_twice(model: ModelProto) -> None:
    value = copy.deepcopy(model.graph.value_info[0])
    value.type.tensor_type.shape.dim[0].dim_value = 7
    model.graph.value_info.insert(0, value)


def version_of_an_operator(model: ModelProto) -> None:
    gemm(model).overload = "other"


def function(model: ModelProto) -> None:
    body = [helper.make_node("Tanh", ["A"], ["Y"])]
    model.functions.append(helper.make_function("", "Sigmoid", ["A"], ["Y"], body, [helper.make_opsetid("", 20)]))


def sizes_of_no_value(model: ModelProto) -> None:
    model.graph.value_info.append(helper.make_tensor_value_info("nothing", onnx.TensorProto.FLOAT, [7]))


ONNX_CONTENT: dict[Callable[[ModelProto], None], str] = {
    training_information: r"training_info of ModelProto",
    unknown_field: r"8 bytes in unknown fields",
    note_of_an_operator: r"doc_string of NodeProto 'node_\w+': audited",
    metadata_of_an_operator: r"metadata_props of NodeProto",
    note_of_an_output: r"doc_string of ValueInfoProto 'image': in \[-1, 1\]",
    meaning_of_an_axis: r"denotation of Dimension",
    note_of_a_weight: r"doc_string of TensorProto 'decoder",
    name_of_the_graph: r"name of GraphProto 'another'",
    version_of_the_model: r"model_version of ModelProto 'ModelProto': 7",
    quantisation_of_a_weight: r"quantization_annotation of GraphProto",
    metadata_twice: r"metadata 'vae_export\.provenance' 2 times",
    metadata_with_the_name_of_a_fact: r"metadata 'producer' is audited; expected none",
    attribute_twice: r"attribute of 'node_linear\w*' 'alpha' 2 times",
    operator_set_twice: r"operator set '' 2 times",
    weight_with_two_values: r"float_data of TensorProto 'decoder",
    weight_outside_that_is_not_used: r"external data of 'decoder\.body\.0\.weight', which is not used",
    weight_twice: r"value 'decoder\.body\.0\.weight' 3 times",
    output_twice: r"output 'image' 2 times",
    sizes_of_an_inner_value: r"what is stated of it is 1 \(7, \d+\); expected 1 \(\?, \d+\)",
    sizes_of_no_value: r"sizes 1 \(7\) of 'nothing', which is no value here; export writes no such thing",
    sizes_twice: r"what is stated of it is .* and .*; expected",
    version_of_an_operator: r"overload of NodeProto 'node_linear\w*': other",
    function: r"'function  Sigmoid' is ",
}


@pytest.mark.parametrize("change", ONNX_CONTENT, ids=lambda change: change.__name__)
def test_content_of_onnx_that_is_not_run_is_named(mlp: Subject, change: Callable[[ModelProto], None]) -> None:
    def changed(content: FileContent) -> FileContent:
        model = onnx.load_from_string(content.data)
        change(model)
        return FileContent(model.SerializeToString())

    data = read_content(mlp.artifact, mlp.artifact.entry("decoder")).data
    lines = list(differences(onnx_structure(changed(FileContent(data)).data), onnx_structure(data)))
    assert any(re.search(ONNX_CONTENT[change], line) for line in lines), lines
    assert compared(mlp, "onnx", changed).state == "different"


def test_long_content_is_shown_by_its_hash(mlp: Subject) -> None:
    structures = []
    for last in "ab":
        model = onnx.load_from_string(mlp.data("decoder"))
        model.graph.node[0].doc_string = 10_000 * "x" + last
        model.graph.quantization_annotation.extend([onnx.TensorAnnotation(tensor_name=last)] * 1_000)
        structures.append(onnx_structure(model.SerializeToString()))
    first, second = structures
    lines = list(differences(first, second))
    assert len(lines) == 4  # one and the other, of each
    assert max(map(len, lines)) < 250


def test_hidden_content_fails_the_verification(mlp: Subject, tmp_path: Path) -> None:
    model = onnx.load_from_string(mlp.data("decoder"))
    metadata_twice(model)
    artifact = tampered(mlp, tmp_path / "e", {("decoder", "onnx"): model.SerializeToString()})
    certificate = verified(artifact, mlp.references, allow_unreproduced=False)
    assert_fails(certificate)
    assert not certificate.failures
    assert [finding.rule for finding in certificate.errors] == ["other-structure"]


def test_weight_inside_a_file_with_weights_outside_is_read_where_engines_read_it(mlp: Subject) -> None:
    """An engine follows the stated place of a weight, and not its entry for another file."""
    content = Onnx(max_inside=0).write(mlp.graph("decoder"), WriteOptions())
    [sidecar] = content.sidecars.values()
    model = onnx.load_model_from_string(content.data)
    tensor = next(one for one in model.graph.initializer if one.external_data)
    length = next(int(entry.value) for entry in tensor.external_data if entry.key == "length")
    tensor.data_location, tensor.raw_data = TensorProto.DEFAULT, bytes(length)
    right, wrong = (onnx_structure(data, [sidecar]) for data in (content.data, model.SerializeToString()))
    lines = list(differences(wrong, right))
    assert any(line.startswith(f"initialiser '{tensor.name}': ") for line in lines), lines
    tensor.data_location = TensorProto.EXTERNAL  # and now both
    further = onnx_structure(model.SerializeToString(), [sidecar]).further
    assert any(line.startswith(f"raw_data of TensorProto '{tensor.name}'") for line in further)
    assert onnx_structure(content.data, [sidecar + b"more"]).further[-1] == "4 bytes of weights that nothing reads"
    assert not any("nothing reads" in line for line in onnx_structure(content.data, [sidecar]).further)


def test_sidecar_that_export_does_not_write_is_named(mlp: Subject) -> None:
    found = compared(mlp, "onnx", lambda content: FileContent(content.data, {".data": b"hidden"}))
    assert found.state == "different"
    assert "sidecar .data; export writes none" in found.differences


def test_pieces_of_a_split_are_counted() -> None:
    """Before operator set 18, the size of each piece follows from their number."""

    def structure(pieces: int):  # type: ignore[no-untyped-def]
        names = ["y", *(f"z{place}" for place in range(pieces - 1))]
        graph = helper.make_graph(
            [helper.make_node("Split", ["x"], names, axis=1)],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", None])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
        return onnx_structure(model.SerializeToString())

    assert list(differences(structure(2), structure(2))) == []
    assert any("attribute 'outputs' is 4" in line for line in differences(structure(4), structure(2)))


def test_step_of_a_calibrated_value_is_one(mlp: Subject) -> None:
    """Calibrations may move a zero point by 1, but not that of one of two operators that undo each other."""
    content = mlp.references.writer.write("decoder", "onnx", "int8-static")
    model = onnx.load_from_string(content.data)
    node = next(node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0][0] != "d")
    made_by = next(other for other in model.graph.node if node.input[0] in other.output)
    assert made_by.op_type == "QuantizeLinear"
    zero = next(one for one in model.graph.initializer if one.name == node.input[2])
    moved = np.asarray(numpy_helper.to_array(zero) ^ 1)
    model.graph.initializer.append(numpy_helper.from_array(moved, "moved"))
    node.input[2] = "moved"
    changed = FileContent(model.SerializeToString())
    entry = FileEntry.of("decoder", "decoder", "onnx", changed, "int8-static")
    found = reproduce(entry, mlp.artifact.manifest, mlp.references.writer, lambda: changed)
    assert_named(found, r"attribute 'undoes' is another step; expected what it reads")


def _scaled(model: ModelProto, name: str) -> None:
    tensor = next(one for one in model.graph.initializer if one.name == name)
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(array * np.float32(1 + 5e-6)), name))


def scale_of_a_weight(model: ModelProto) -> None:
    _scaled(model, "decoder.body.4.weight_scale")


def zero_point_of_a_bias(model: ModelProto) -> None:
    _scaled(model, "decoder.body.4.bias_quantized_scale")
    name = "decoder.body.4.bias_quantized_zero_point"
    tensor = next(one for one in model.graph.initializer if one.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.int32(1), name))


def sizes_that_export_does_not_state(model: ModelProto) -> None:
    value = next(node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear")
    model.graph.value_info.append(helper.make_tensor_value_info(value, TensorProto.UINT8, ["N", 77]))


CALIBRATED_CONTENT: dict[Callable[[ModelProto], None], str] = {
    scale_of_a_weight: r"initialiser 'decoder\.body\.4\.weight_scale': 256 of 256 values differ",
    zero_point_of_a_bias: r"initialiser 'decoder\.body\.4\.bias_quantized_zero_point': 256 of 256 values differ",
    sizes_that_export_does_not_state: r"QuantizeLinear '\w+': what .* is 2 \(\?, 77\); expected 2 \(\?, 6\)",
}


@pytest.mark.parametrize("change", CALIBRATED_CONTENT, ids=lambda change: change.__name__)
def test_calibration_excuses_nothing_else(mlp: Subject, change: Callable[[ModelProto], None]) -> None:
    """Ranges of activations depend on the last bits of a processor; weights, bits and sizes do not."""
    content = mlp.references.writer.write("decoder", "onnx", "int8-static")
    model = onnx.load_from_string(content.data)
    _scaled(model, "relu_scale")

    def found() -> Reproduction:
        changed = FileContent(model.SerializeToString())
        entry = FileEntry.of("decoder", "decoder", "onnx", changed, "int8-static")
        return reproduce(entry, mlp.artifact.manifest, mlp.references.writer, lambda: changed)

    assert found().is_proof
    change(model)
    assert_named(found(), CALIBRATED_CONTENT[change])


def test_version_that_a_file_states_is_the_manifests(mlp: Subject) -> None:
    def other_torch(content: FileContent) -> FileContent:
        model = onnx.load_from_string(content.data)
        model.producer_version = "2.1.0"
        return FileContent(model.SerializeToString())

    def other_openvino(content: FileContent) -> FileContent:
        text = re.sub(rb'(name="OpenVINO Runtime" value=")\d+', rb"\g<1>1999", content.data)
        return replace(content, data=text)

    assert_named(compared(mlp, "onnx", other_torch), r"torch 2\.1\.0 wrote it, as it says; the manifest says 2\.")
    assert_named(
        compared(mlp, "openvino", other_openvino), r"openvino 1999\.\S+ wrote it, as it says; the manifest says 20"
    )


# --- archives of PyTorch ------------------------------------------------------------------------------------------


def rezipped(
    data: bytes,
    first: Callable[[dict[str, bytes]], dict[str, bytes]] = lambda _: {},
    last: Callable[[dict[str, bytes]], dict[str, bytes]] = lambda _: {},
) -> bytes:
    """The archive with more records before and behind its own."""
    source, target = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    root = source.namelist()[0].partition("/")[0]
    records = {name.partition("/")[2]: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, record in [*first(records).items(), *records.items(), *last(records).items()]:
            archive.writestr(f"{root}/{name}", record)
    return target.getvalue()


def with_record(name: str, record: bytes) -> Callable[[bytes], bytes]:
    """Return a change that puts a record behind those of an archive."""
    return lambda data: rezipped(data, last=lambda _: {name: record})


def edited_records(data: bytes, name: str, change: Callable[[bytes], bytes]) -> bytes:
    """The archive with a change of the records whose name ends so."""
    source, target = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for record in source.namelist():
            content = source.read(record)
            archive.writestr(record, change(content) if record.endswith(name) else content)
    return target.getvalue()


def edited(name: str, old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """A change of a text in the records whose name ends so."""

    def change(record: bytes) -> bytes:
        assert old in record
        return record.replace(old, new, 1)

    return lambda data: edited_records(data, name, change)


def is_code(name: str) -> bool:
    return name.endswith(".py")


def record_that_is_not_listed(data: bytes) -> bytes:
    """The archive with a record between two others, which only its own header names."""
    source, target = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in source.namelist():
            archive.writestr(name, source.read(name))
            if len(archive.filelist) == 2:
                archive.writestr("hidden", b"audited")
                archive.filelist.pop()
                del archive.NameToInfo["hidden"]
    return target.getvalue()


def note_of_a_record(data: bytes) -> bytes:
    source, target = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in source.namelist():
            record = zipfile.ZipInfo(name)
            record.comment = b"audited"
            archive.writestr(record, source.read(name))
    return target.getvalue()


def header(at: int, value: bytes, sign: bytes = b"PK\x03\x04") -> Callable[[bytes], bytes]:
    """Return a change of a header's bytes: of the third record's by default, or of the last one with this sign."""

    def change(data: bytes) -> bytes:
        third = zipfile.ZipFile(io.BytesIO(data)).infolist()[2].header_offset
        place = (third if sign == b"PK\x03\x04" else data.rindex(sign)) + at
        assert data[place : place + len(value)] != value
        return data[:place] + value + data[place + len(value) :]

    return change


ARCHIVES: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "a time of a record": (
        "torchscript",
        header(10, b"\x21\x43\x65\x57"),
        r"header of record archive/.*; export writes no",
    ),
    "a size of a record that PyTorch passes over": ("pt2", header(22, b"\x07"), r"header of record archive/"),
    "another checksum behind a record": ("pt2", header(4, b"\0\1\2\3", b"PK\x07\x08"), r"header of record archive/"),
    "rights of a record": ("pt2", header(38, b"\0\0\xff\1", b"PK\x01\x02"), r"header of record archive/"),
    "a program for phones": (
        "torchscript",
        with_record("bytecode.pkl", b"\x80\x02)."),
        r"record bytecode\.pkl of 4 bytes; export writes no such thing",
    ),
    "a text more": (
        "torchscript",
        with_record("extra/notes", b"audited"),
        r"metadata 'notes' is audited; expected none",
    ),
    "a class more": (
        "torchscript",
        with_record("code/__torch__/more.py", b"class More:\n  pass\n"),
        r"definition of class More; export writes no such thing",
    ),
    "a comment in the code": (
        "torchscript",
        lambda data: edited_records(data, ".py", lambda record: record + b"# free of licence\n"),
        r"comment # free of licence; export writes no such thing",
    ),
    "a tensor more": (
        "torchscript",
        with_record("constants/99", b"more"),
        r"1 constants that no code reads; export writes no such thing",
    ),
    "a text in place of a number": (
        "torchscript",
        with_record(".data/serialization_id", b"free of licence"),
        r"record \.data/serialization_id with a text; export writes no such thing",
    ),
    "a version in words": (
        "torchscript",
        with_record("byteorder", b"audited"),
        r"record byteorder with a text; export writes no such thing",
    ),
    "a text with the name of a fact": (
        "torchscript",
        with_record("extra/methods", b"audited"),
        r"metadata 'methods' is audited; expected none",
    ),
    "a text behind the objects": (
        "torchscript",
        lambda data: edited_records(data, "constants.pkl", lambda record: record + b"audited"),
        r"7 bytes behind the objects of constants\.pkl; export writes no such thing",
    ),
    "an attribute of a class": (
        "torchscript",
        edited(".py", b"__buffers__ = []", b'__buffers__ = ["audited", ]'),
        r"attribute __buffers__ = \[\"audited\", \]; export writes no such thing",
    ),
    "a text in the code": (
        "torchscript",
        edited(".py", b"    return ", b'    free = "audited"\n    return '),
        r"text \"audited\"; export writes no such thing",
    ),
    "a branch that is never taken": (
        "torchscript",
        edited(".py", b"    return ", b"    if False:\n      print(1)\n    else:\n      pass\n    return "),
        r"word print; export writes no such thing",
    ),
    "another name of an argument": (
        "torchscript",
        lambda data: edited_records(data, ".py", lambda record: re.sub(rb"\binput\b", b"z", record)),
        r"'methods' is forward\(Tensor z\); expected forward\(Tensor input\)",
    ),
    "a class of the same name": (
        "torchscript",
        lambda data: rezipped(
            data, last=lambda records: {"code/__torch__/___torch_mangle_99.py": records[next(filter(is_code, records))]}
        ),
        r"definition of class DecoderModule, 2 times; export writes no such thing",
    ),
    "a record that is not listed": ("torchscript", record_that_is_not_listed, r"bytes between the records"),
    "a note of a record": ("torchscript", note_of_a_record, r"note of record archive/data\.pkl; export"),
    "a guard": (
        "pt2",
        edited("model.json", b'"guards_code": []', b'"guards_code": ["L[\'latent\'].size()[0] != 333"]'),
        r"program\.guards_code\.0: L\['latent'\].* != 333; export writes no such thing",
    ),
    "a note of an operator": (
        "pt2",
        edited("model.json", b'"metadata": {}', b'"metadata": {"audited": "yes"}'),
        r"metadata\.audited: yes; export writes no such thing",
    ),
    "a weight that the program does not name": (
        "pt2",
        with_record("data/weights/weight_99", b"audited"),
        r"record data/weights/weight_99, which the program does not name",
    ),
    "another version that it states": (
        "pt2",
        edited("model.json", b'"torch_version": "', b'"torch_version": "1'),
        r"torch 1\d+\.\S+ wrote it, as it says; the manifest says",
    ),
    "bytes behind the archive": ("torchscript", lambda data: data + b"more", r"4 bytes around the records"),
    "two contracts": (
        "torchscript",
        lambda data: rezipped(
            data,
            first=lambda records: {
                name: record.replace(b"1.0", b"2.0") for name, record in records.items() if name.endswith("contract")
            },
        ),
        r"extra/vae_export\.contract 2 times",
    ),
    "two programs of one name": (
        "pt2",
        lambda data: rezipped(
            data, first=lambda records: {"models/model.json": records["models/model.json"].replace(b"sigmoid", b"tanh")}
        ),
        r"models/model\.json 2 times",
    ),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ARCHIVES)
def test_content_of_an_archive_that_is_not_run_is_named(mlp: Subject, name: str) -> None:
    format, change, named = ARCHIVES[name]
    assert_named(compared(mlp, format, lambda content: FileContent(change(content.data))), named)


def test_attribute_and_hook_of_a_torchscript_module_are_named(mlp: Subject) -> None:
    def with_attribute(content: FileContent) -> FileContent:
        buffer = io.BytesIO()
        with _ignored_deprecation():
            module = torch.jit.load(io.BytesIO(content.data))
            module._c._register_attribute("calls", torch._C.IntType.get(), 3)
            torch.jit.save(module, buffer)
        return FileContent(buffer.getvalue())

    class Doubled(torch.nn.Module):
        def forward(self, latent: torch.Tensor) -> torch.Tensor:
            return latent

    def hook(self: Doubled, input: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
        return output * 2

    def with_hook(_: FileContent) -> FileContent:
        buffer, module = io.BytesIO(), Doubled()
        module.register_forward_hook(hook)
        with _ignored_deprecation():
            torch.jit.save(torch.jit.script(module), buffer)
        return FileContent(buffer.getvalue())

    assert_named(compared(mlp, "torchscript", with_attribute), r"'object' is [0-9a-f]{8}")
    assert_named(compared(mlp, "torchscript", with_hook), r"hooks: 1; export writes no such thing")


def test_program_that_is_not_what_export_writes_is_not_loaded(mlp: Subject, tmp_path: Path) -> None:
    """Loading runs the pickles inside, and a manifest that names the checkpoint can be forged."""
    canary = tmp_path / "ran"
    script = b"cbuiltins\nopen\n(V" + str(canary).encode() + b"\nVw\ntR."
    data = mlp.data("decoder", "pt2")
    source, target = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in source.namelist():
            archive.writestr(name, script if "sample_inputs" in name else source.read(name))
    artifact = tampered(mlp, tmp_path / "e", {("decoder", "pt2"): target.getvalue()})
    for targets in (None, ["pt2/cpu"]):
        with pytest.raises(ModelError, match="is a program, and this one is not what export writes here"):
            verify(artifact, mlp.references, targets=targets, thorough=False)
    assert not canary.exists()
    unchanged = tampered(mlp, tmp_path / "f", {("decoder", "pt2"): data})
    verify(unchanged, mlp.references, thorough=False).require()


# --- ORT ----------------------------------------------------------------------------------------------------------


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert len(old) == len(new)
        assert old in data
        return data.replace(old, new)

    return change


def size_of_an_inner_value(data: bytes) -> bytes:
    """State another size of the first operator's output."""
    graph = InferenceSession.GetRootAs(data).Model().Graph()
    wanted = graph.Nodes(0).Outputs(0)
    [value] = [one for place in range(graph.NodeArgsLength()) if (one := graph.NodeArgs(place)).Name() == wanted]
    kind, table = TensorTypeAndShape(), value.Type().Value()
    kind.Init(table.Bytes, table.Pos)
    size = kind.Shape().Dim(1).Value()
    assert size.DimValue() == HIDDEN
    place = size._tab.Pos + size._tab.Offset(6)
    return data[:place] + (7).to_bytes(8, "little") + data[place + 8 :]


def of_another_kind(data: bytes) -> bytes:
    """State that a value is no tensor, which ONNX Runtime reads where it has no other use of it."""
    kind = InferenceSession.GetRootAs(data).Model().Graph().NodeArgs(0).Type()
    place = kind._tab.Pos + kind._tab.Offset(6)
    return data[:place] + b"\3" + data[place + 1 :]


def text_in_the_filler(data: bytes) -> bytes:
    """Write between the end of a text and the next value, which begins at a multiple of four."""
    place = data.index(b"latent\0\0") + len(b"latent\0")
    return data[:place] + b"x" + data[place + 1 :]


ORT: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "bytes behind the end": (
        lambda data: data + b"audited",
        r"\d+ bytes that no field leads to; export writes no such",
    ),
    "bytes in the filler": (text_in_the_filler, r"\d+ bytes that no field leads to; export writes no such thing"),
    "a value that is no tensor": (of_another_kind, r"kind of a type 03, 1 times; export writes no such thing"),
    "another size of an inner value": (
        size_of_an_inner_value,
        r"what is stated of it is float \(\?, 7\); expected float",
    ),
    "another version of its producer": (
        replaced(b"2.", b"1."),
        r"torch 1\.\S+ wrote it, as it says; the manifest says 2",
    ),
    "kernels of another operator": (
        replaced(b":Gemm:13", b":Gemm:99"),
        r"kernels of :Gemm:99: T at .*; export",
    ),
}


@pytest.mark.parametrize("name", ORT)
def test_content_of_ort_that_is_not_run_is_named(mlp: Subject, name: str) -> None:
    change, named = ORT[name]
    assert_named(compared(mlp, "ort", lambda content: FileContent(change(content.data))), named)


# --- OpenVINO -----------------------------------------------------------------------------------------------------


def in_text(old: str, new: str) -> Callable[[FileContent], FileContent]:
    def change(content: FileContent) -> FileContent:
        text = content.data.decode()
        assert old in text
        return replace(content, data=text.replace(old, new, 1).encode())

    return change


def note_of_a_layer(content: FileContent) -> FileContent:
    text = content.data.decode()
    place = text.index("<input>", text.index('type="Sigmoid"'))
    note = '<rt_info><attribute name="nonconvertible_divide" version="0"/></rt_info>'
    return replace(content, data=f"{text[:place]}{note}{text[place:]}".encode())


OPENVINO: dict[str, tuple[Callable[[FileContent], FileContent], str]] = {
    "a comment": (in_text("<layers>", "<!-- audited --><layers>"), r"a comment or a declaration"),
    "an entity": (
        in_text('<?xml version="1.0"?>', '<?xml version="1.0"?><!DOCTYPE net [<!ENTITY x "1">]>'),
        r"a comment or a declaration",
    ),
    "a note of the model": (in_text("<rt_info>", '<rt_info><score value="1.0"/>'), r"note <score value=\"1\.0\""),
    "a note of a layer": (note_of_a_layer, r"note of Sigmoid: .*nonconvertible_divide"),
    "another name": (in_text('<net name="main_graph"', '<net name="x"'), r"name x; export writes no such thing"),
    "another element": (in_text("<edges>", "<more/><edges>"), r"element more; export"),
    "another version of an operator": (
        in_text('type="MatMul" version="opset1"', 'type="MatMul" version="opset8"'),
        r"MatMul of opset8; OpenVINO reads opset1; export writes no such thing",
    ),
    "an attribute more": (in_text("<net ", '<net license="free" '), r"license of <net>; export writes no such thing"),
    "an attribute more of an operator": (
        in_text("<data transpose_a", '<data more="1" transpose_a'),
        r"more of MatMul; export writes no such thing",
    ),
    "a text": (in_text("<layers>", "free of licence<layers>"), r"text free of licence; export writes no such thing"),
    "another spelling": (
        in_text('auto_broadcast="numpy"', 'auto_broadcast="numpY"'),
        r"auto_broadcast of \w+ is numpY; OpenVINO reads numpy; export writes no such thing",
    ),
    "a layer more": (
        in_text(
            "</layers>",
            '<layer id="999" name="more" type="Const" version="opset1"><data element_type="f32" shape="1" offset="0" '
            'size="4"/><output><port id="0" precision="FP32"><dim>1</dim></port></output></layer></layers>',
        ),
        r"1 layers that no output depends on; export writes no such thing",
    ),
    "other sizes of an inner value": (in_text("<dim>32</dim>", "<dim>33</dim>"), r"sizes of \w+ are .*'33'"),
    "weights that nothing reads": (
        lambda content: replace(content, sidecars={name: data + b"more" for name, data in content.sidecars.items()}),
        r"4 bytes of weights that nothing reads",
    ),
}


@pytest.mark.parametrize("name", OPENVINO)
def test_content_of_openvino_that_is_not_run_is_named(mlp: Subject, name: str) -> None:
    change, named = OPENVINO[name]
    assert_named(compared(mlp, "openvino", change), named)


def test_file_of_an_older_openvino_has_the_same_structure(mlp: Subject) -> None:
    def older(content: FileContent) -> FileContent:
        text = re.sub(r'<info name="OpenVINO Runtime" value="[^"]*" ?/>', "", content.data.decode())
        assert text != content.data.decode()
        return in_text('special_zero="false"', 'special_zero="true"')(replace(content, data=text.encode()))

    assert compared(mlp, "openvino", older).is_proof


# --- ncnn ---------------------------------------------------------------------------------------------------------

NCNN: dict[str, tuple[bytes, bytes, str]] = {
    "a separator that ncnn does not know": (b" 1=1 ", b"\xc2\xa01=1 ", "a text in another form than its layers have"),
    "another number of blobs": (b"\n8 8\n", b"\n8 99\n", "a text in another form than its layers have"),
    "a layer that gives nothing": (b"\n8 8\n", b"\n9 8\nNoop free 0 0\n", "'layers' is 9; expected 8"),
}


@pytest.mark.parametrize("name", NCNN)
def test_content_of_ncnn_that_is_not_run_is_named(mlp: Subject, name: str) -> None:
    require_extra("ncnn")
    old, new, named = NCNN[name]

    def changed(_: FileContent) -> FileContent:
        content = FORMATS["ncnn"].write(mlp.graph("decoder"), WriteOptions())
        assert old in content.data
        return replace(content, data=content.data.replace(old, new, 1))

    entry = FileEntry.of("decoder.ncnn.param", "decoder", "ncnn", changed(FileContent(b"")))
    content = changed(FileContent(b""))
    assert_named(reproduce(entry, mlp.artifact.manifest, mlp.references.writer, lambda: content), named)


# --- programs with loops ------------------------------------------------------------------------------------------


class Sums(torch.nn.Module):
    """Changes two values in a loop."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x, x + 1.0
        for _ in range(3):
            a, b = a + b, b + b
        return a - 2.0 * b


class OtherSums(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x, x + 1.0
        for _ in range(3):
            a, b = a + b, a + a
        return a - 2.0 * b


class UpToThousandRows(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.size(0) > 1000:
            raise RuntimeError("rows")
        return x


class UpToSeventyRows(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.size(0) > 70:
            raise RuntimeError("rows")
        return x


@pytest.mark.parametrize(
    ("one", "other"),
    [(Sums, OtherSums), (UpToThousandRows, UpToSeventyRows)],
    ids=["values of a loop", "condition of an error"],
)
def test_blocks_of_a_program_are_compared(one: type[torch.nn.Module], other: type[torch.nn.Module]) -> None:
    def structure(kind: type[torch.nn.Module]) -> Structure:
        buffer = io.BytesIO()
        with _ignored_deprecation():
            torch.jit.save(torch.jit.script(kind().eval()), buffer)
            return replace(script_structure(buffer.getvalue()), metadata={}, further=())

    assert not list(differences(structure(one), structure(one)))
    assert list(differences(structure(one), structure(other)))


# --- the manifest -------------------------------------------------------------------------------------------------


def test_manifest_that_says_less_than_export_does_is_named(mlp: Subject) -> None:
    manifest = mlp.artifact.manifest

    def found(**changes: object) -> list[tuple[str, str, str]]:
        changed = replace(manifest, **changes)  # type: ignore[arg-type]
        return [(one.rule, one.severity, one.where) for one in manifest_findings(changed, mlp.source)]

    assert found() == []
    assert ("other-manifest", "error", "manifest.json, versions.torch") in found(versions={})
    assert ("other-version", "warning", "manifest.json, versions.audited-by") in found(
        versions={**manifest.versions, "audited-by": "somebody"}
    )
    assert ("other-version", "warning", "manifest.json, versions.python") in found(
        versions={**manifest.versions, "python": "3.0"}
    )
    assert {rule for rule, _, _ in found(provenance={})} == {"other-manifest"}
    entry = manifest.entry("decoder")
    only_onnx = {"versions": {name: manifest.versions[name] for name in versions(["onnx"])}}
    quantised = replace(entry, precision="int8", name=f"{entry.part}.int8.onnx")
    assert found(files=(quantised,), **only_onnx) == [
        ("other-manifest", "error", f"manifest.json, {quantised.name}, without_vnni")
    ]
    needed = dict(FORMATS["onnx"].without_vnni("int8"))
    assert found(files=(replace(quantised, without_vnni=needed),), **only_onnx) == []
    assert found(files=(replace(entry, name="x.onnx"),), **only_onnx) == [
        ("other-manifest", "error", "manifest.json, x.onnx")
    ]


def test_export_without_golden_vectors_or_with_another_machine_fails(mlp: Subject, tmp_path: Path) -> None:
    artifact = tampered(mlp, tmp_path / "e", {("decoder", "onnx"): mlp.data("decoder")})
    bare = replace(artifact, manifest=replace(artifact.manifest, golden=()))
    certificate = verified(bare, mlp.references, allow_unreproduced=False)
    assert_fails(certificate)
    assert [(one.rule, one.detail) for one in certificate.errors] == [
        ("golden-vectors", "no golden vectors; export always makes them")
    ]
    [entry] = artifact.manifest.files
    elsewhere = replace(artifact.manifest, files=(replace(entry, machine="linux aarch64"),))
    certificate = verified(replace(artifact, manifest=elsewhere), mlp.references, allow_unreproduced=False)
    assert_fails(certificate)
    assert [one.detail for one in certificate.errors] == [
        "the manifest says that it needs linux aarch64; expected none"
    ]


def test_metadata_of_an_export_cannot_be_left_out(mlp: Subject, tmp_path: Path) -> None:
    """A manifest without versions does not make an export the file of another exporter."""
    model = onnx.load_from_string(mlp.data("decoder"))
    del model.metadata_props[:]
    artifact = tampered(mlp, tmp_path / "e", {("decoder", "onnx"): model.SerializeToString()})
    artifact = replace(artifact, manifest=replace(artifact.manifest, versions={}, provenance={}))
    certificate = verified(artifact, mlp.references, allow_unreproduced=False)
    assert_fails(certificate)
    assert "metadata 'vae_export.part' is missing; expected decoder" in certificate.reproductions[0].differences


def test_keys_of_a_manifest_that_export_does_not_write_are_named(mlp: Subject, tmp_path: Path) -> None:
    artifact = mlp.copied(tmp_path / "e")
    document = json.loads(artifact.manifest.text)
    assert open_artifact(artifact.folder).manifest.unknown == ()
    document |= {
        "licence": "free",
        "a text": "",
        "recommended": [{"part": "decoder", "note": "advice of a later version"}],
    }
    document["files"][0]["score"] = 1.0
    document["contract"]["symbols"] = {"N": {"min": 1, "max": 8, "usual": 4}}
    document["golden"][0]["outputs"][0]["note"] = "audited"
    (artifact.folder / MANIFEST).write_text(json.dumps(document))
    manifest = open_artifact(artifact.folder).manifest
    found = [(one.rule, one.severity, one.where) for one in manifest_findings(manifest, mlp.source)]
    keys = ("a text", "contract.symbols", "files.0.score", "golden.0.outputs.0.note", "licence", "recommended.0")
    assert sorted(found) == [("other-manifest", "error", f"manifest.json, {key}") for key in keys]


@pytest.mark.parametrize(("stated", "known"), [(True, 1), (1.0, 1), ([True, 16], [1, 16]), ({"a": [2.0]}, {"a": [2]})])
def test_numbers_of_another_type_are_another_origin(mlp: Subject, stated: object, known: object) -> None:
    """Readers of other languages tell 1, 1.0 and true apart."""
    source = replace(mlp.source, provenance={**mlp.source.provenance, "of": known})
    manifest = replace(mlp.artifact.manifest, provenance={**mlp.source.provenance, "of": stated})
    found = [one.where for one in manifest_findings(manifest, source) if one.severity == "error"]
    assert found == [f"manifest.json, provenance.of{'.a' if isinstance(stated, dict) else ''}"]
    manifest = replace(manifest, provenance=source.provenance)
    assert not [one for one in manifest_findings(manifest, source) if one.severity == "error"]


def test_export_that_says_nothing_is_no_single_file(mlp: Subject, tmp_path: Path) -> None:
    artifact = tampered(mlp, tmp_path / "e", {("decoder", "openvino"): mlp.data("decoder", "openvino")})
    manifest = replace(artifact.manifest, opset=None, versions={}, provenance={}, golden=())
    (artifact.folder / MANIFEST).write_bytes(manifest.text)
    certificate = verified(open_artifact(artifact.folder), mlp.references, allow_unreproduced=False)
    assert_fails(certificate)
    where = {finding.where for finding in certificate.errors}
    assert {"manifest.json, versions.torch", "manifest.json, provenance.config", "manifest.json"} <= where
