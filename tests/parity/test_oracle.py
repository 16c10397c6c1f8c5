"""Sensitivity of outputs to perturbed weights and inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vae_export import Contract, Source
from vae_export.capture import capture
from vae_export.formats import FORMATS, WriteOptions
from vae_export.parity.cases import ProbeOutputs, probe_cases
from vae_export.parity.compare import max_distance
from vae_export.parity.oracle import Oracle, Sensitivity
from vae_export.parity.tolerance import weight_roundoffs
from vae_export.session_options import SessionOptions


def test_mean_sensitivity_takes_the_larger_of_both_directions() -> None:
    sensitivity = Sensitivity()
    sensitivity.add(np.array([[1.0, 0.0], [0.0, 0.0]]), 0, (1, 2))
    sensitivity.add(np.array([[0.0, 3.0], [0.0, 0.0]]), 1, (1, 2))
    assert (sensitivity.worst, sensitivity.mean) == (3.0, 2.0)  # the mean of the first row alone is 2, of both rows 1
    sensitivity.add(np.array([[0.0, 0.0], [np.nan, 0.0]]), 2, (1,))
    sensitivity.add(np.array([[0.0, 0.0], [0.0, 0.0]]), 3, (1,))
    assert (sensitivity.worst, sensitivity.mean) == (np.inf, 2.0)


def test_weights_are_exact_again_after_perturbations_in_any_order() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 9), nn.Unflatten(1, (1, 3, 3)))
    graph = capture(Source(Contract((1, 3, 3), (4,), None), decoder=network.eval()), "decoder")
    latent = {"latent": np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)}
    oracle = Oracle(graph)
    exact = oracle.expected(latent)["image"]
    moved = {index: oracle.perturbed(latent, index)["image"] for index in range(3)}
    assert all(np.abs(one - exact).max() > 0 for one in moved.values())
    for index in (2, 0, 1, 0):
        np.testing.assert_array_equal(oracle.perturbed(latent, index)["image"], moved[index])
        np.testing.assert_array_equal(oracle.expected(latent)["image"], exact)
    np.testing.assert_array_equal(Oracle(graph).perturbed(latent, 1)["image"], moved[1])


def test_weights_are_exact_again_after_an_interrupted_perturbation(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Linear(4, 9), nn.Unflatten(1, (1, 3, 3)))
    graph = capture(Source(Contract((1, 3, 3), (4,), None), decoder=network), "decoder")
    latent = {"latent": np.ones((2, 4), np.float32)}
    oracle = Oracle(graph)
    exact = oracle.expected(latent)["image"]

    def interrupted(*arguments: Any) -> Iterator[tuple[Tensor, Tensor]]:
        yield next(weight_roundoffs(*arguments))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("vae_export.parity.oracle.weight_roundoffs", interrupted)
        oracle.perturbed(latent, 0)
    np.testing.assert_array_equal(oracle.expected(latent)["image"], exact)


class Normalised(nn.Module):
    """Latents (N, 2, 128, 128) → the same, normalised."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, latent: Tensor) -> Tensor:
        normalised: Tensor = self.norm(latent)
        return normalised


@pytest.mark.slow
@pytest.mark.parametrize("spread", [1e-3, 1.0])
@pytest.mark.parametrize(
    "norm",
    [nn.GroupNorm(2, 2), nn.LayerNorm([128, 128]), nn.InstanceNorm2d(2), nn.InstanceNorm2d(2, affine=True)],
    ids=["group", "layer", "instance", "instance-affine"],
)
def test_sums_one_by_one_in_normalisation_are_rounding(norm: nn.Module, spread: float) -> None:
    """ONNX Runtime's mean of nearly equal values is far worse than PyTorch's, and no fault of the file."""
    shape = (2, 128, 128)
    graph = capture(Source(Contract(shape, shape, None), decoder=Normalised(norm.eval())), "decoder")
    values = 0.7 + spread * np.random.default_rng(0).standard_normal((2, *shape))
    latent = {"latent": values.astype(np.float32)}
    oracle = Oracle(graph)
    [case] = probe_cases(oracle, [ProbeOutputs.of(oracle, "flat", latent, (2,))], perturbations=2)
    run = FORMATS["onnx"].open(FORMATS["onnx"].write(graph, WriteOptions()), graph.spec, SessionOptions(threads=1))
    [(name, output)] = run(latent).items()
    limits = case.limits[name]
    error = max_distance(output, case.expected[name])
    assert error <= limits.tolerance()
    assert (limits.sensitivity > 3 * limits.eager_error) == (spread < 1), "only nearly equal values need it"


def test_infinite_numbers_of_a_mask_are_exact() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.triu(torch.full((3, 3), -torch.inf), 1))

        def forward(self, values: Tensor) -> Tensor:
            return torch.softmax(values @ values.mT + self.mask, -1) @ values

    graph = capture(Source(Contract((3, 4), (3, 4), None), decoder=Masked()), "decoder")
    latent = {"latent": np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)}
    oracle = Oracle(graph)
    moved = oracle.perturbed(latent, 0)
    for name, exact in oracle.expected(latent).items():
        assert 0 < np.abs(moved[name] - exact).max() < 1e-4
