"""Measure the time and memory of one row of a part, from which a verification is planned."""

from __future__ import annotations

import contextlib
import math
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vae_export.contract import Array, PartSpec
from vae_export.errors import ModelError, VaeExportError
from vae_export.parity.oracle import Oracle, PartFunction, evaluate_graph
from vae_export.parity.plan import (
    FEWEST_PERTURBATIONS,
    Limits,
    PartPlan,
    RowCost,
    Sizes,
    halved,
    plan_part,
    sizes_to_run,
)
from vae_export.tensors import BATCH, Symbol

#: Runs are repeated up to this number of times, and as long as all of them take less than this many seconds.
_RUNS, _LONG_SECONDS = 4, 0.5
#: A call with one row of a small network takes as long as one with many, so rows that take less than this many seconds
#: are timed together.
_SHORT_SECONDS, _ROWS_TOGETHER = 0.02, 16


class Pilot:
    """Runs a part on single rows at each of its sizes, and plans its verification.

    Args:
        oracle: the part.
        limits: the time and memory that the verification of the part may take.

    Attributes:
        costs: the cost of a row at each size, the usual one first.

    Raises:
        ModelError: PyTorch cannot run the part at one of its sizes.
    """

    def __init__(self, oracle: Oracle, limits: Limits) -> None:
        self._oracle, self._limits = oracle, limits
        symbols = dict(oracle.graph.spec.symbols)
        self._bounds = symbols.pop(BATCH, Symbol())
        usual, *others = sizes_to_run(symbols)
        costs = [self._cost(sizes) for sizes in others]
        #: The usual size, where it is too costly for a single row.
        self._too_large: Sizes | None = None
        while costs and self._is_too_costly(costs[0].scaled(self._values(usual) / self._values(others[0]))):
            self._too_large = self._too_large or usual
            if (usual := halved(usual, symbols)) in others:
                break
        self._sizes = tuple(dict.fromkeys((usual, *others)))
        known = dict(zip(others, costs, strict=True))
        self.costs = [known[sizes] if sizes in known else self._cost(sizes) for sizes in self._sizes]

    def plan(self, *, thorough: bool, settings: int) -> PartPlan:
        """Return the plan; see `plan_part`."""
        plan = plan_part(
            self.costs, self._limits, thorough=thorough, settings=settings, bounds=self._bounds, sizes=self._sizes
        )
        if self._too_large is None:
            return plan
        left_out = f"the usual size {', '.join(f'{name}={value}' for name, value in self._too_large)}"
        reasons = ("a row of the usual size is too costly", *filter(None, [plan.reason]))
        return replace(plan, left_out=(left_out, *plan.left_out), reason="; ".join(reasons))

    def time_file(self, file: PartFunction | None) -> None:
        """Measure a row of an exported file, where there is one that can be run; its first outputs are not compared."""
        if file is None:
            return
        inputs = self._inputs(self._sizes[0])
        with contextlib.suppress(Exception):  # the verification shows what is wrong with the file
            file(inputs)
            taken = _seconds_per_row(file, inputs, self._bounds.high)
            usual = self._values(self._sizes[0])
            self.costs = [
                replace(cost, file=taken * self._values(sizes) / usual)
                for cost, sizes in zip(self.costs, self._sizes, strict=True)
            ]

    def _cost(self, sizes: Sizes) -> RowCost:
        try:
            return row_cost(self._oracle, self._inputs(sizes), self._bounds.high)
        except VaeExportError:
            raise
        except Exception as error:  # the user's modules may raise any error
            where = ", ".join([self._oracle.graph.spec.part, *(f"{name}={value}" for name, value in sizes)])
            got, do = f"{type(error).__name__}: {error}", "state the bounds of its sizes in the contract"
            raise ModelError("module cannot be run", where=where, got=got, do=do if sizes else None) from error

    def _inputs(self, sizes: Sizes) -> dict[str, Array]:
        return plain_inputs(self._oracle.graph.spec.at(dict(sizes)), self._bounds.low)

    def _values(self, sizes: Sizes) -> int:
        """Return the number of input values of a row."""
        spec = self._oracle.graph.spec.at(dict(sizes))
        return sum(math.prod(tensor.fixed_item) for tensor in spec.inputs)

    def _is_too_costly(self, cost: RowCost) -> bool:
        """Whether the shortest comparison of rows of this cost would be beyond the limits."""
        evaluations = 2 * (1 + FEWEST_PERTURBATIONS)
        return evaluations * cost.float64 > self._limits.seconds or cost.bytes_float64 > self._limits.row_bytes


def row_cost(oracle: Oracle, inputs: Mapping[str, Array], most_rows: int | None = None) -> RowCost:
    """Run a part in float32 and in float64.

    Args:
        oracle: the part.
        inputs: arrays (N, *item) by name, with the smallest batch that the part allows.
        most_rows: the largest batch that it allows; None for any.

    Returns:
        The cost of one row; a file is taken to be as fast as PyTorch's float32.
    """
    batch = len(next(iter(inputs.values())))
    with _LiveBytes() as single:
        outputs = evaluate_graph(oracle.graph, inputs)
    with _LiveBytes() as double:
        oracle.expected(inputs)
    float32, float64 = (
        _seconds_per_row(work, inputs, most_rows)
        for work in (lambda given: evaluate_graph(oracle.graph, given), oracle.expected)
    )
    return RowCost(
        float32=float32,
        float64=float64,
        file=float32,
        bytes_float32=single.most // batch,
        bytes_float64=double.most // batch,
        stored_bytes=sum(array.nbytes for array in (*inputs.values(), *outputs.values())) // batch,
    )


def plain_inputs(spec: PartSpec, batch: int) -> dict[str, Array]:
    """Return inputs by name, (batch, *item): the middle of each range, or 0.5 for a tensor without a range."""
    inputs = {}
    for tensor in spec.inputs:
        middle = (tensor.low + tensor.high) / 2 if tensor.is_bounded else 0.5
        inputs[tensor.name] = np.full((batch, *tensor.fixed_item), middle, tensor.dtype)
    return inputs


def _seconds_per_row(work: PartFunction, inputs: Mapping[str, Array], most_rows: int | None) -> float:
    """Return the time of a row within a batch of a few rows, or alone where a row takes long."""
    batch = len(next(iter(inputs.values())))
    taken = seconds(lambda: work(inputs)) / batch
    times = min(_ROWS_TOGETHER, most_rows or _ROWS_TOGETHER) // batch
    if times < 2 or taken > _SHORT_SECONDS:
        return taken
    together = {name: np.repeat(array, times, axis=0) for name, array in inputs.items()}
    return seconds(lambda: work(together)) / (batch * times)


def seconds(work: Callable[[], object]) -> float:
    """Return the shortest time of a few runs, or of a single one that is long."""
    times: list[float] = []
    while not times or (len(times) < _RUNS and sum(times) < _LONG_SECONDS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operators return and that are alive, and keeps the largest number.

    Attributes:
        most: the largest number of bytes.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self.most = self._alive = 0
        self._tensors: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        outputs = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage().data_ptr() for tensor in tree_leaves((args, kwargs)) if _is_tensor(tensor)}
        for tensor in tree_leaves(outputs):
            # A view of a weight is no activation.
            if _is_tensor(tensor) and tensor.untyped_storage().data_ptr() not in given - self._tensors.keys():
                self._add(tensor)
        self.most = max(self.most, self._alive + _workspace(func, args, outputs))
        return outputs

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        pointer = storage.data_ptr()
        if pointer not in self._tensors:
            self._alive += storage.nbytes()
        self._tensors[pointer] = self._tensors.get(pointer, 0) + 1
        weakref.finalize(tensor, self._remove, pointer, storage.nbytes())

    def _remove(self, pointer: int, size: int) -> None:
        self._tensors[pointer] -= 1
        if not self._tensors[pointer]:
            del self._tensors[pointer]
            self._alive -= size


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor) and value.numel() > 0


def _workspace(func: Any, args: tuple[Any, ...], outputs: Any) -> int:
    """Return the bytes that a convolution in float64 needs beside its output: each output value has its patch."""
    if func is not torch.ops.aten.convolution.default or outputs.dtype != torch.float64:
        return 0
    weight: Tensor = args[1]
    # A transposed convolution scatters its input, so that the patches are those of the input.
    positions = (args[0] if args[6] else outputs)[:, :1].numel()
    return int(positions * weight[0].numel() * weight.element_size())
