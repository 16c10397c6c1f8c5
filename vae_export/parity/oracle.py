"""Evaluate a captured graph in float32, in float64, and in float64 with perturbed weights and inputs.

A float64 evaluation has 2^-29 of the rounding error of a float32 one, so it is treated as exact. The perturbed
evaluations show how far rounding alone moves the outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vae_export.capture import Graph, user_code
from vae_export.contract import Array, PartSpec
from vae_export.parity.plan import PERTURBATIONS as PERTURBATIONS
from vae_export.parity.tolerance import TOLERANCE_FACTORS, input_roundoff, pieces, weight_roundoffs
from vae_export.precision import FULL, PrecisionName
from vae_export.tensors import BATCH, Symbol

#: Numbers that an engine adds at a time, in a vector register: the fewer, the longer the sums that follow each other.
_LANES = 8
#: What `Oracle` is moved by while its weights change, so that an interruption leaves none that pass for others.
_UNFINISHED: tuple[int, PrecisionName] = (-1, FULL)

#: A function that computes one part: input arrays by name → output arrays by name.
PartFunction: TypeAlias = Callable[[Mapping[str, Array]], dict[str, Array]]


def _exact_weights(double: nn.Module, module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Return the floating-point weights and buffers of a part in float64, each with its exact value.

    Args:
        double: the part in float64.
        module: the part in float32, whose own weights are the values where they are equal.
    """
    single = dict((*module.named_parameters(), *module.named_buffers()))
    found = []
    for name, tensor in (*double.named_parameters(), *double.named_buffers()):
        if not tensor.is_floating_point():
            continue
        same = single.get(name)
        is_kept = same is not None and same.shape == tensor.shape and _equal(same, tensor)
        found.append((tensor, same if same is not None and is_kept else tensor.detach().clone()))
    return found


def _equal(single: Tensor, double: Tensor) -> bool:
    return all(torch.equal(one.double(), other) for one, other in zip(pieces(single), pieces(double), strict=True))


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
    """Compute the outputs of a module that has the inputs and outputs of a graph.

    Args:
        graph: the graph whose inputs and outputs the module has.
        module: the module.
        inputs: arrays (N, *item) by name.
        dtype: dtype that floating-point inputs are converted to; the module must have it too.

    Returns:
        Arrays (N, *item) by name.
    """
    # The arrays are copied, because torch warns about read-only ones.
    tensors = [torch.from_numpy(inputs[tensor.name].copy()) for tensor in graph.spec.inputs]
    with user_code(dtype):
        outputs = module(*(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return {tensor.name: output.detach().numpy() for tensor, output in zip(graph.spec.outputs, outputs, strict=True)}


class Oracle:
    """A graph evaluated in float64, exactly or with perturbed weights and inputs.

    Attributes:
        graph: the part that is evaluated.
        piece: number of rows that are evaluated at a time, which bounds the memory; None for all.
        before_use: called before each evaluation, while the weights in float64 may not be there yet.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.piece: int | None = None
        self.before_use: Callable[[], None] = lambda: None
        #: The perturbation by which the weights are moved; None while they are exact.
        self._moved: tuple[int, PrecisionName] | None = None
        #: Whether the module has normalisation layers; known after the first perturbed evaluation.
        self._normalises = True
        _ = self._double  # a part that cannot be made is refused at once

    @property
    def nbytes(self) -> int:
        """The bytes of the weights in float64, without copies of values that float32 has not."""
        tensors = (*self.graph.module.parameters(), *self.graph.module.buffers())
        return sum(2 * tensor.nbytes for tensor in tensors if tensor.is_floating_point())

    @cached_property
    def _double(self) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
        """The part in float64, and its weights, each with its exact value."""
        module = self.graph.in_float64()
        return module, _exact_weights(module, self.graph.module)

    def release(self) -> None:
        """Drop the part in float64. The next evaluation makes it again."""
        self._moved = None
        vars(self).pop("_double", None)

    def expected(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name, float64 (N, *item), for inputs (N, *item) by name."""
        self.before_use()
        self._move_weights(None)
        return self._run(inputs)

    def perturbed(self, inputs: Mapping[str, Array], index: int, precision: PrecisionName = FULL) -> dict[str, Array]:
        """Return the outputs with every weight and input moved at random by several rounding errors.

        The movement of the outputs, divided by the number of rounding errors, is the error that no implementation in
        this precision can avoid. It does not depend on how well PyTorch happens to do with these inputs (Higham,
        "Accuracy and Stability of Numerical Algorithms", 2nd ed., section 1.5: backward error). Weights move by
        `TOLERANCE_FACTORS` rounding errors, which is as far as a file may be off. Moving them by one and multiplying
        the result would differ for a step function, such as a saturated sigmoid. Each direction is taken forwards and
        back, because only one of the two crosses the step. The means that normalisation layers compute from many
        values move too.

        Args:
            inputs: arrays (N, *item) by name.
            index: number of the perturbation, from 0 to `PERTURBATIONS` - 1. The weights stay moved until another index
                or the exact outputs are asked for, so it is faster to evaluate all inputs of one index before the next.
            precision: the precision whose rounding errors the weights and inputs move by.

        Returns:
            The outputs by name, float64 (N, *item).
        """
        self.before_use()
        self._move_weights((index, precision))
        seed, factor = perturbation_direction(index, precision)
        rng = np.random.default_rng(seed)
        moved = {  # codes and classes are exact
            name: _moved_input(array, factor * rng.uniform(-1, 1, array.shape), precision)
            if np.issubdtype(array.dtype, np.floating)
            else array
            for name, array in inputs.items()
        }
        if not self._normalises:
            return self._run(moved)
        with _MovedStatistics(factor) as statistics:
            outputs = self._run(moved)
        self._normalises = statistics.found
        return outputs

    def _move_weights(self, to: tuple[int, PrecisionName] | None) -> None:
        """Make the weights exact, or move them by a perturbation: in place, because models can be large."""
        if self._moved == to:
            return
        module, weights = self._double
        were_exact, self._moved = self._moved is None, _UNFINISHED
        with torch.no_grad():
            for tensor, exact in () if were_exact else weights:
                tensor.copy_(exact)
            if to is None:
                self._moved = None
                return
            seed, factor = perturbation_direction(*to)
            generator = torch.Generator().manual_seed(seed)
            for tensor, roundoff in weight_roundoffs(module, to[1], self.graph.module):
                # In place, because new tensors of this size cost more time than the arithmetic.
                noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype).mul_(2).sub_(1)
                tensor.add_(noise.mul_(roundoff).mul_(factor))
        self._moved = to

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        module, _ = self._double
        rows = len(next(iter(inputs.values())))
        if self.piece is None or rows <= self.piece:
            return run_module(self.graph, module, inputs, torch.float64)
        evaluated = [
            run_module(self.graph, module, _rows(inputs, first, self.piece), torch.float64)
            for first in range(0, rows, self.piece)
        ]
        return {name: np.concatenate([piece[name] for piece in evaluated]) for name in evaluated[0]}


class _MovedStatistics(TorchDispatchMode):
    """Moves the mean in group, layer and instance normalisation by the error of adding in float32, one by one.

    ONNX Runtime adds that way, where PyTorch adds in pairs. The error grows with the number of values, linearly where
    they are nearly equal, and the division by their deviation then magnifies it: on plain images of 128 x 128 pixels,
    ONNX Runtime's error is 50 times that of PyTorch, and both are right.

    Args:
        factor: number of errors to move by, negative for back.

    Attributes:
        found: whether there was a normalisation.
    """

    def __init__(self, factor: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self._factor = factor
        self.found = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        outputs = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.native_group_norm.default:
            output, mean, rstd = outputs
            shift = self._shift(args[0], mean, rstd).repeat_interleave(output.shape[1] // mean.shape[1], dim=1)
            shift, weight = shift.reshape(*shift.shape, *[1] * (output.ndim - 2)), args[1]
            weight = None if weight is None else weight.reshape(-1, *[1] * (output.ndim - 2))
        elif func is torch.ops.aten.native_layer_norm.default:
            output, mean, rstd = outputs
            shift, weight = self._shift(args[0], mean, rstd), args[2]
        elif func is torch.ops.aten.native_batch_norm.default and args[5]:
            # Instance normalisation is batch normalisation with the statistics of a batch: (1, N · C, *sizes).
            output, mean, rstd = outputs
            shift = self._shift(args[0].transpose(0, 1), mean, rstd).reshape(-1, *[1] * (output.ndim - 2))
            weight = None if args[1] is None else args[1].reshape(shift.shape)
        else:
            return outputs
        self.found = True
        return output + (shift if weight is None else shift * weight), mean, rstd

    def _shift(self, values: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
        """Return the movement of the normalised values, in the shape of their means."""
        grouped = values.reshape(mean.numel(), -1)
        error = _mean_one_by_one(grouped.numpy()) - grouped.mean(1).numpy()
        return self._factor * torch.from_numpy(error).reshape(mean.shape) * rstd


def _mean_one_by_one(values: Array) -> Array:
    """Return the mean of each row (M, n), summed in float32 one after the other in `_LANES` lanes."""
    count = values.shape[1]
    padded = np.zeros((len(values), -(-count // _LANES) * _LANES), np.float32)
    padded[:, :count] = values
    # numpy adds in pairs along the last axis only.
    lanes = padded.reshape(len(values), -1, _LANES).sum(axis=1)
    mean: Array = lanes.sum(axis=1).astype(np.float64) / count
    return mean


def perturbation_direction(index: int, precision: PrecisionName = FULL) -> tuple[int, float]:
    """Return the seed of a perturbation's direction, and the number of rounding errors to move by (negative for back).

    Args:
        index: number of the perturbation, from 0 to `PERTURBATIONS` - 1.
        precision: precision of the file, which decides the number of rounding errors.
    """
    factor = TOLERANCE_FACTORS[precision]
    return index // 2, factor if index % 2 == 0 else -factor


def _rows(arrays: Mapping[str, Array], first: int, count: int) -> dict[str, Array]:
    return {name: array[first : first + count] for name, array in arrays.items()}


def _moved_input(array: Array, roundings: Array, precision: PrecisionName) -> Array:
    values = torch.from_numpy(array.astype(np.float64))
    moved: Array = (values + torch.from_numpy(roundings) * input_roundoff(values, precision)).numpy()
    return moved


class Sensitivity:
    """Accumulates how far one output moves over all perturbations.

    Attributes:
        worst: largest movement of any number; infinite if one is NaN.
        mean: largest mean movement of a batch in any direction. Each number counts with the larger of its movements
            forwards and back, because only one of the two crosses a step such as a saturated sigmoid.
        changed: a mask of the numbers that any perturbation moves, (N, *item); of codes only, which are not near a
            value but equal to it.

    Args:
        codes: whether the output holds codes.
    """

    def __init__(self, *, codes: bool = False) -> None:
        self.worst = self.mean = 0.0
        self.changed: Array | None = None
        self._codes = codes
        self._forwards: Array | None = None

    def add(self, distances: Array, index: int, batches: Sequence[int]) -> None:
        """Add one perturbation.

        Args:
            distances: the movement of each number, (N, *item).
            index: number of the perturbation; forwards (even) must be added before back (odd).
            batches: batch sizes whose means count; a batch consists of the first rows of N.
        """
        if self._codes:
            self.changed = (distances > 0) if self.changed is None else self.changed | (distances > 0)
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


def evaluate_rows(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Compute a graph's outputs with PyTorch in float32, as `run_rows` does."""
    return run_rows(partial(evaluate_graph, graph), graph.spec, inputs)


def run_rows(function: PartFunction, spec: PartSpec, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Run a part on any number of rows, in batches that it allows.

    Args:
        function: computes the part, with PyTorch or by a file.
        spec: the inputs of the part, and the bounds of its batch.
        arrays: arrays (M, *item) by name; those that the part does not take are ignored.

    Returns:
        The outputs (M, *item) by name.
    """
    taken = {tensor.name: arrays[tensor.name] for tensor in spec.inputs}
    rows, bounds = len(next(iter(taken.values()))), spec.symbols.get(BATCH, Symbol())
    if bounds.low <= rows <= (bounds.high or rows):
        return function(taken)
    most = bounds.high or max(rows, bounds.low)
    batches: list[dict[str, Array]] = []
    for start in range(0, rows, most):
        end = min(start + most, rows)
        index = np.arange(start, max(end, start + bounds.low)) % rows  # the first rows fill a batch that is too small
        outputs = function({name: array[index] for name, array in taken.items()})
        batches.append({name: array[: end - start] for name, array in outputs.items()})
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
