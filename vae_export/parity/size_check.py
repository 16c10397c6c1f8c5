"""Run a new ONNX file once at a few sizes, before it is written for good, to find the sizes that it cannot have.

PyTorch's exporter writes the sizes of its example into some operators. Such a file is right at these sizes only: sizes
are fixed then, and the verification proves what is left.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from vae_export.artifact.manifest import FileContent
from vae_export.capture import CACHED_BYTES, Graph
from vae_export.capture.program import example_inputs
from vae_export.contract import Array
from vae_export.errors import ModelError
from vae_export.formats import FORMATS, WriteOptions
from vae_export.parity.oracle import evaluate_graph
from vae_export.parity.plan import sizes_to_run
from vae_export.session_options import SessionOptions
from vae_export.sources.module_runs import ModuleState
from vae_export.tensors import BATCH, Symbol, all_finite

#: Rows to run, within the bounds of the batch. Two rows are those of the example.
_ROWS = (1, 3)
#: The share of an output's mean size by which its mean error shows another function. Rounding is far below it, and so
#: are the few codes of a quantiser that rounding changes.
_WRONG = 0.05
#: A mean error that may be rounding, where an output is zero but for it.
_ROUNDING = 1e-5


def check_translation(graph: Graph, opset: int) -> None:
    """Raise `ModelError` if a graph cannot be written as ONNX, or not for all of its sizes.

    A translation that is too large to keep is not tried.

    Args:
        graph: the part.
        opset: ONNX operator set.
    """
    if sum(tensor.nbytes for tensor in (*graph.module.parameters(), *graph.module.buffers())) <= CACHED_BYTES:
        check_file_at_sizes(graph, FORMATS["onnx"].write(graph, WriteOptions(opset=opset)))


def check_file_at_sizes(graph: Graph, content: FileContent) -> None:
    """Raise `ModelError` if ONNX Runtime cannot run a file at some size or batch, or computes something else there.

    Args:
        graph: the part. If all of its sizes are fixed, nothing is run.
        content: its file.
    """
    symbols = {name: symbol for name, symbol in graph.spec.symbols.items() if name != BATCH}
    batch = graph.spec.symbols.get(BATCH, Symbol())
    if not symbols and batch.is_fixed:
        return
    runner = FORMATS["onnx"].open(content, graph.spec, SessionOptions(threads=1))
    rows = dict.fromkeys(min(max(row, batch.low), batch.high or row) for row in _ROWS)
    # The usual sizes are those of the example; they are tried where there are no others.
    for sizes, row in itertools.product(sizes_to_run(symbols)[1:] or ((),), rows):
        examples = example_inputs(graph.spec.at(dict(sizes)), row)
        inputs = {tensor.name: example.numpy() for tensor, example in zip(graph.spec.inputs, examples, strict=True)}
        if (expected := _expected(graph, inputs)) is None:
            continue
        at = ", ".join((f"batch {row}", *(f"{name}={size}" for name, size in sizes)))
        try:
            found = runner(inputs)
        except ModelError as error:
            raise ModelError("ONNX Runtime cannot run the file", where=f"{graph.spec.part}, {at}", got=error) from error
        for name, output in expected.items():
            if _is_wrong(found[name], output):
                where = f"{graph.spec.part}, '{name}', {at}"
                raise ModelError("ONNX Runtime computes something else than PyTorch", where=where)


def _expected(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array] | None:
    """Return what PyTorch computes; None if it cannot, or not with finite numbers, which the verification reports."""
    try:
        with ModuleState(graph.module):
            outputs = evaluate_graph(graph, inputs)
    except Exception:  # the user's modules may raise any error
        return None
    return outputs if all(map(all_finite, outputs.values())) else None


def _is_wrong(found: Array, expected: Array) -> bool:
    """Whether floats differ by far more than rounding. Integers are left to the verification, which knows near ties."""
    if expected.dtype.kind != "f":
        return False
    # Comparisons with NaN are false.
    return not np.abs(found - expected).mean() <= max(_ROUNDING, _WRONG * np.abs(expected).mean())
