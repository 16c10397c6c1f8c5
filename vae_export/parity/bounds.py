"""The bounds inside a captured program, and inputs that are driven towards both sides of each.

A bound is a number at which an operator changes what it does: the ends of a clamp, the other side of a maximum or a
comparison, and the zero of a ReLU. A file with a wrong bound is right for all inputs that stay on one side of it, so
inputs are searched for that cross it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from vae_export.capture import Graph, user_code
from vae_export.contract import Array
from vae_export.system.threads import one_thread
from vae_export.tensors import TensorSpec

#: Arguments of operators that state a bound.
_STATED = ("min", "max", "min_val", "max_val", "threshold")
_CLAMPS = frozenset({"clamp", "clip", "clamp_min", "clamp_max", "hardtanh", "threshold"})
#: Operators that compare their first two arguments.
_COMPARISONS = frozenset({"maximum", "minimum", "fmax", "fmin", "gt", "ge", "lt", "le", "eq", "ne"})
#: Operators whose bounds are fixed.
_FIXED: Mapping[str, tuple[float, ...]] = {"relu6": (0.0, 6.0), "hardsigmoid": (-3.0, 3.0), "hardswish": (-3.0, 3.0)}
#: Functions with a bend at zero. Each of their units is a branch.
_BENT_AT_ZERO = frozenset({"relu", "leaky_relu", "elu", "celu", "selu", "prelu", "_prelu_kernel", "abs", "sign"})
#: How often inputs are moved to the corner of their range to which the gradient points.
_STEPS = 4
#: The farthest that inputs without a range are driven, in standard deviations.
_FARTHEST = 6.0
#: Rows inside of which a number is larger are not driven so far: its square overflows in float32.
_LARGEST = 1e15


@dataclass(frozen=True)
class Margin:
    """The distance of values from a bound inside a program.

    Attributes:
        name: the operator and the bound, such as "hardtanh: 20".
        values: distances, (N, …), negative below the bound.
        bend: whether the bound is the zero of an activation, of which a network has too many to name.
    """

    name: str
    values: Tensor
    bend: bool


class WatchedProgram(fx.Interpreter):
    """Runs a captured program, and keeps the margins and the largest value of each row.

    Args:
        graph: a part of a source.

    Attributes:
        margins: the margins of the last run, in the order of the program.
        weights: the weights and constants that the last run read, by name.
        largest: largest absolute value of each row in the last run, (N,); infinite numbers do not count, because
            attention is masked with them.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph.program.module())
        self._spec = graph.spec
        self._rows = 0
        self.margins: list[Margin] = []
        self.weights: dict[str, Tensor] = {}
        self.largest = torch.zeros(0)

    def outputs(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the outputs in the order of the part, with their gradients.

        Args:
            inputs: tensors (N, *item) in the order of the part.
        """
        self.margins, self.weights, self._rows = [], {}, len(inputs[0])
        self.largest = torch.zeros(self._rows)
        with user_code(), torch.enable_grad():
            outputs = self.run(*inputs)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return a weight as a leaf of the gradient's graph."""
        value = super().get_attr(target, args, kwargs)
        if isinstance(value, Tensor) and value.is_floating_point():
            if target not in self.weights:
                self.weights[target] = value.detach().requires_grad_()
            return self.weights[target]
        return value

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Skip torch's checks of sizes, which the contract has made."""
        return None if target == "_guards_fn" else super().call_module(target, args, kwargs)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Run an operator and keep its margins."""
        if isinstance(target, torch._ops.OpOverload):
            given = {argument.name: argument.default_value for argument in target._schema.arguments}
            given |= dict(zip(given, args, strict=False))
            operator = target._schema.name.partition("::")[2].rstrip("_")
            self.margins += _margins(operator, given | kwargs)
        result = super().call_function(target, args, kwargs)
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor) and value.is_floating_point() and value.shape[:1] == (self._rows,):
                finite = value.detach().reshape(self._rows, -1).nan_to_num(0.0, 0.0, 0.0)
                if finite.shape[1]:
                    self.largest = torch.maximum(self.largest, finite.abs().amax(1))
        return result


def _margins(operator: str, given: Mapping[str, Any]) -> Iterator[Margin]:
    """Yield the margins of an operator's arguments."""
    value = given.get("self", given.get("input"))
    if not isinstance(value, Tensor) or not value.ndim:
        return
    if operator in _BENT_AT_ZERO and value.is_floating_point():
        yield Margin(f"{operator}: 0", value, bend=True)
    elif operator in _CLAMPS:
        for argument in _STATED:
            if (bound := given.get(argument)) is not None:
                yield Margin(f"{operator}: {_stated(bound)}", value - bound, bend=False)
    elif operator in _FIXED:
        for fixed in _FIXED[operator]:
            yield Margin(f"{operator}: {fixed:g}", value - fixed, bend=False)
    elif operator in _COMPARISONS and (other := given.get("other")) is not None and value.dtype != torch.bool:
        yield Margin(f"{operator}: {_stated(other)}", (value - other).to(torch.float32), bend=False)


def _stated(bound: Any) -> str:
    if isinstance(bound, Tensor):
        return f"{float(bound):g}" if bound.numel() == 1 else "another value"
    return f"{float(bound):g}"


@dataclass(frozen=True)
class _Goal:
    """The unit that a row is driven towards one side of: of a margin, or of an output where `margin` is None."""

    margin: int | None
    output: int
    unit: int
    sign: float


def extreme_inputs(graph: Graph, start: Mapping[str, Array], first: int = 0) -> dict[str, Array]:
    """Return inputs whose rows drive the program's bounds and outputs as far as they go, in either direction.

    Each row has one unit as its goal: of a clamp or a comparison, of an output, or of an activation, first of those
    that are on one side in all rows. Its inputs jump to the corner of their range to which the gradient points, several
    times (the method of Frank and Wolfe, Naval Research Logistics Quarterly 3, 1956, with a full step), and the best
    corner is kept. Integer inputs stay.

    Args:
        graph: a part of a source.
        start: arrays (N, *item) by name, where the search begins.
        first: number of goals that other rows have already.

    Returns:
        Arrays (N, *item) by name. Rows whose values would overflow when they are squared stay where they began, and so
        do all rows of a program that has no gradient.
    """
    try:
        with one_thread():  # the same inputs on every machine, and faster for so few rows
            return _searched(graph, start, first)
    except RuntimeError:  # torch's error for operators without a gradient
        return dict(start)


def _searched(graph: Graph, start: Mapping[str, Array], first: int) -> dict[str, Array]:
    """Return the inputs; torch raises `RuntimeError` where there is no gradient."""
    program = WatchedProgram(graph)
    tensors = [torch.from_numpy(start[tensor.name].copy()) for tensor in graph.spec.inputs]
    driven = [
        index
        for index, tensor in enumerate(graph.spec.inputs)
        if tensors[index].is_floating_point() and tensor.role != "condition"
    ]
    best, goals = [tensor.clone() for tensor in tensors], list[_Goal]()
    reached = torch.full((len(tensors[0]),), -torch.inf)
    for step in range(_STEPS + 1):
        leaves = [tensors[index].detach().requires_grad_() for index in driven]
        inputs = list(tensors)
        for index, leaf in zip(driven, leaves, strict=True):
            inputs[index] = leaf
        outputs = program.outputs(inputs)
        goals = goals or _goals(program.margins, outputs, len(tensors[0]), first)
        if not goals or not driven:
            return dict(start)
        heights = _heights(goals, program.margins, outputs)
        finite = torch.stack([_units(output).isfinite().all(1) for output in outputs]).all(0)
        better = (heights.detach() > reached) & finite & (program.largest < _LARGEST)
        for index in driven:
            best[index][better] = tensors[index].detach()[better]
        reached = torch.where(better, heights.detach(), reached)
        if step == _STEPS or not heights.requires_grad:
            break
        gradients = torch.autograd.grad(heights.sum(), leaves, allow_unused=True)
        for index, gradient in zip(driven, gradients, strict=True):
            if gradient is not None:
                tensors[index] = _corner(graph.spec.inputs[index], tensors[index].detach(), gradient)
    return {tensor.name: array.numpy() for tensor, array in zip(graph.spec.inputs, best, strict=True)}


def _heights(goals: Sequence[_Goal], margins: Sequence[Margin], outputs: Sequence[Tensor]) -> Tensor:
    """Return how far each row has come in the direction of its goal, (N,)."""
    heights = torch.zeros(len(goals))
    by_source: dict[tuple[int | None, int], list[int]] = {}
    for row, goal in enumerate(goals):
        by_source.setdefault((goal.margin, goal.output), []).append(row)
    for (margin, output), rows in by_source.items():
        values = _units(outputs[output] if margin is None else margins[margin].values)
        units = torch.tensor([goals[row].unit for row in rows])
        signs = torch.tensor([goals[row].sign for row in rows])
        heights = heights.index_put((torch.tensor(rows),), signs * values[torch.tensor(rows), units])
    return heights


def _corner(spec: TensorSpec, values: Tensor, gradient: Tensor) -> Tensor:
    """Return the values moved to the ends of their range to which the gradient points, where there is a gradient."""
    low, high = (spec.low, spec.high) if spec.is_bounded else (-_FARTHEST, _FARTHEST)
    return torch.where(gradient > 0, high, torch.where(gradient < 0, low, values))


def _goals(margins: Sequence[Margin], outputs: Sequence[Tensor], rows: int, first: int) -> list[_Goal]:
    """Return a goal for each row: units of every bound in turn, with both signs, spread over the units of each."""
    rng = np.random.default_rng(0)
    bounds = [index for index, margin in enumerate(margins) if not margin.bend and _is_driven(margin.values, rows)]
    bends = [index for index, margin in enumerate(margins) if margin.bend and _is_driven(margin.values, rows)]
    floats = [index for index, output in enumerate(outputs) if _is_driven(output, rows)]
    groups: list[Iterator[_Goal]] = [_goals_of(index, 0, margins[index].values, rng) for index in bounds]
    groups += [_goals_of(None, index, outputs[index], rng) for index in floats]
    groups += [_one_sided(index, margins[index].values) for index in bends]
    groups += [_goals_of(index, 0, margins[index].values, rng) for index in bends]
    goals: list[_Goal] = []
    while groups and len(goals) < first + rows:
        for group in list(groups):
            pair = [goal for goal, _ in zip(group, range(2), strict=False)]
            goals += pair
            if not pair:
                groups.remove(group)
    return [goals[(first + row) % len(goals)] for row in range(rows)] if goals else []


def _goals_of(margin: int | None, output: int, values: Tensor, rng: np.random.Generator) -> Iterator[_Goal]:
    for unit in rng.permutation(_units(values).shape[1]):
        for sign in (1.0, -1.0):
            yield _Goal(margin, output, int(unit), sign)


def _one_sided(margin: int, values: Tensor) -> Iterator[_Goal]:
    """Yield the other side as the goal of each unit that is on one side in all rows, the nearest units first."""
    units = _units(values.detach())
    least = torch.minimum(units.amax(0).clamp(min=0), (-units).amax(0).clamp(min=0))
    distances = units.abs().amin(0)
    for unit in torch.argsort(distances).tolist():
        if not least[unit] > 0:
            yield _Goal(margin, 0, unit, -1.0 if units[0, unit] > 0 else 1.0)


def _is_driven(values: Tensor, rows: int) -> bool:
    return values.requires_grad and values.shape[:1] == (rows,) and values.numel() > 0


def _units(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1)
