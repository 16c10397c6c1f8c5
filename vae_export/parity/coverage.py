"""Measure what the inputs of a verification reach inside a part: input values, weights, bounds and branches.

A comparison shows nothing about what its inputs do not reach. A weight counts as reached if it moves an output, an
input value if it differs between rows, and a bound if there are values on both of its sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vae_export.capture import Graph
from vae_export.contract import Array
from vae_export.parity.bounds import WatchedProgram
from vae_export.parity.plan import PartPlan
from vae_export.system.threads import one_thread
from vae_export.tensors import BATCH, Symbol

#: The first rows of each probe are measured.
_ROWS = 64
#: Seed of the projection of the outputs whose gradient shows which weights matter.
_SEED = 1312_6114


@dataclass(frozen=True)
class Share:
    """A number of things of one kind, and how many of them were reached.

    Attributes:
        reached: number that was reached.
        total: number there is.
    """

    reached: int = 0
    total: int = 0

    def __str__(self) -> str:
        return f"{self.reached:,} of {self.total:,}"


@dataclass(frozen=True)
class Coverage:
    """The coverage of a part: the inputs, weights, bounds and branches that a verification reaches.

    Attributes:
        rows: number of rows that were measured; 0 if none were.
        inputs: input values of a row that differ between rows.
        weights: weights and constants that move an output of these rows. A weight behind a ReLU that is never active
            does not, and neither does one whose effect float32 rounds away.
        bounds: ends of clamps, maxima and comparisons that have values on both sides.
        branches: units of activations with a bend, such as ReLU, that are seen on both sides.
        not_reached: the bounds with values on one side only, such as "hardtanh: 20, nothing above".
        reason: why nothing was measured; empty if it was.
    """

    rows: int = 0
    inputs: Share = Share()
    weights: Share = Share()
    bounds: Share = Share()
    branches: Share = Share()
    not_reached: tuple[str, ...] = ()
    reason: str = ""

    def line(self) -> str:
        """Return the coverage as one line of text."""
        if self.reason:
            return f"not measured: {self.reason}"
        said = f"{self.inputs} input values, {self.weights} weights, {self.bounds} bounds, {self.branches} branches"
        return f"{said}; not reached: {'; '.join(self.not_reached)}" if self.not_reached else said

    def to_json(self) -> dict[str, Any]:
        """Return the object of certificate.json (docs/parity.md)."""
        return {**asdict(self), "not_reached": list(self.not_reached), "reason": self.reason or None}


def measure_coverage(graph: Graph, rows: Sequence[Mapping[str, Array]], plan: PartPlan) -> Coverage:
    """Measure what rows of inputs reach inside a part, with a run forwards and back for the first rows of each probe.

    Args:
        graph: the part.
        rows: arrays (M, *item) by name, for each probe.
        plan: the plan of the part.

    Returns:
        The coverage; a reason in place of figures where the program has no gradient or is too costly for a complete
        plan, because a run back keeps all activations.
    """
    if not plan.is_complete:
        return Coverage(inputs=_varied(graph, rows), reason="a network of this cost gets no run back")
    piece = max(1, min(_ROWS, plan.piece or _ROWS))
    try:
        with one_thread():  # faster for so few rows
            return _measured(graph, rows, max(piece, graph.spec.symbols.get(BATCH, Symbol()).low))
    except RuntimeError as error:  # torch's error for operators without a gradient
        return Coverage(reason=f"the program has no gradient: {error}".splitlines()[0][:200])


@dataclass
class _Sides:
    """The sides of a margin on which units were seen, in masks by unit, and those on which any value was."""

    bend: bool
    masks: tuple[Tensor, Tensor] | None = None
    seen: tuple[bool, bool] = (False, False)

    def add(self, values: Tensor) -> None:
        """Add values (N, …); units are told apart where their number does not depend on the batch."""
        below, above = values < 0, values > 0
        self.seen = self.seen[0] or bool(below.any()), self.seen[1] or bool(above.any())
        if values.ndim > 1:
            below, above = below.flatten(1).any(0), above.flatten(1).any(0)
        if self.masks is not None and self.masks[0].shape == below.shape:
            below, above = self.masks[0] | below, self.masks[1] | above
        self.masks = below, above

    @property
    def units(self) -> Share:
        """The number of units that were seen on both sides."""
        if self.masks is None:
            return Share()
        return Share(int((self.masks[0] & self.masks[1]).sum()), self.masks[0].numel())


def _measured(graph: Graph, rows: Sequence[Mapping[str, Array]], piece: int) -> Coverage:
    program, sides = WatchedProgram(graph), dict[int, _Sides]()
    names: dict[int, str] = {}
    moved: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(_SEED)
    count = 0
    for inputs in _pieces(graph, rows, piece):
        outputs = program.outputs([torch.from_numpy(inputs[tensor.name].copy()) for tensor in graph.spec.inputs])
        count += len(outputs[0])
        for index, margin in enumerate(program.margins):
            names[index] = margin.name
            sides.setdefault(index, _Sides(margin.bend)).add(margin.values.detach())
        floats = [output for output in outputs if output.requires_grad]
        weights = list(program.weights.items())
        if not floats or not weights:
            continue
        projected = torch.stack([(output * torch.randn(output.shape, generator=generator)).sum() for output in floats])
        gradients = torch.autograd.grad(projected.sum(), [weight for _, weight in weights], allow_unused=True)
        for (name, weight), gradient in zip(weights, gradients, strict=True):
            found = moved.setdefault(name, torch.zeros(weight.shape, dtype=torch.bool))
            # An unused weight has no gradient, which torch's types do not say.
            if isinstance(gradient, Tensor):
                found |= gradient != 0
    bends = [side for side in sides.values() if side.bend]
    bounds = {index: side for index, side in sides.items() if not side.bend}
    return Coverage(
        rows=count,
        inputs=_varied(graph, rows),
        weights=Share(sum(int(mask.sum()) for mask in moved.values()), sum(mask.numel() for mask in moved.values())),
        bounds=Share(sum(all(side.seen) for side in bounds.values()), len(bounds)),
        branches=Share(sum(side.units.reached for side in bends), sum(side.units.total for side in bends)),
        not_reached=tuple(
            f"{names[index]}, nothing {'below' if side.seen[1] else 'above'}"
            for index, side in bounds.items()
            if not all(side.seen)
        ),
    )


def _pieces(graph: Graph, rows: Sequence[Mapping[str, Array]], piece: int) -> list[dict[str, Array]]:
    """Return the first rows of each probe in pieces of a size that the batch allows; a smaller rest is left out."""
    bounds = graph.spec.symbols.get(BATCH, Symbol())
    piece = min(piece, bounds.high or piece)
    pieces = []
    for arrays in rows:
        count = min(_ROWS, len(next(iter(arrays.values()))))
        for start in range(0, max(count - count % piece, min(count, piece)), piece):
            end = min(start + piece, count)
            if end - start >= bounds.low:
                pieces.append({tensor.name: arrays[tensor.name][start:end] for tensor in graph.spec.inputs})
    return pieces


def _varied(graph: Graph, rows: Sequence[Mapping[str, Array]]) -> Share:
    """Return the input values that differ between rows."""
    varied, total = 0, 0
    for tensor in graph.spec.inputs:
        arrays = [arrays[tensor.name] for arrays in rows]
        low = np.min([array.min(0) for array in arrays], axis=0)
        high = np.max([array.max(0) for array in arrays], axis=0)
        varied, total = varied + int((high > low).sum()), total + low.size
    return Share(varied, total)
