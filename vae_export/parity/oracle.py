"""What the graph computes: in float32, as PyTorch does, and in float64, which stands for the truth.

A float64 evaluation of the same graph carries 2^-29 of the rounding of a float32 one, so that what it gives is, for
this purpose, exact. Its distance to PyTorch's own float32 result says how much rounding this graph has to live with.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from vae_export.contract import Array
from vae_export.graphs import Graph

#: Half the distance from 1 to the next float32: the largest relative error of one rounding.
UNIT_ROUNDOFF = 2.0**-24
#: How many roundings of each weight and input a file may be away from the truth: the FACTOR of the band.
REACH = 8.0
#: How often the graph is evaluated with all of them moved by that much: four directions, each there and back.
TURNS = 8


def evaluate(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The graph's outputs by name, computed by PyTorch in float32 on the CPU."""
    return _evaluate(graph, graph.module, inputs, torch.float32)


class Oracle:
    """One graph in float64."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._exact = copy.deepcopy(graph.module).double()
        self._moved: tuple[int, nn.Module] | None = None

    def exact(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The graph's outputs by name, float64."""
        return _evaluate(self._graph, self._exact, inputs, torch.float64)

    def perturbed(self, inputs: Mapping[str, Array], turn: int) -> dict[str, Array]:
        """The outputs, float64, with each weight and each input moved by up to `REACH` roundings; `turn` of `TURNS`.

        How far they move, divided by `REACH`, is the rounding that no float32 implementation can do without, measured
        apart from PyTorch's luck with these inputs (Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed.,
        section 1.5: backward error). They are moved as far as a file may be away, not by one rounding and eight times
        that: where an output is a step, as a saturated sigmoid is, the two are not the same. And every direction is
        taken there and back, for one of the two leads across the step.

        Turns are best asked for in their order: the weights of one are kept until the next.
        """
        if self._moved is None or self._moved[0] != turn:
            self._moved = None  # one copy at a time: models can be large
            self._moved = turn, _moved(self._exact, turn)
        seed, reach = direction(turn)
        rng = np.random.default_rng(seed)
        nudged = {
            name: array * (1 + rng.uniform(-UNIT_ROUNDOFF, UNIT_ROUNDOFF, array.shape) * reach)
            for name, array in inputs.items()
        }
        return _evaluate(self._graph, self._moved[1], nudged, torch.float64)


def direction(turn: int) -> tuple[int, float]:
    """The seed of a turn's direction, and how many roundings to go: `REACH`, or back."""
    return turn // 2, REACH if turn % 2 == 0 else -REACH


def _moved(module: nn.Module, turn: int) -> nn.Module:
    """A copy with every floating weight moved at random by up to `REACH` float32 roundings."""
    seed, reach = direction(turn)
    moved = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(seed)
    for tensor in (*moved.parameters(), *moved.buffers()):
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) * 2 - 1
            tensor.mul_(1 + noise * (UNIT_ROUNDOFF * reach))
    return moved


def _evaluate(graph: Graph, module: nn.Module, inputs: Mapping[str, Array], dtype: torch.dtype) -> dict[str, Array]:
    with torch.no_grad():
        # Copies: torch warns of arrays that are read-only.
        outputs = module(*(torch.from_numpy(inputs[tensor.name].copy()).to(dtype) for tensor in graph.spec.inputs))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return {tensor.name: output.numpy() for tensor, output in zip(graph.spec.outputs, outputs, strict=True)}
