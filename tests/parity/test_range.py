"""Images keep the contract's range: a module that leaves it is refused, and a file that leaves it fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests import sample_models
from tests.parity import mutations
from tests.parity.conftest import examples
from tests.parity.mutations import Mutation, after, differs, f32, step
from tests.parity.small_exports import Subject, tampered, verified
from vae_export import Contract, Source, export
from vae_export.capture import capture
from vae_export.errors import ModelError
from vae_export.formats import FORMATS, WriteOptions
from vae_export.parity import Tolerance
from vae_export.parity.compare import beyond_range, compare_output
from vae_export.parity.tolerance import FP32_TOLERANCE_FACTOR
from vae_export.tensors import TensorSpec

ULP = 2.0**-23


@examples
@given(st.floats(-3, 3), st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)]))
def test_values_beyond_the_range_by_more_than_rounding_are_outside(value: float, ends: tuple[float, float]) -> None:
    low, high = ends
    spec, allowed = (
        TensorSpec("image", (1, 1, 1), low, high),
        FP32_TOLERANCE_FACTOR * ULP * max(1, 2.0 ** np.floor(np.log2(high))),
    )
    outside = value < low - allowed or value > high + allowed
    assert bool((beyond_range(np.full((1, 1, 1, 1), value), spec) > 0).any()) == outside


@pytest.mark.parametrize(("value", "outside"), [(1.0001, 1), (-0.1, 1), (1 + ULP, 0), (-ULP, 0), (1.0, 0), (0.5, 0)])
def test_outside_values_are_counted_only_for_outputs_with_a_range(value: float, outside: int) -> None:
    eager = np.full((2, 1, 2, 2), 0.5, np.float32)
    output = eager.copy()
    output[1, 0, 1, 0] = value
    for spec, expected in ((TensorSpec("image", (1, 2, 2), 0, 1), outside), (TensorSpec("mean", (1, 2, 2)), None)):
        found = compare_output(output, spec, eager, eager.astype(float), tolerance=1.0, magnitude=1.0)
        assert found.fault is None
        assert found.outside == expected


OUTSIDE: dict[str, mutations.Change] = {
    "a little too bright": after("image", step("Mul", f32(1.0001))),
    "below black": after("image", step("Sub", f32(0.1))),
    "logits": mutations.left_out("image"),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_file_that_leaves_the_range_fails_whatever_the_tolerance(mlp: Subject, name: str, tmp_path: Path) -> None:
    data = Mutation(name, OUTSIDE[name], differs("image")).apply(mlp.data("decoder"))
    artifact = tampered(mlp, tmp_path / "e", {("decoder", "onnx"): data})
    certificate = verified(artifact, mlp.references, tolerance=Tolerance(1e9))
    failed = [row for row in certificate.failures if row.comparison.outside]
    assert failed
    assert "outside the contract's range" in failed[0].reason
    assert not certificate.passed


def test_file_that_keeps_the_range_passes_a_wide_tolerance(mlp: Subject, tmp_path: Path) -> None:
    data = Mutation("darker", after("image", step("Mul", f32(0.9999))), differs("image")).apply(mlp.data("decoder"))
    artifact = tampered(mlp, tmp_path / "e", {("decoder", "onnx"): data})
    certificate = verified(artifact, mlp.references, tolerance=Tolerance(1e-3))
    assert certificate.passed
    assert certificate.tolerance == Tolerance(1e-3)


class Ends(nn.Module):
    """latent (N, 4) → image (N, 1, 2, 2), with a given final activation."""

    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.end = end

    def forward(self, latent: Tensor) -> Tensor:
        return self.end(self.linear(latent)).unflatten(1, (1, 2, 2))


def source(end: Callable[[Tensor], Tensor], low: float, high: float) -> Source:
    torch.manual_seed(0)
    return Source(Contract((1, 2, 2), (4,), (low, high)), decoder=Ends(end))


@pytest.mark.parametrize(
    ("end", "got"),
    [
        (lambda image: image, ""),
        (torch.tanh, "got -"),
        (lambda image: torch.sigmoid(image) * 1.0001, r"got 1\.000"),
        (lambda image: torch.sigmoid(image) - 0.1, "got -0.0"),
    ],
    ids=["nothing", "tanh", "1.0001", "-0.1"],
)
def test_module_that_leaves_its_range_is_not_published(
    end: Callable[[Tensor], Tensor], got: str, tmp_path: Path
) -> None:
    text = (
        rf"module leaves the contract's range: decoder, 'image', probe .*; expected 0 to 1, {got}.*; end the decoder in"
    )
    with pytest.raises(ModelError, match=text):
        export(source(end, 0.0, 1.0), tmp_path / "export", formats=["torchscript"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "low", "high"),
    [
        (torch.sigmoid, 0.0, 1.0),
        (torch.tanh, -1.0, 1.0),
        (lambda image: torch.sigmoid(image) * 2 - 1, -1.0, 1.0),
        (lambda image: torch.tanh(image) * 0.5 + 0.5, 0.0, 1.0),
        (lambda image: torch.sigmoid(image) * 255, 0.0, 255.0),
        (lambda image: (torch.tanh(image) * 0.229 + 0.485) / 0.714, (0.485 - 0.229) / 0.714, 1.0),
        (lambda image: image.clamp(-1, 1), -1.0, 1.0),
    ],
)
def test_engines_keep_the_range_of_every_final_activation(
    end: Callable[[Tensor], Tensor], low: float, high: float, tmp_path: Path
) -> None:
    """The largest probe drives each of these to its bounds, which must not raise a false alarm."""
    _, certificate = export(source(end, low, high), tmp_path / "export", formats=sample_models.QUICK)
    assert certificate.passed
    assert {row.comparison.outside for row in certificate.results} == {0}


def test_sigmoid_and_tanh_of_onnx_runtime_keep_their_range() -> None:
    """Engines approximate both, so a hundred thousand inputs are tried at every optimisation level."""
    values = np.concatenate([np.linspace(-20, 20, 100_000), np.geomspace(1e-30, 1e30, 1000)]).astype(np.float32)
    for end, low in ((torch.sigmoid, 0.0), (torch.tanh, -1.0)):
        decoder = source(end, low, 1.0)
        with torch.no_grad():
            decoder.decoder.linear.weight.copy_(torch.eye(4))  # type: ignore[union-attr]
            decoder.decoder.linear.bias.zero_()  # type: ignore[union-attr]
        graph, onnx = capture(decoder, "decoder"), FORMATS["onnx"]
        data = onnx.write(graph, WriteOptions())
        for setting in onnx.session_options("CPUExecutionProvider"):
            image = onnx.open(data, graph.spec, setting)({"latent": values.reshape(-1, 4)})
            assert beyond_range(image["image"], graph.spec.outputs[0]).max() <= 0
