"""The test cases of a part: inputs, PyTorch's outputs for them, and the errors that a file may have."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vae_export.capture import Graph
from vae_export.contract import Array, Contract, Part
from vae_export.errors import ModelError
from vae_export.parity.compare import beyond_range, max_distance, mean_distance, unstable_codes
from vae_export.parity.oracle import Oracle, PartFunction, Sensitivity, evaluate_graph
from vae_export.parity.plan import DRAWN_BATCHES, PERTURBATIONS, Sizes
from vae_export.parity.tolerance import ElementLimits, ErrorLimits, Tolerance
from vae_export.pixels import in_levels, to_pixels, unrounded
from vae_export.precision import FULL, PrecisionName

#: Rows of each probe whose sensitivity is measured in more than one direction.
_ROWS_OF_OTHER_DIRECTIONS = 64
#: Probes whose rows differ as those of an application do, and the fewest rows whose mean is judged element by element.
_ELEMENT_PROBES, _ELEMENT_ROWS = ("data", "prior", "posterior", "noise", "interpolation"), 64
#: The error limits of codes, whose error is the number of stable codes that differ: none may.
CODE_LIMITS = ErrorLimits(eager_error=0.0, sensitivity=0.0, magnitude=1.0)


@dataclass(frozen=True)
class Case:
    """One probe at one batch size: the inputs of a part, and the outputs expected of its files.

    Attributes:
        probe: name of the probe.
        batch: number of inputs, N.
        inputs: float32 arrays (N, *item) by name.
        eager: PyTorch's float32 outputs (N, *item) by name.
        expected: PyTorch's float64 outputs (N, *item) by name.
        limits: error limits of each output by name, the same for all batch sizes of the probe.
        unstable: masks (N, *item) of the codes that rounding changes, for each output that holds codes.
        sizes: values of the symbols of open sizes.
        elements: limits of the mean of each element of an output by name, where they are judged: in a lower precision,
            with many rows that differ.
    """

    probe: str
    batch: int
    inputs: Mapping[str, Array]
    eager: Mapping[str, Array]
    expected: Mapping[str, Array]
    limits: Mapping[str, ErrorLimits]
    unstable: Mapping[str, Array] = field(default_factory=dict)
    sizes: Sizes = ()
    elements: Mapping[str, ElementLimits] = field(default_factory=dict)


@dataclass(frozen=True)
class ProbeOutputs:
    """PyTorch's outputs of one part for one probe, in float32 and in float64.

    Attributes:
        probe: name of the probe.
        inputs: float32 arrays (M, *item) by name; a batch larger than M repeats them.
        expected: float64 outputs (M, *item) by name. Those of a smaller batch are the first rows, because rows do not
            depend on each other.
        eager: float32 outputs (N, *item) by name, for each batch size N, because PyTorch's kernels and their rounding
            depend on the batch size.
    """

    probe: str
    inputs: Mapping[str, Array]
    expected: Mapping[str, Array]
    eager: Mapping[int, Mapping[str, Array]]

    @classmethod
    def of(cls, oracle: Oracle, probe: str, inputs: Mapping[str, Array], batches: Sequence[int]) -> ProbeOutputs:
        """Evaluate a part for one probe.

        Args:
            oracle: the part in float64.
            probe: name of the probe.
            inputs: float32 arrays (M, *item) by name.
            batches: batch sizes.

        Returns:
            The outputs.

        Raises:
            ModelError: PyTorch itself overflows, or leaves the contract's range.
        """
        expected = oracle.expected(inputs)
        eager = {batch: evaluate_graph(oracle.graph, _batch(inputs, batch)) for batch in batches}
        for outputs in (expected, *eager.values()):
            _refuse_not_finite(oracle.graph, probe, outputs)
        for outputs in (expected, *eager.values()):
            _refuse_out_of_range(oracle.graph, probe, outputs)
        return cls(probe, inputs, expected, eager)

    @property
    def nbytes(self) -> int:
        """The size of all arrays in bytes."""
        named = (self.inputs, self.expected, *self.eager.values())
        return sum(array.nbytes for arrays in named for array in arrays.values())

    def computed_by(self, function: PartFunction) -> dict[int, dict[str, Array]]:
        """Return the outputs of another function of the part, for each batch size."""
        return {batch: function(_batch(self.inputs, batch)) for batch in self.eager}


def probe_cases(
    oracle: Oracle,
    probes: Sequence[ProbeOutputs],
    precision: PrecisionName = FULL,
    function: PartFunction | None = None,
    user_tolerance: Tolerance | None = None,
    *,
    perturbations: int = PERTURBATIONS,
    progress: Callable[[float], None] = lambda _share: None,
) -> list[Case]:
    """Return a test case for every probe and batch size, with the error limits of a file.

    Args:
        oracle: the part in float64.
        probes: PyTorch's outputs for each probe.
        precision: precision of the file.
        function: the part in PyTorch in that precision (see `in_precision`); None for float32.
        user_tolerance: tolerance that replaces the measured one.
        perturbations: number of evaluations that measure the sensitivity.
        progress: called with the share of the evaluations that are done, of which the exact one came before.

    Returns:
        The test cases.

    Raises:
        ModelError: PyTorch itself overflows in that precision.
    """
    baselines: list[Mapping[int, Mapping[str, Array]]] = []
    for outputs in probes:
        baseline = outputs.eager if function is None or precision == FULL else outputs.computed_by(function)
        for arrays in baseline.values():
            _refuse_not_finite(oracle.graph, outputs.probe, arrays, precision)
        baselines.append(baseline)
    cases = []
    sensitivities = _sensitivities(oracle, probes, precision, perturbations, progress)
    for outputs, baseline, sensitivity in zip(probes, baselines, sensitivities, strict=True):
        limits = {
            tensor.name: CODE_LIMITS
            if tensor.is_code
            else output_limits(
                outputs.expected[tensor.name],
                {batch: arrays[tensor.name] for batch, arrays in baseline.items()},
                sensitivity[tensor.name],
                precision,
                user_tolerance,
                value_range=tensor.high - tensor.low if tensor.is_bounded else math.inf,
            )
            for tensor in oracle.graph.spec.outputs
        }
        for batch, eager in outputs.eager.items():
            expected = _batch(outputs.expected, batch)
            unstable = {
                name: _rows(moved.changed, batch) | unstable_codes(expected[name], eager[name], baseline[batch][name])
                for name, moved in sensitivity.items()
                if moved.changed is not None
            }
            inputs = _batch(outputs.inputs, batch)
            case = Case(outputs.probe, batch, inputs, eager, expected, limits, unstable)
            if outputs.probe in _ELEMENT_PROBES and _ELEMENT_ROWS <= batch <= len(outputs.inputs[next(iter(inputs))]):
                found = {
                    tensor.name: ElementLimits.of(
                        baseline[batch][tensor.name], expected[tensor.name], limits[tensor.name]
                    )
                    for tensor in oracle.graph.spec.outputs
                    if not tensor.is_code
                }
                case = replace(case, elements={name: one for name, one in found.items() if one is not None})
            cases.append(case)
    return cases


def output_limits(
    expected: Array,
    baseline: Mapping[int, Array],
    sensitivity: Sensitivity,
    precision: PrecisionName,
    user_tolerance: Tolerance | None = None,
    *,
    value_range: float = math.inf,
) -> ErrorLimits:
    """Return the error limits of a file for one output.

    Args:
        expected: float64 output (M, *item).
        baseline: PyTorch's output in the precision of the file (N, *item), for each batch size N.
        sensitivity: movement of the output with the weights and inputs.
        precision: precision of the file.
        user_tolerance: tolerance that replaces the measured one.
        value_range: width of the contract's range.

    Returns:
        The limits.
    """
    worst, mean = sensitivity.per_roundoff(precision)
    return ErrorLimits(
        eager_error=max(max_distance(output, _rows(expected, batch)) for batch, output in baseline.items()),
        sensitivity=worst,
        magnitude=float(np.abs(expected).max()),
        user_tolerance=user_tolerance,
        precision=precision,
        eager_mean_error=max(mean_distance(output, _rows(expected, batch)) for batch, output in baseline.items()),
        mean_sensitivity=mean,
        value_range=value_range,
    )


def drawn_cases(cases: Sequence[Case], batches: Sequence[int]) -> list[Case]:
    """Return test cases at other batch sizes, of the rows of `noise`, or of the first probe where there is none.

    Rows do not depend on each other, so the outputs of a row are known and PyTorch computes nothing.

    Args:
        cases: the test cases of a part, with those at the usual sizes first.
        batches: the batch sizes.
    """
    usual = [case for case in cases if case.sizes == cases[0].sizes]
    known = [case for case in usual if case.probe == "noise"] or [
        case for case in usual if case.probe == usual[0].probe
    ]
    case = max(known, key=lambda case: case.batch)
    return [
        replace(
            case,
            probe=DRAWN_BATCHES,
            batch=batch,
            inputs=_batch(case.inputs, batch),
            eager=_batch(case.eager, batch),
            expected=_batch(case.expected, batch),
            unstable=_batch(case.unstable, batch),
            elements={},
        )
        for batch in batches
    ]


def rows_by_probe(cases: Sequence[Case]) -> list[Mapping[str, Array]]:
    """Return the different inputs (M, *item) of each probe by name, at the usual sizes."""
    usual = [case for case in cases if case.sizes == cases[0].sizes]
    largest = {case.probe: case for case in sorted(usual, key=lambda case: case.batch)}
    return [case.inputs for case in largest.values()]


def byte_case(case: Case, contract: Contract, part: Part) -> Case:
    """Return a decoder's test case converted for a decoder of bytes.

    Args:
        case: the test case of the decoder.
        contract: the contract, which has the image range.
        part: the decoder of bytes.

    Returns:
        The test case in grey levels, [0, 255]; only `expected` is not rounded.
    """
    limits = case.limits["image"].in_levels(in_levels(1.0, contract))
    eager = to_pixels(case.eager["image"], contract, part)
    expected = unrounded(case.expected["image"], contract, part)
    return replace(case, eager={"pixels": eager}, expected={"pixels": expected}, limits={"pixels": limits})


def _sensitivities(
    oracle: Oracle,
    probes: Sequence[ProbeOutputs],
    precision: PrecisionName,
    perturbations: int,
    progress: Callable[[float], None],
) -> list[dict[str, Sensitivity]]:
    """Return the sensitivity of each output of each probe to the weights and inputs.

    The outer loop is over perturbations and not over probes, because each perturbation has its own weights. All rows
    move in the first direction, there and back, which shows those that lie on a step; in the others the first
    `_ROWS_OF_OTHER_DIRECTIONS` move, and all rows of codes, each of which is right or wrong by itself.
    """
    tensors = oracle.graph.spec.outputs
    codes = any(tensor.is_code for tensor in tensors)
    sensitivities = [{tensor.name: Sensitivity(codes=tensor.is_code) for tensor in tensors} for _ in probes]
    for index in range(perturbations):
        progress((1 + index) / (1 + perturbations))
        for outputs, sensitivity in zip(probes, sensitivities, strict=True):
            rows = None if codes or index < 2 else _ROWS_OF_OTHER_DIRECTIONS
            inputs = {name: array[:rows] for name, array in outputs.inputs.items()}
            for name, moved in oracle.perturbed(inputs, index, precision).items():
                sensitivity[name].add(np.abs(moved - outputs.expected[name][:rows]), index, tuple(outputs.eager))
    return sensitivities


def _refuse_not_finite(graph: Graph, probe: str, outputs: Mapping[str, Array], precision: PrecisionName = FULL) -> None:
    """Raise `ModelError` if PyTorch itself returns Inf or NaN, because no file can be compared with them."""
    for name, array in outputs.items():
        if not np.isfinite(array).all():
            where = f"{graph.spec.part}, '{name}', probe {probe}"
            within = "" if precision == FULL else f" in {precision}"
            do = None if precision == FULL else "choose a --precision with a wider range"
            if precision == FULL and graph.spec.part != "decoder" and not graph.spec.inputs[0].is_bounded:
                do = "state what the data can be, such as --data-range -1,1"
            raise ModelError(f"module gives numbers that are not finite{within}", where=where, do=do)


def _refuse_out_of_range(graph: Graph, probe: str, outputs: Mapping[str, Array]) -> None:
    """Raise `ModelError` for outputs beyond the contract's range, because applications rely on the range."""
    for tensor in graph.spec.outputs:
        array = outputs[tensor.name]
        if tensor.is_bounded and (beyond := beyond_range(array, tensor)).max() > 0:
            raise ModelError(
                "module leaves the contract's range",
                where=f"{graph.spec.part}, '{tensor.name}', probe {probe}",
                expected=f"{tensor.low:g} to {tensor.high:g}",
                got=f"{array.flat[int(beyond.argmax())]:.6g}",
                do="end the decoder in a sigmoid, tanh or clamp, or state its output_range",
            )


def _batch(arrays: Mapping[str, Array], batch: int) -> dict[str, Array]:
    return {name: _rows(array, batch) for name, array in arrays.items()}


def _rows(array: Array, batch: int) -> Array:
    """Return the first rows, which are repeated where there are too few."""
    return array[:batch] if batch <= len(array) else np.resize(array, (batch, *array.shape[1:]))
