"""The fast path of ordinary calls: checking and copying a small batch takes as long as computing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort

from vae_export.contract import Array, PartSpec
from vae_export.session_options import CPU
from vae_export.tensors import BATCH, Symbol, all_finite

#: Limits of the rows, and of the bytes of inputs and outputs, of batches with bound buffers. Above them, copying costs
#: more than binding saves.
_MAX_BOUND_ROWS, _MAX_BOUND_BYTES = 32, 1 << 16


class FastPath:
    """Calls of a part with one input of a fixed shape, on the CPU.

    Small batches have bound buffers, which are kept for each number of rows and each thread that runs at the same time.

    Args:
        session: the opened file, whose inputs and outputs have been compared with the contract.
        spec: the part.
        most_rows: the most rows of a call.
    """

    def __init__(self, session: ort.InferenceSession, spec: PartSpec, most_rows: int) -> None:
        self._session, self._spec, self._input = session, spec, spec.inputs[0]
        self._names = [tensor.name for tensor in spec.outputs]
        self._dtype, self._limits = np.dtype(self._input.dtype), self._input.limits
        self._least, self._most = spec.symbols.get(BATCH, Symbol()).low, most_rows
        row = sum(tensor.bytes_per_row for tensor in (*spec.inputs, *spec.outputs))
        bound = range(self._least, min(_MAX_BOUND_ROWS, _MAX_BOUND_BYTES // row, most_rows) + 1)
        self._idle: dict[int, list[_Buffers]] = {rows: [] for rows in bound}

    @staticmethod
    def serves(session: ort.InferenceSession, spec: PartSpec) -> bool:
        """Whether a part can take this path: it has one input and no open sizes, and runs on the CPU."""
        is_plain = len(spec.inputs) == 1 and not spec.symbols.keys() - {BATCH}
        return is_plain and session.get_providers()[0] == CPU

    def run(self, value: Any) -> dict[str, Array] | None:
        """Compute the outputs of an input.

        Args:
            value: the input.

        Returns:
            The outputs by name; None if the value is no batch for this path, or if anything is wrong with it or with an
            output: the general call then computes it, or says what is wrong.
        """
        if type(value) is not np.ndarray or value.dtype != self._dtype or not self._fits(value):
            return None
        idle = self._idle.get(len(value))
        try:  # ONNX Runtime's exceptions have no class in common; the general call meets and explains them again
            found = self._run(value) if idle is None else self._run_bound(value, idle)
        except Exception:
            return None
        return found if all(map(all_finite, found.values())) else None

    def _fits(self, value: Array) -> bool:
        shape, (low, high) = value.shape, self._limits
        if shape[1:] != self._input.item or not self._least <= shape[0] <= self._most:
            return False
        if self._input.is_bounded:  # comparisons with NaN are false
            return bool(value.min() >= low and value.max() <= high)
        return all_finite(value)

    def _run(self, value: Array) -> dict[str, Array]:
        return dict(zip(self._names, self._session.run(self._names, {self._input.name: value}), strict=True))

    def _run_bound(self, value: Array, idle: list[_Buffers]) -> dict[str, Array]:
        try:
            buffers = idle.pop()
        except IndexError:
            buffers = _Buffers.bind(self._session, self._spec, value)
        np.copyto(buffers.input, value)
        self._session.run_with_iobinding(buffers.binding)
        found = {name: array.copy() for name, array in buffers.outputs.items()}
        idle.append(buffers)
        return found


@dataclass(frozen=True)
class _Buffers:
    """An input and outputs at fixed addresses, and the binding that reads and writes them."""

    binding: ort.IOBinding
    input: Array
    outputs: Mapping[str, Array]

    @classmethod
    def bind(cls, session: ort.InferenceSession, spec: PartSpec, example: Array) -> _Buffers:
        """Make buffers for inputs like this example."""
        given = np.empty(example.shape, example.dtype)
        outputs = {tensor.name: np.empty((len(example), *tensor.fixed_item), tensor.dtype) for tensor in spec.outputs}
        return cls(_bind(session, {spec.inputs[0].name: given}, outputs), given, outputs)


def run_into(session: ort.InferenceSession, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
    """Run a session on the CPU, which writes its outputs into arrays.

    Args:
        session: the opened file.
        inputs: arrays by name, of the graph's dtypes.
        outputs: contiguous arrays by name, one for each output, of its dtype and shape.
    """
    contiguous = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
    session.run_with_iobinding(_bind(session, contiguous, outputs))


def _bind(session: ort.InferenceSession, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> ort.IOBinding:
    """Bind contiguous arrays, which the caller keeps alive, as inputs and outputs in the memory of the CPU."""
    binding = session.io_binding()
    for bind, arrays in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
        for name, array in arrays.items():
            bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    return binding
