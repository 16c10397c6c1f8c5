"""What the graph computes: in float32, as PyTorch does, and in float64, which stands for the truth.

A float64 evaluation of the same graph carries 2^-29 of the rounding of a float32 one, so that what it gives is, for
this purpose, exact. Its distance to PyTorch's own float32 result says how much rounding this graph has to live with.

How far one output moves when all that is rounded moves: at the worst number, and on average over a batch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from vae_export.capture import Graph
from vae_export.contract import Array
from vae_export.parity.tolerance import TOLERANCE_FACTORS, input_roundoff, weight_roundoffs
from vae_export.precision import FULL, PrecisionName

#: How often the graph is evaluated with all that is rounded moved: four directions, each there and back.
PERTURBATIONS = 8


def evaluate_graph(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The graph's outputs by name, computed by PyTorch in float32 on the CPU."""
    return run_module(graph, graph.module, inputs, torch.float32)


def run_on_zeros(graphs: Iterable[Graph], batch: int) -> None:
    """Each graph once in float32 on a batch of zeros, for the time that it takes."""
    for graph in graphs:
        evaluate_graph(
            graph, {tensor.name: np.zeros((batch, *tensor.item), np.float32) for tensor in graph.spec.inputs}
        )


class Oracle:
    """One graph in float64."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._module = copy.deepcopy(graph.module).double()
        self._moved: tuple[int, PrecisionName, nn.Module] | None = None

    def expected(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The graph's outputs by name, float64."""
        return run_module(self._graph, self._module, inputs, torch.float64)

    def perturbed(self, inputs: Mapping[str, Array], turn: int, precision: PrecisionName = FULL) -> dict[str, Array]:
        """The outputs, float64, with each weight and each input moved by up to `TOLERANCE_FACTORS` roundings.


        How far they move, divided by that many, is the rounding that no implementation in this precision can do
        without, measured apart from PyTorch's luck with these inputs (Higham, "Accuracy and Stability of Numerical
        Algorithms", 2nd ed., section 1.5: backward error). They are moved as far as a file may be away, not by one
        rounding and eight times that: where an output is a step, as a saturated sigmoid is, the two are not the same.
        And every direction is taken there and back, for one of the two leads across the step.

        Turns are best asked for in their order: the weights of one are kept until the next.
        """
        if self._moved is None or self._moved[:2] != (turn, precision):
            self._moved = None  # one copy at a time: models can be large
            self._moved = turn, precision, _moved(self._module, turn, precision)
        seed, reach = perturbation_direction(turn, precision)
        rng = np.random.default_rng(seed)
        nudged = {
            name: _nudged(array, reach * rng.uniform(-1, 1, array.shape), precision) for name, array in inputs.items()
        }
        return run_module(self._graph, self._moved[2], nudged, torch.float64)


def perturbation_direction(turn: int, precision: PrecisionName = FULL) -> tuple[int, float]:
    """The seed of a turn's direction, and how many roundings to go: there, or back."""
    return turn // 2, TOLERANCE_FACTORS[precision] if turn % 2 == 0 else -TOLERANCE_FACTORS[precision]


def _nudged(array: Array, roundings: Array, precision: PrecisionName) -> Array:
    values = torch.from_numpy(array.astype(np.float64))
    nudged: Array = (values + torch.from_numpy(roundings) * input_roundoff(values, precision)).numpy()
    return nudged


def _moved(module: nn.Module, turn: int, precision: PrecisionName) -> nn.Module:
    """A copy with every floating weight moved at random by up to `TOLERANCE_FACTORS` of the precision's roundings."""
    seed, reach = perturbation_direction(turn, precision)
    moved = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor, half in weight_roundoffs(moved, precision):
            noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) * 2 - 1
            tensor.add_(noise * half * reach)
    return moved


def run_module(graph: Graph, module: nn.Module, inputs: Mapping[str, Array], dtype: torch.dtype) -> dict[str, Array]:
    """Outputs by name of a module with the graph's inputs and outputs, given arrays in its `dtype`."""
    with torch.no_grad():
        # Copies: torch warns of arrays that are read-only.
        outputs = module(*(torch.from_numpy(inputs[tensor.name].copy()).to(dtype) for tensor in graph.spec.inputs))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return {tensor.name: output.numpy() for tensor, output in zip(graph.spec.outputs, outputs, strict=True)}


class Sensitivity:
    """Adds up turn after turn; each direction is taken there, and then back.

    Attributes:
        worst: of any number in any turn; infinite once one of them is NaN, for no file can be held against that.
        mean: the largest mean of a batch in any direction. A number counts by the farther of there and back: where it
            is a step, as a saturated sigmoid is, only one of the two leads across.
    """

    def __init__(self) -> None:
        self.worst = self.mean = 0.0
        self._there: Array | None = None

    def add(self, distances: Array, turn: int, batches: Sequence[int]) -> None:
        """How far each number (N, *item) is from the truth in a turn; a batch is that many of the first rows."""
        if turn % 2 == 0:
            self._there = distances
            return
        farther = distances if self._there is None else np.maximum(self._there, distances)
        self._there = None
        rows = farther.reshape(len(farther), -1).mean(1)
        self.worst = max(self.worst, _number(farther.max()))
        self.mean = max(self.mean, *(_number(rows[:batch].mean()) for batch in batches))


def _number(value: float) -> float:
    return math.inf if math.isnan(value) else float(value)
