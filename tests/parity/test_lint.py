"""Each rule fires on a file made for it, and on no file of ours."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.parity import mutations
from tests.parity.mutations import Change, after, f32, i64, step
from tests.parity.subject import Subject
from vae_export.contract import PARTS, Part
from vae_export.exporter import OPSET
from vae_export.findings import Finding
from vae_export.formats import onnx_lint
from vae_export.formats.onnx import IR_VERSION
from vae_export.models import FAMILIES
from vae_export.models.config import Family


def lint(model: ModelProto) -> list[Finding]:
    found = onnx_lint.lint(model.SerializeToString(), "decoder.onnx", opset=OPSET, ir_version=IR_VERSION)
    return list(found)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_of_ours_has_no_finding(subject: Callable[..., Subject], family: Family, part: Part) -> None:
    assert lint(onnx.load_from_string(subject(family).data(part))) == []


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


#: (what, rule, where it is found)
CASES: tuple[tuple[Change, str, str], ...] = (
    (after("relu", step("RandomNormalLike")), "random-operator", "node"),
    (after("relu", step("RandomUniformLike")), "random-operator", "node"),
    (after("relu", step("Bernoulli")), "random-operator", "node"),
    (inside_a_branch, "random-operator", "node"),
    (mutations.dropout(True), "dropout", "node"),
    (mutations.dropout(False), "dropout", "node"),
    (mutations.training_branch, "training-branch", "node 'mode'"),
    (batch_is(1), "baked-batch", "tensor 'latent'"),
    (batch_is(64), "baked-batch", "tensor 'latent'"),
    (batch_is(None), "baked-batch", "tensor 'latent'"),
    (mutations.fixed_batch, "fixed-reshape", "node 'node_Reshape_9'"),
    (mutations.opset(19), "opset", "decoder.onnx"),
    (mutations.ir_version(8), "ir-version", "decoder.onnx"),
    (mutations.foreign_operator, "foreign-domain", "node"),
    (foreign_import, "foreign-domain", "decoder.onnx"),
    (mutations.hidden_in_a_function, "foreign-domain", "node"),
    (mutations.sidecar, "sidecar", "initialiser 'decoder.body.2.weight'"),
    (text_of("graph", 'File "net.py", line 3'), "machine-trace", "decoder.onnx"),
    (text_of("node", "/home/somebody/net.py"), "machine-trace", "decoder.onnx"),
    (text_of("weight", r"C:\Users\somebody"), "machine-trace", "decoder.onnx"),
    (text_of("node", "lib/site-packages/torch/nn/modules"), "machine-trace", "decoder.onnx"),
    (named("/srv/somebody/net.py"), "machine-trace", "decoder.onnx"),
    (mutations.metadata("from", "/tmp/run/decoder.py"), "machine-trace", "decoder.onnx"),  # noqa: S108
    (mutations.unused, "unused-initialiser", "initialiser 'left.over'"),
    (mutations.double_inside, "float64", "node"),
    (double_constant, "float64", "node 'one'"),
    (double_weight, "float64", "initialiser 'decoder.body.0.bias'"),
    (double_input, "float64", "tensor 'latent'"),
)


@pytest.mark.parametrize(
    ("change", "rule", "where"), CASES, ids=[f"{rule}-{i}" for i, (_, rule, _) in enumerate(CASES)]
)
def test_a_rule_fires(mlp: Subject, change: Change, rule: str, where: str) -> None:
    model = onnx.load_from_string(mlp.data("decoder"))
    change(model)
    found = [finding for finding in lint(model) if finding.rule == rule]
    assert found
    assert any(where in finding.where for finding in found)
    severities = {finding.severity for finding in found}
    assert severities == {SEVERITIES[rule]}


#: The table at the head of the module: rule → severity.
SEVERITIES = dict(re.findall(r"^([a-z0-9-]+) +(error|warning) ", onnx_lint.__doc__ or "", re.MULTILINE))


def test_the_table_of_rules_is_complete_and_each_is_tested() -> None:
    assert set(SEVERITIES) == {rule for _, rule, _ in CASES}


def test_a_reshape_to_any_batch_and_an_initialiser_of_a_branch_are_no_findings(mlp: Subject) -> None:
    model = onnx.load_from_string(mlp.data("decoder"))
    after("relu_1", step("Reshape", i64(-1, 32)))(model)
    assert lint(model) == []
    mutations.training_branch(model)
    inner = mutations.node_of(model, "relu").attribute[0].g.node[0]
    inner.op_type = "Add"
    inner.input.append("inner")
    model.graph.initializer.append(numpy_helper.from_array(f32(0), "inner"))
    assert {finding.rule for finding in lint(model)} == {"training-branch"}


def test_without_a_manifest_versions_are_not_checked(mlp: Subject) -> None:
    model = onnx.load_from_string(mlp.data("decoder"))
    mutations.opset(19)(model)
    mutations.ir_version(8)(model)
    assert list(onnx_lint.lint(model.SerializeToString(), "decoder.onnx", opset=None)) == []
