"""Measure the time and memory of one row of a part, from which a verification is planned."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vae_export.contract import Array, PartSpec
from vae_export.parity.oracle import Oracle, PartFunction, evaluate_graph
from vae_export.parity.plan import RowCost

#: Runs are repeated up to this number of times, and as long as all of them take less than this many seconds.
_RUNS, _LONG_SECONDS = 4, 0.5


def row_cost(oracle: Oracle, file: PartFunction | None = None, batch: int = 1) -> RowCost:
    """Run a part on one row in float32, in float64 and as a file.

    Args:
        oracle: the part, at sizes in numbers.
        file: the exported file; None takes PyTorch's float32 time.
        batch: number of rows to run at once, which counts as one row; more than 1 only where the batch is fixed.

    Returns:
        The cost of one row.
    """
    inputs = plain_inputs(oracle.graph.spec, batch)
    with _LiveBytes() as single:
        outputs = evaluate_graph(oracle.graph, inputs)
    with _LiveBytes() as double:
        oracle.expected(inputs)
    float32 = seconds(lambda: evaluate_graph(oracle.graph, inputs))
    return RowCost(
        float32=float32 / batch,
        float64=seconds(lambda: oracle.expected(inputs)) / batch,
        file=(float32 if file is None else seconds(lambda: file(inputs))) / batch,
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
