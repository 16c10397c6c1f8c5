"""Evaluate a captured graph in float32, in float64, and in float64 with perturbed weights and inputs.

A float64 evaluation carries 2^-29 of the rounding error of a float32 one, so it counts as exact here. The perturbed
ones show how far rounding alone moves the outputs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import nn

from vae_export.capture import Graph
from vae_export.contract import Array
from vae_export.parity.tolerance import TOLERANCE_FACTORS, input_roundoff, weight_roundoffs
from vae_export.precision import FULL, PrecisionName

#: How often a graph is evaluated with perturbed weights and inputs: four random directions, each forwards and back.
PERTURBATIONS = 8

#: Computes one part: input arrays by name → output arrays by name.
PartFunction: TypeAlias = Callable[[Mapping[str, Array]], dict[str, Array]]


def evaluate_graph(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Compute the graph's outputs with PyTorch in float32 on the CPU.

    Args:
        graph: a part of a source.
        inputs: float32 arrays (N, *item) by name.

    Returns:
        float32 arrays (N, *item) by name.
    """
    return run_module(graph, graph.module, inputs, torch.float32)


def run_module(graph: Graph, module: nn.Module, inputs: Mapping[str, Array], dtype: torch.dtype) -> dict[str, Array]:
    """Compute the outputs of a module that has the graph's inputs and outputs, in `dtype`."""
    with torch.no_grad():
        # Copies: torch warns about read-only arrays.
        outputs = module(*(torch.from_numpy(inputs[tensor.name].copy()).to(dtype) for tensor in graph.spec.inputs))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return {tensor.name: output.numpy() for tensor, output in zip(graph.spec.outputs, outputs, strict=True)}


def run_on_zeros(graphs: Iterable[Graph], batch: int) -> None:
    """Compute each graph once in float32 on a batch of zeros: work to measure thread counts with."""
    for graph in graphs:
        zeros = {tensor.name: np.zeros((batch, *tensor.item), np.float32) for tensor in graph.spec.inputs}
        evaluate_graph(graph, zeros)


class Oracle:
    """A graph evaluated in float64, exactly or with perturbed weights and inputs.

    Attributes:
        graph: the part that is evaluated.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._module = copy.deepcopy(graph.module).double()
        self._perturbed: tuple[int, PrecisionName, nn.Module] | None = None

    def expected(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name, float64 (N, *item)."""
        return run_module(self.graph, self._module, inputs, torch.float64)

    def perturbed(self, inputs: Mapping[str, Array], index: int, precision: PrecisionName = FULL) -> dict[str, Array]:
        """Return the outputs, float64, with every weight and input moved at random by some rounding errors.

        How far the outputs move, divided by that number, is the error that no implementation in this precision can
        avoid, measured apart from PyTorch's luck with these inputs (Higham, "Accuracy and Stability of Numerical
        Algorithms", 2nd ed., section 1.5: backward error). Weights move by `TOLERANCE_FACTORS` rounding errors, as far
        as a file may be away, and not by one with the result multiplied: for a step function, such as a saturated
        sigmoid, the two differ. Each direction is taken forwards and back, because only one of them crosses the step.

        Args:
            inputs: arrays (N, *item) by name.
            index: which perturbation, from 0 to `PERTURBATIONS` - 1. Ask for all inputs of one index before the next:
                the perturbed weights of one index are kept.
            precision: the precision whose rounding errors the weights and inputs move by.
        """
        if self._perturbed is None or self._perturbed[:2] != (index, precision):
            self._perturbed = None  # one copy at a time: models can be large
            self._perturbed = index, precision, _with_moved_weights(self._module, index, precision)
        seed, factor = perturbation_direction(index, precision)
        rng = np.random.default_rng(seed)
        moved = {
            name: _moved_input(array, factor * rng.uniform(-1, 1, array.shape), precision)
            for name, array in inputs.items()
        }
        return run_module(self.graph, self._perturbed[2], moved, torch.float64)


def perturbation_direction(index: int, precision: PrecisionName = FULL) -> tuple[int, float]:
    """Return the seed of a perturbation's direction, and how many rounding errors to move: negative for back."""
    factor = TOLERANCE_FACTORS[precision]
    return index // 2, factor if index % 2 == 0 else -factor


def _moved_input(array: Array, roundings: Array, precision: PrecisionName) -> Array:
    values = torch.from_numpy(array.astype(np.float64))
    moved: Array = (values + torch.from_numpy(roundings) * input_roundoff(values, precision)).numpy()
    return moved


def _with_moved_weights(module: nn.Module, index: int, precision: PrecisionName) -> nn.Module:
    seed, factor = perturbation_direction(index, precision)
    moved = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor, roundoff in weight_roundoffs(moved, precision):
            noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) * 2 - 1
            tensor.add_(noise * roundoff * factor)
    return moved


class Sensitivity:
    """Accumulates how far one output moves over all perturbations.

    Attributes:
        worst: largest movement of any number; infinite once one is NaN, because no file can be compared with that.
        mean: largest mean movement of a batch in any direction. A number counts by the farther of forwards and back:
            at a step, such as a saturated sigmoid, only one of the two crosses.
    """

    def __init__(self) -> None:
        self.worst = self.mean = 0.0
        self._forwards: Array | None = None

    def add(self, distances: Array, index: int, batches: Sequence[int]) -> None:
        """Add one perturbation.

        Args:
            distances: how far each number moved, (N, *item).
            index: which perturbation; forwards (even) must be added before back (odd).
            batches: sizes of the batches whose means count; each is that many of the first of N.
        """
        if index % 2 == 0:
            self._forwards = distances
            return
        farther = distances if self._forwards is None else np.maximum(self._forwards, distances)
        self._forwards = None
        item_means = farther.reshape(len(farther), -1).mean(1)
        self.worst = max(self.worst, _nan_to_inf(farther.max()))
        self.mean = max(self.mean, *(_nan_to_inf(item_means[:batch].mean()) for batch in batches))

    def per_roundoff(self, precision: PrecisionName) -> tuple[float, float]:
        """Return `worst` and `mean` per rounding error of the weights and inputs."""
        return self.worst / TOLERANCE_FACTORS[precision], self.mean / TOLERANCE_FACTORS[precision]


def _nan_to_inf(value: float) -> float:
    return math.inf if math.isnan(value) else float(value)
