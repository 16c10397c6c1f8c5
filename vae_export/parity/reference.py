"""What PyTorch makes of one probe at one batch size, and how much rounding that leaves room for.

All that files are held against: probes, the truth, and what PyTorch makes of them in each precision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vae_export.capture import Graph
from vae_export.contract import PARTS, PIXELS, Array, Contract, Part
from vae_export.errors import ModelError
from vae_export.parity.compare import beyond_range, max_distance, mean_distance
from vae_export.parity.fake_quant import Evaluate, fake_quantize
from vae_export.parity.oracle import PERTURBATIONS, Oracle, Sensitivity, evaluate_graph
from vae_export.parity.probes import CalibrationInputs, Probe, calibration_inputs, make_probes, probes_in_range
from vae_export.parity.tolerance import TOLERANCE_FACTORS, ErrorLimits, Tolerance
from vae_export.pixels import in_levels, to_bytes, unrounded
from vae_export.precision import CALIBRATED, FULL, PrecisionName
from vae_export.sources import Source

#: One alone (a baked batch shows), two and three and seven (odd rests of vector registers), a round one, and one just
#: past the blocks that engines tile by.
BATCHES = (1, 2, 3, 7, 64, 257)
#: Those of a verification that is not thorough.
QUICK_BATCHES = BATCHES[:-1]


@dataclass(frozen=True)
class Case:
    """Attributes:
    probe, batch: which inputs.
    inputs: by name, float32.
    eager: PyTorch's float32 outputs by name.
    expected: its float64 outputs by name.
    limits: by output, over all batches of the probe.
    """

    probe: str
    batch: int
    inputs: Mapping[str, Array]
    eager: Mapping[str, Array]
    expected: Mapping[str, Array]
    limits: Mapping[str, ErrorLimits]


def byte_case(case: Case, contract: Contract, part: Part) -> Case:
    """The decoder's case as one of a part that gives bytes: everything in grey levels, and only the truth unrounded."""
    scale = case.limits["image"].in_levels(in_levels(1.0, contract))
    eager = to_bytes(case.eager["image"], contract, part)
    exact = unrounded(case.expected["image"], contract, part)
    return replace(case, eager={"pixels": eager}, expected={"pixels": exact}, limits={"pixels": scale})


def reference_cases(
    graph: Graph,
    oracle: Oracle,
    probes: Sequence[Probe],
    tolerance: Tolerance | None,
    batches: Sequence[int],
    precision: PrecisionName = FULL,
    own: Evaluate | None = None,
) -> list[Case]:
    """Every probe that this part can be given, at every batch size.

    Args:
        precision: of the file that is to be measured.
        own: PyTorch in that precision (see `fake_quantize`), where it is not float32.

    Raises `ModelError` where PyTorch itself overflows, or leaves the contract's range.
    """
    cases = {probe.name: inputs for probe in probes if (inputs := probe.inputs(graph.spec, max(batches))) is not None}
    exact = {name: oracle.expected(inputs) for name, inputs in cases.items()}
    # PyTorch takes other kernels, with other rounding, at other batch sizes: all of them count as its own.
    eager = {
        name: {batch: evaluate_graph(graph, _first(inputs, batch)) for batch in batches}
        for name, inputs in cases.items()
    }
    lossy = eager  # what PyTorch loses in the file's own precision
    if own is not None and precision != FULL:
        lossy = {name: {batch: own(_first(inputs, batch)) for batch in batches} for name, inputs in cases.items()}
    for name in cases:
        for outputs in (exact[name], *eager[name].values()):
            _refuse_not_finite(graph, name, outputs)
        for outputs in lossy[name].values():
            _refuse_not_finite(graph, name, outputs, precision)
        for outputs in (exact[name], *eager[name].values()):
            _refuse_out_of_range(graph, name, outputs)
    moves = _moves(oracle, cases, exact, precision, batches)
    spans = {tensor.name: tensor.high - tensor.low if tensor.is_bounded else math.inf for tensor in graph.spec.outputs}
    scales = {
        name: {
            output: ErrorLimits(
                eager_error=max(max_distance(lossy[name][batch][output], truth[:batch]) for batch in batches),
                sensitivity=moves[name][output].worst / TOLERANCE_FACTORS[precision],
                magnitude=float(np.abs(truth).max()),
                user_tolerance=tolerance,
                precision=precision,
                eager_mean_error=max(mean_distance(lossy[name][batch][output], truth[:batch]) for batch in batches),
                mean_sensitivity=moves[name][output].mean / TOLERANCE_FACTORS[precision],
                value_range=spans[output],
            )
            for output, truth in outputs.items()
        }
        for name, outputs in exact.items()
    }
    return [
        Case(name, batch, _first(inputs, batch), eager[name][batch], _first(exact[name], batch), scales[name])
        for name, inputs in cases.items()
        for batch in batches
    ]


def _moves(
    oracle: Oracle,
    cases: Mapping[str, Mapping[str, Array]],
    exact: Mapping[str, Mapping[str, Array]],
    precision: PrecisionName,
    batches: Sequence[int],
) -> dict[str, dict[str, Sensitivity]]:
    """How far each output of each probe moves with the weights and inputs.

    Turn by turn and not probe by probe: each turn has weights of its own.
    """
    moves = {name: {output: Sensitivity() for output in outputs} for name, outputs in exact.items()}
    for turn in range(PERTURBATIONS):
        for name, inputs in cases.items():
            for output, moved in oracle.perturbed(inputs, turn, precision).items():
                moves[name][output].add(np.abs(moved - exact[name][output]), turn, batches)
    return moves


def _refuse_not_finite(graph: Graph, probe: str, outputs: Mapping[str, Array], precision: PrecisionName = FULL) -> None:
    """With Inf or NaN from PyTorch itself there is nothing to hold a file against."""
    for name, array in outputs.items():
        if not np.isfinite(array).all():
            where = f"{graph.spec.part}, '{name}', probe {probe}"
            within = "" if precision == FULL else f" in {precision}"
            do = None if precision == FULL else "choose a --precision with a wider range"
            raise ModelError(f"module gives numbers that are not finite{within}", where=where, do=do)


def _refuse_out_of_range(graph: Graph, probe: str, outputs: Mapping[str, Array]) -> None:
    """Applications believe the contract's range: a module that does not keep it cannot have it."""
    for tensor in graph.spec.outputs:
        array = outputs[tensor.name]
        if tensor.is_bounded and (beyond := beyond_range(array, tensor)).max() > 0:
            raise ModelError(
                "module leaves the contract's range",
                where=f"{graph.spec.part}, '{tensor.name}', probe {probe}",
                expected=f"{tensor.low:g} to {tensor.high:g}",
                got=f"{array.flat[int(beyond.argmax())]:.6g}",
                do="end the decoder in a sigmoid, tanh or clamp, or state its image_range",
            )


def _first(arrays: Mapping[str, Array], batch: int) -> dict[str, Array]:
    return {name: array[:batch] for name, array in arrays.items()}


class References:
    """What is asked of the parts of a source, and what PyTorch answers.

    Everything is computed once, whatever the number of formats and targets, and no earlier than it is asked for.

    Attributes:
        source, graphs: what was exported.
        calibrated: inputs of each part that files were calibrated with; None makes them once a file needs them.
        tolerance: the user's band in place of the measured one.
        batches: the sizes that every probe is run at.
        oracles: float64, by part; that of the decoder stands for its pixels too.
    """

    def __init__(
        self,
        source: Source,
        graphs: Mapping[Part, Graph],
        tolerance: Tolerance | None,
        calibrated: CalibrationInputs | None,
        *,
        thorough: bool,
    ) -> None:
        self.source, self.graphs, self.tolerance, self.calibrated = source, graphs, tolerance, calibrated
        self.batches = BATCHES if thorough else QUICK_BATCHES
        self.oracles = {part: Oracle(graph) for part, graph in graphs.items() if part in PARTS}
        self._probes = make_probes(source, graphs, max(self.batches))
        self._references: dict[tuple[Part, PrecisionName], list[Case]] = {}
        self._own: dict[tuple[Part, PrecisionName], Evaluate] = {}

    def cases(self, part: Part, precision: PrecisionName) -> list[Case]:
        """Every probe at every batch size, for the files of a part in a precision."""
        if part in PIXELS.values():
            contract = self.source.contract
            return [byte_case(case, contract, part) for case in self.cases("decoder", precision)]
        if (part, precision) not in self._references:
            self._references[part, precision] = reference_cases(
                self.graphs[part],
                self.oracles[part],
                probes_in_range(self._probes, precision),
                self.tolerance,
                self.batches,
                precision,
                self.pytorch(part, precision),
            )
        return self._references[part, precision]

    def pytorch(self, part: Part, precision: PrecisionName) -> Evaluate:
        """A part in PyTorch, with the numbers of a precision."""
        if (part, precision) not in self._own:
            if precision in CALIBRATED and self.calibrated is None:
                self.calibrated = calibration_inputs(self.source, self.graphs)
            inputs = None if self.calibrated is None else self.calibrated[part]
            self._own[part, precision] = fake_quantize(self.graphs[part], precision, inputs)
        return self._own[part, precision]

    def images(self, probe: str) -> Array | None:
        """The images of a probe (M, C, H, W); None where it has none."""
        return next(known.image for known in self._probes if known.name == probe)
