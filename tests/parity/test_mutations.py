"""Every wrong ONNX file of the catalogue in `mutations` is caught by the check that should catch it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.parity import mutations, small_exports
from tests.parity.mutations import MUTATIONS, Differs, Faulty, Linted, Mutation, Recorded, Refused
from tests.parity.small_exports import Subject, assert_fails, checkpoint, exported, tampered, verified
from vae_export.contract import PARTS, Part
from vae_export.models import FAMILIES
from vae_export.models.config import Family
from vae_export.parity.plan import DEFAULT_MINUTES
from vae_export.parity.reproduction import UNREPRODUCED_RULES

pytestmark = pytest.mark.slow

Subjects = Callable[..., Subject]
Outputs = dict[str, Any]


@pytest.mark.parametrize("family", FAMILIES)
def test_unchanged_files_pass(subject: Subjects, family: Family) -> None:
    chosen = subject(family)
    certificate = verified(
        chosen.artifact, chosen.references, minutes=small_exports.FEW_MINUTES.get(family, DEFAULT_MINUTES)
    )
    certificate.require()
    assert certificate.passed
    assert certificate.findings == ()
    assert certificate.node_mismatches == {}
    assert set(certificate.files) == {stored.name for stored in chosen.artifact.manifest.stored}
    assert {row.part for row in certificate.results} == {"encoder", "decoder", "autoencoder", "metric"}


def test_mutations_cover_every_part_layer_kind_and_check() -> None:
    assert {mutation.family for mutation in MUTATIONS} >= {"mlp", "conv", "blog"}
    assert {mutation.part for mutation in MUTATIONS} == set(PARTS)
    assert {type(mutation.caught) for mutation in MUTATIONS} == {Refused, Recorded, Linted, Faulty, Differs}


def weights_of(model: onnx.ModelProto) -> dict[str, bytes]:
    return {tensor.name: tensor.raw_data for tensor in model.graph.initializer}


def first_reader_of_a_changed_weight(before: bytes, after: bytes) -> str | None:
    """Return the output of the first node that reads a changed weight; None if no weight changed."""
    old, new = onnx.load_from_string(before), onnx.load_from_string(after)
    kept = weights_of(new)
    changed = {name for name, data in weights_of(old).items() if kept.get(name) != data}
    return next((node.output[0] for node in new.graph.node if changed & set(node.input)), None)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_mutated_onnx_file_is_caught_by_the_expected_check(
    mutation: Mutation, subject: Subjects, tmp_path: Path
) -> None:
    chosen = subject(mutation.family)
    before = chosen.data(mutation.part)
    after = mutation.apply(before)
    artifact = tampered(chosen, tmp_path / "export", {(mutation.part, "onnx"): after})
    match mutation.caught:
        case Refused(error, text):
            with pytest.raises(error, match=text):
                verified(artifact, chosen.references)
        case Recorded(rule):
            certificate = verified(artifact, chosen.references)
            assert certificate.passed
            by_outputs = [finding for finding in certificate.findings if finding.rule not in UNREPRODUCED_RULES]
            assert [(finding.rule, finding.severity) for finding in by_outputs] == [(rule, "warning")]
        case Linted(rule):
            certificate = verified(artifact, chosen.references)
            assert_fails(certificate)
            assert rule in {finding.rule for finding in certificate.errors}
        case Faulty(fault):
            certificate = verified(artifact, chosen.references)
            assert_fails(certificate)
            assert not certificate.errors
            assert any(fault in (row.comparison.fault or "") for row in certificate.failures)
        case Differs(outputs, at):
            certificate = verified(artifact, chosen.references, thorough=mutation.thorough)
            assert_fails(certificate)
            assert not certificate.errors
            # Rows in which the largest inputs overflow have nothing to measure, but fail as well.
            measured = [row for row in certificate.failures if row.comparison.fault is None]
            assert {row.output for row in measured} == outputs
            for row in measured:
                assert row.comparison.error is not None
                assert row.tolerance_used > 1
            [divergence] = certificate.node_mismatches.values()
            expected = at or first_reader_of_a_changed_weight(before, after)
            assert expected in (None, divergence.output)


def test_removed_bound_is_caught_when_values_reach_it(tmp_path: Path) -> None:
    """A bound that no image reaches could be removed unnoticed, because it changes no output."""
    low = checkpoint("mlp")
    bias = low.weights["encoder.logvar.0.bias"].clone()
    bias[0] = -31.0
    bounded = exported(replace(low, weights={**low.weights, "encoder.logvar.0.bias": bias}), tmp_path)
    change = Mutation("no bound", mutations.left_out("logvar"), mutations.differs("logvar"), "encoder")
    artifact = tampered(bounded, tmp_path / "changed", {("encoder", "onnx"): change.apply(bounded.data("encoder"))})
    certificate = verified(artifact, bounded.references)
    assert {row.output for row in certificate.failures} == {"logvar"}
    assert certificate.node_mismatches["encoder.onnx"].output == "logvar"


def test_external_weights_are_an_error_even_when_onnx_runtime_finds_them(
    mlp: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime reads them from the working folder, so the file runs but is not self-contained."""
    before = onnx.load_from_string(mlp.data("decoder"))
    data = mutations.initialiser(before, "decoder.body.2.weight").raw_data
    (tmp_path / "decoder.onnx.data").write_bytes(data)
    monkeypatch.chdir(tmp_path)
    mutations.sidecar(before)
    certificate = verified(
        tampered(mlp, tmp_path / "e", {("decoder", "onnx"): before.SerializeToString()}), mlp.references
    )
    assert_fails(certificate)
    assert not certificate.failures
    assert [finding.rule for finding in certificate.errors] == ["sidecar"]


def test_pixels_of_another_grey_level_are_counted(mlp: Subject, tmp_path: Path) -> None:
    change = mutations.after("image", mutations.step("Add", mutations.f32(1.01 / 255 * mutations.ONE_PIXEL)))
    data = Mutation("a level", change, mutations.differs("image")).apply(mlp.data("decoder"))
    certificate = verified(tampered(mlp, tmp_path / "e", {("decoder", "onnx"): data}), mlp.references)
    counted = [row for row in certificate.failures if row.comparison.grey and row.comparison.grey.unexplained]
    assert counted
    assert "of another grey level" in counted[0].reason
    assert max(row.comparison.grey.worst for row in counted if row.comparison.grey) in (1, 2)


def test_wrong_decoder_fails_the_comparison_of_nats(mlp: Subject, tmp_path: Path) -> None:
    data = Mutation(
        "scaled", mutations.weight("decoder.body.4.weight", lambda w: w * 1.01), mutations.differs("image")
    ).apply(mlp.data("decoder"))
    files: dict[tuple[Part, str], bytes] = {("encoder", "onnx"): mlp.data("encoder"), ("decoder", "onnx"): data}
    certificate = verified(tampered(mlp, tmp_path / "e", files), mlp.references)
    failed = {(row.part, row.output) for row in certificate.failures}
    assert failed == {("decoder", "image"), ("metric", "negative_elbo"), ("metric", "iwae_nll")}
