"""Each lint rule fires on a file made for it, and on no exported file."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.conftest import Exported
from tests.parity import mutations
from tests.parity.mutations import Change, after, f32, i64, step
from vae_export.capture.onnx_translation import IR_VERSION
from vae_export.contract import PARTS, Part
from vae_export.formats import OPSET, onnx_lint
from vae_export.formats.base import Finding
from vae_export.models import FAMILIES
from vae_export.models.config import Family


def lint(model: ModelProto) -> list[Finding]:
    found = onnx_lint.lint(model.SerializeToString(), "decoder.onnx", opset=OPSET, ir_version=IR_VERSION)
    return list(found)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_exported_file_has_no_finding(exported: Callable[[str], Exported], family: Family, part: Part) -> None:
    assert lint(onnx.load_from_string(exported(family).data(part))) == []


def batch_is(size: int | None) -> Change:
    def apply(model: ModelProto) -> None:
        dims = model.graph.input[0].type.tensor_type.shape.dim
        if size is None:
            del dims[:]
        else:
            dims[0].Clear()
            dims[0].dim_value = size

    return apply


def inside_a_branch(model: ModelProto) -> None:
    """A random operator where only a walk into the branches finds it."""
    mutations.training_branch(model)
    branch = mutations.node_of(model, "relu").attribute[0].g
    branch.node[0].op_type = "RandomUniformLike"


def double_constant(model: ModelProto) -> None:
    value = numpy_helper.from_array(np.asarray(1.0))
    model.graph.node.insert(0, helper.make_node("Constant", [], ["one"], name="one", value=value))


def double_weight(model: ModelProto) -> None:
    tensor = mutations.initialiser(model, "decoder.body.0.bias")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def double_input(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def foreign_import(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))


def text_of(kind: str, text: str) -> Change:
    def apply(model: ModelProto) -> None:
        items = {"graph": model.graph, "node": model.graph.node[0], "weight": model.graph.initializer[0]}
        items[kind].doc_string = text

    return apply


def named(text: str) -> Change:
    def apply(model: ModelProto) -> None:
        model.graph.node[0].name = text

    return apply


def branch_on(*names: str) -> Change:
    """An If whose condition is the last of these names, each computed from the one before it."""

    def apply(model: ModelProto) -> None:
        mutations.training_branch(model)
        mutations.initialiser(model, "training").name = names[0]
        steps = [helper.make_node("Not", [before], [after]) for before, after in pairwise(names)]
        made = mutations.node_of(model, "relu")
        made.input[0] = names[-1]
        for place, node in enumerate(steps):
            model.graph.node.insert(place, node)

    return apply


def branch_on_the_latent(model: ModelProto) -> None:
    """A Reshape that a module leaves if it asks for the size of its input."""
    branch_on("large")(model)
    del model.graph.initializer[-1]
    largest = helper.make_node("ReduceMax", ["latent"], ["largest"], keepdims=0)
    model.graph.initializer.append(numpy_helper.from_array(f32(100), "limit"))
    model.graph.node.insert(0, helper.make_node("Greater", ["largest", "limit"], ["large"]))
    model.graph.node.insert(0, largest)


def in_a_function(op_type: str, domain: str = "ours") -> Change:
    def apply(model: ModelProto) -> None:
        mutations.hidden_in_a_function(model)
        model.functions[0].node[0].op_type = op_type
        model.functions[0].opset_import.append(helper.make_opsetid(domain, 1))

    return apply


def branch_in_a_function(model: ModelProto) -> None:
    mutations.hidden_in_a_function(model)
    body = helper.make_graph([helper.make_node("Dropout", ["x"], ["z"])], "inner", [], [])
    model.functions[0].node[0].CopyFrom(
        helper.make_node("If", ["is_training"], ["y"], name="mode", then_branch=body, else_branch=body)
    )


def sparse_weight(values: np.ndarray) -> Change:
    def apply(model: ModelProto) -> None:
        sparse = model.graph.sparse_initializer.add(dims=[9])
        sparse.values.CopyFrom(numpy_helper.from_array(values, "few"))
        sparse.indices.CopyFrom(numpy_helper.from_array(i64(3)))

    return apply


def sparse_sidecar(model: ModelProto) -> None:
    sparse_weight(f32([1]))(model)
    values = model.graph.sparse_initializer[0].values
    values.ClearField("raw_data")
    values.data_location = TensorProto.EXTERNAL
    values.external_data.add(key="location", value="few.data")


def constant_sidecar(model: ModelProto) -> None:
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["far"], name="far", value=tensor))


#: (what, rule, where it is found)
CASES: tuple[tuple[Change, str, str], ...] = (
    (after("relu", step("RandomNormalLike")), "random-operator", "node"),
    (after("relu", step("RandomUniformLike")), "random-operator", "node"),
    (after("relu", step("Bernoulli")), "random-operator", "node"),
    (inside_a_branch, "random-operator", "node"),
    (mutations.hidden_in_a_function, "random-operator", "function 'Draw', node 'RandomNormalLike'"),
    (in_a_function("Bernoulli"), "random-operator", "function 'Draw', node 'Bernoulli'"),
    (in_a_function("Dropout"), "dropout", "function 'Draw', node 'Dropout'"),
    (mutations.dropout(True), "dropout", "node"),
    (mutations.dropout(False), "dropout", "node"),
    (mutations.training_branch, "training-branch", "node 'mode'"),
    (branch_on("model.is_training"), "training-branch", "node 'mode'"),
    (branch_on("train_mode", "b", "c"), "training-branch", "node 'mode'"),
    (branch_in_a_function, "training-branch", "function 'Draw', node 'mode'"),
    (branch_in_a_function, "dropout", "function 'Draw', mode, node"),
    (branch_on("flag"), "branch", "node 'mode'"),
    (branch_on("constraint", "trained"), "branch", "node 'mode'"),
    (branch_on_the_latent, "branch", "node 'mode'"),
    (batch_is(1), "baked-batch", "tensor 'latent'"),
    (batch_is(64), "baked-batch", "tensor 'latent'"),
    (batch_is(None), "baked-batch", "tensor 'latent'"),
    (mutations.fixed_batch, "fixed-reshape", "node 'node_Reshape_9'"),
    (mutations.opset(19), "opset", "decoder.onnx"),
    (mutations.ir_version(8), "ir-version", "decoder.onnx"),
    (mutations.foreign_operator, "foreign-domain", "node"),
    (foreign_import, "foreign-domain", "decoder.onnx"),
    (mutations.hidden_in_a_function, "foreign-domain", "node"),
    (in_a_function("Relu", "com.microsoft"), "foreign-domain", "function 'Draw'"),
    (mutations.sidecar, "sidecar", "initialiser 'decoder.body.2.weight'"),
    (sparse_sidecar, "sidecar", "initialiser 'few'"),
    (constant_sidecar, "sidecar", "node 'far'"),
    (text_of("graph", 'File "net.py", line 3'), "machine-trace", "decoder.onnx"),
    (text_of("node", "/home/somebody/net.py"), "machine-trace", "decoder.onnx"),
    (text_of("weight", r"C:\Users\somebody"), "machine-trace", "decoder.onnx"),
    (text_of("node", "lib/site-packages/torch/nn/modules"), "machine-trace", "decoder.onnx"),
    (named("/srv/somebody/net.py"), "machine-trace", "decoder.onnx"),
    (mutations.metadata("from", "/tmp/run/decoder.py"), "machine-trace", "decoder.onnx"),  # noqa: S108
    (mutations.unused, "unused-initialiser", "initialiser 'left.over'"),
    (sparse_weight(f32([1])), "unused-initialiser", "initialiser 'few'"),
    (mutations.double_inside, "float64", "node"),
    (double_constant, "float64", "node 'one'"),
    (double_weight, "float64", "initialiser 'decoder.body.0.bias'"),
    (double_input, "float64", "tensor 'latent'"),
    (sparse_weight(np.asarray([1.0])), "float64", "initialiser 'few'"),
)


@pytest.mark.parametrize(
    ("change", "rule", "where"), CASES, ids=[f"{rule}-{i}" for i, (_, rule, _) in enumerate(CASES)]
)
def test_rule_fires_on_the_fault_it_names(mlp: Exported, change: Change, rule: str, where: str) -> None:
    model = onnx.load_from_string(mlp.data("decoder"))
    change(model)
    found = [finding for finding in lint(model) if finding.rule == rule]
    assert found
    assert any(where in finding.where for finding in found)
    severities = {finding.severity for finding in found}
    assert severities == {SEVERITIES[rule]}


#: The table at the head of the module: rule → severity.
SEVERITIES = dict(re.findall(r"^([a-z0-9-]+) +(error|warning) ", onnx_lint.__doc__ or "", re.MULTILINE))


def test_table_of_rules_is_complete_and_every_rule_tested() -> None:
    assert set(SEVERITIES) == {rule for _, rule, _ in CASES}


def test_reshape_to_any_batch_and_initialiser_of_a_branch_pass(mlp: Exported) -> None:
    model = onnx.load_from_string(mlp.data("decoder"))
    after("relu_1", step("Reshape", i64(-1, 32)))(model)
    assert lint(model) == []
    mutations.training_branch(model)
    inner = mutations.node_of(model, "relu").attribute[0].g.node[0]
    inner.op_type = "Add"
    inner.input.append("inner")
    model.graph.initializer.append(numpy_helper.from_array(f32(0), "inner"))
    assert {finding.rule for finding in lint(model)} == {"training-branch"}


@pytest.mark.parametrize(
    ("change", "said"),
    [(mutations.opset(19), "19; the manifest says 20"), (mutations.ir_version(8), "8; export writes 10")],
)
def test_wrong_version_is_named_with_the_expected_one(mlp: Exported, change: Change, said: str) -> None:
    model = onnx.load_from_string(mlp.data("decoder"))
    change(model)
    assert [finding.detail for finding in lint(model)] == [said]


def test_versions_are_not_checked_without_a_manifest(mlp: Exported) -> None:
    model = onnx.load_from_string(mlp.data("decoder"))
    mutations.opset(19)(model)
    mutations.ir_version(8)(model)
    assert list(onnx_lint.lint(model.SerializeToString(), "decoder.onnx", opset=None)) == []
