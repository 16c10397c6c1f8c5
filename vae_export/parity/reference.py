"""What PyTorch makes of one probe at one batch size, and how much rounding that leaves room for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vae_export.contract import Array
from vae_export.errors import ModelError
from vae_export.graphs import Graph
from vae_export.parity.measure import Scale, Tolerance
from vae_export.parity.oracle import TURNS, Oracle, evaluate
from vae_export.parity.probes import Probe

#: One alone (a baked batch shows), two and three and seven (odd rests of vector registers), a round one, and one just
#: past the blocks that engines tile by.
BATCHES = (1, 2, 3, 7, 64, 257)
#: Those of a verification that is not thorough.
FEW_BATCHES = BATCHES[:-1]


@dataclass(frozen=True)
class Reference:
    """Attributes:
    probe, batch: which inputs.
    inputs: by name, float32.
    eager: PyTorch's float32 outputs by name.
    exact: its float64 outputs by name.
    scales: by output, over all batches of the probe.
    """

    probe: str
    batch: int
    inputs: Mapping[str, Array]
    eager: Mapping[str, Array]
    exact: Mapping[str, Array]
    scales: Mapping[str, Scale]


def references(
    graph: Graph,
    oracle: Oracle,
    probes: Sequence[Probe],
    tolerance: Tolerance | None,
    batches: Sequence[int],
) -> list[Reference]:
    """Every probe that this part can be given, at every batch size; `ModelError` where PyTorch itself overflows."""
    found: list[Reference] = []
    for probe in probes:
        inputs = probe.inputs(graph.spec, max(batches))
        if inputs is None:
            continue
        exact = oracle.exact(inputs)
        _refuse_not_finite(graph, probe.name, exact)
        moved = [oracle.perturbed(inputs, turn) for turn in range(TURNS)]
        # PyTorch takes other kernels, with other rounding, at other batch sizes: all of them count as its own.
        eager = {batch: evaluate(graph, _first(inputs, batch)) for batch in batches}
        for outputs in eager.values():
            _refuse_not_finite(graph, probe.name, outputs)
        scales = {
            name: Scale(
                eager_error=max(_distance(eager[batch][name], truth[:batch]) for batch in batches),
                sensitivity=max(_distance(outputs[name], truth) for outputs in moved),
                magnitude=float(np.abs(truth).max()),
                tolerance=tolerance,
            )
            for name, truth in exact.items()
        }
        found += [
            Reference(probe.name, batch, _first(inputs, batch), eager[batch], _first(exact, batch), scales)
            for batch in batches
        ]
    return found


def _refuse_not_finite(graph: Graph, probe: str, outputs: Mapping[str, Array]) -> None:
    """With Inf or NaN from PyTorch itself there is nothing to hold a file against."""
    for name, array in outputs.items():
        if not np.isfinite(array).all():
            where = f"{graph.spec.part}, '{name}', probe {probe}"
            raise ModelError("module gives numbers that are not finite", where=where)


def _first(arrays: Mapping[str, Array], batch: int) -> dict[str, Array]:
    return {name: array[:batch] for name, array in arrays.items()}


def _distance(one: Array, other: Array) -> float:
    return float(np.abs(one - other).max())
