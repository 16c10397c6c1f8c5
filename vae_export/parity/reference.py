"""Compute the graphs, probes, PyTorch outputs and test cases of a source, for whatever compares files with it.

`References` computes each of these lazily and once for all files, formats and targets. `export` passes
the same object to the golden vectors and to the verification.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial

from vae_export.artifact.certificate import TYPICAL_PROBES
from vae_export.artifact.golden import GoldenPart
from vae_export.capture import Captured
from vae_export.contract import PIXELS, Array, Contract, Part
from vae_export.models.checkpoint import Checkpoint
from vae_export.parity.cases import Case, ProbeOutputs, byte_case, probe_cases
from vae_export.parity.coverage import Coverage
from vae_export.parity.fake_quant import in_precision
from vae_export.parity.oracle import Oracle, PartFunction
from vae_export.parity.plan import BATCHES as BATCHES
from vae_export.parity.plan import PROBES_BY_VALUE, PartPlan, Sizes, Sweep, complete_plan
from vae_export.parity.probes import (
    CALIBRATION_ROWS,
    PROBES,
    CalibrationInputs,
    Probe,
    calibration_inputs,
    check_calibration_images,
    make_probes,
    probes_out_of_range,
)
from vae_export.parity.reproduction import FileWriter
from vae_export.parity.tolerance import Tolerance
from vae_export.precision import CALIBRATED, FULL, PrecisionName
from vae_export.sources import Source
from vae_export.system.threads import one_thread

#: The plan of a verification that is not thorough, for networks of any size.
QUICK_PLAN = complete_plan(thorough=False)
#: Outputs of parts that take fewer bytes are kept for the next file of the same part in a later verification, and
#: weights in float64 for the next evaluation.
_KEPT_BYTES = 64 << 20


class References:
    """The outputs that PyTorch computes for the parts of a source.

    Attributes:
        captured: the source with its graphs.
    """

    def __init__(self, source: Source | Checkpoint | Captured) -> None:
        self.captured = Captured.of(source)
        self._oracles: dict[Part, Oracle] = {}
        self._functions: dict[tuple[Part, PrecisionName], PartFunction] = {}
        self._probes: dict[tuple[int, tuple[str, ...], Sizes], tuple[Probe, ...]] = {}
        self._outputs: dict[tuple[Part, tuple[int, ...], Sweep, str], ProbeOutputs] = {}
        #: Golden vectors by parts and precisions, which `vae_export.parity.golden` keeps here for the verification.
        self.golden: dict[
            tuple[tuple[Part, ...], frozenset[PrecisionName]], tuple[tuple[GoldenPart, ...], dict[str, bytes]]
        ] = {}
        #: What test cases reach, by part, sweeps, what is left out and probes, kept here for the files of a part.
        self.covered: dict[tuple[Part, tuple[Sweep, ...], tuple[str, ...], tuple[str, ...]], Coverage] = {}
        self._cases: dict[tuple[Part, PrecisionName, Sweep, Tolerance | None], list[Case]] = {}

    @classmethod
    def of(cls, source: Source | Checkpoint | Captured | References) -> References:
        """Wrap a source, a checkpoint or captured graphs; return existing references unchanged."""
        return source if isinstance(source, References) else cls(source)

    def keeping(self, contract: Contract) -> References:
        """Return references of the same source with a contract that capturing has narrowed; itself if it has it."""
        captured = Captured.of(self.captured, contract)
        return self if captured is self.captured else References(captured)

    @property
    def source(self) -> Source:
        """The source of the captured graphs, with the contract that they keep."""
        return self.captured.source

    @cached_property
    def calibration(self) -> CalibrationInputs:
        """The inputs of each part from which files of a calibrated precision take their ranges.

        PyTorch computes them with one thread, so that the files do not depend on the number of cores.

        Raises:
            ModelError: there are too few images to calibrate with, or inputs are not finite.
        """
        check_calibration_images(self.source)
        graphs = self.captured.graphs()
        with one_thread():
            probes = make_probes(self.source, graphs, CALIBRATION_ROWS, names=TYPICAL_PROBES)
        return calibration_inputs(graphs, probes)

    @cached_property
    def writer(self) -> FileWriter:
        """Writes the files of the source; `export` and `verify` share it, so that a file is written once."""
        return FileWriter(self.captured, lambda: self.calibration)

    def oracle(self, part: Part) -> Oracle:
        """Return the float64 evaluation of a part. Of those that are large, only the last used has its weights."""
        if part not in self._oracles:
            self.release_weights()
            self._oracles[part] = oracle = Oracle(self.captured.graph(part))
            oracle.before_use = partial(self.release_weights, but=oracle)
        return self._oracles[part]

    def release_weights(self, *, but: Oracle | None = None) -> None:
        """Drop large weights in float64, which are made again when they are used. Engines then hold their own.

        Args:
            but: the evaluation that keeps them.
        """
        for oracle in self._oracles.values():
            if oracle is not but and oracle.nbytes > _KEPT_BYTES:
                oracle.release()

    def function(self, part: Part, precision: PrecisionName) -> PartFunction:
        """Return a function that computes a part in PyTorch with the numbers of a precision."""
        if (part, precision) not in self._functions:
            inputs = self.calibration[part] if precision in CALIBRATED else None
            self._functions[part, precision] = in_precision(self.captured.graph(part), precision, inputs)
        return self._functions[part, precision]

    def probes(self, count: int, names: tuple[str, ...] = PROBES, sizes: Sizes = ()) -> tuple[Probe, ...]:
        """Return probes with `count` inputs.

        Args:
            count: number of inputs of each probe.
            names: names of the probes.
            sizes: values of the symbols of open sizes; the others take their usual values.
        """
        # A verification of several precisions asks for subsets of the same probes.
        every, some = (count, PROBES, sizes), (count, names, sizes)
        if every not in self._probes and some not in self._probes:
            contract = self.source.contract.at(dict(sizes))
            graphs = self.captured.graphs()
            self._probes[some] = make_probes(self.source, graphs, count, contract=contract, names=names)
        made = self._probes.get(every) or self._probes[some]
        return tuple(probe for probe in made if probe.name in names)

    def images(self, count: int) -> Array:
        """Return the data of the probe `data`, float32 (count, *item)."""
        return self.examples(count)[self.source.contract.data.name]

    def examples(self, count: int) -> dict[str, Array]:
        """Return the data of the probe `data` and its conditions, (count, *item) by tensor name."""
        [probe] = make_probes(self.source, {}, count, names=["data"])
        tensors = self.source.contract.spec("autoencoder").inputs
        return {tensor.name: probe.arrays[tensor.name] for tensor in tensors if tensor.role in ("data", "condition")}

    def cases(
        self,
        part: Part,
        precision: PrecisionName = FULL,
        plan: PartPlan = QUICK_PLAN,
        user_tolerance: Tolerance | None = None,
        progress: Callable[[float], None] = lambda _share: None,
    ) -> list[Case]:
        """Return the test cases of a plan, for the files of a part in a precision.

        Args:
            part: a part of the source, or a decoder of bytes.
            precision: precision of the files.
            plan: the probes, batch sizes and sizes.
            user_tolerance: tolerance that replaces the measured one.
            progress: called with the share of the work that is done.

        Returns:
            The test cases.

        Raises:
            ModelError: PyTorch itself overflows, or leaves the contract's range.
        """
        if part in PIXELS.values():
            cases = self.cases("decoder", precision, plan, user_tolerance, progress)
            return [byte_case(case, self.source.contract, part) for case in cases]
        self.oracle(part).piece = plan.piece
        cases = []
        for index, sweep in enumerate(plan.sweeps):

            def of_sweep(share: float, before: int = index) -> None:
                progress((before + share) / len(plan.sweeps))

            cases += self._sweep_cases(part, precision, sweep, user_tolerance, of_sweep)
        return cases

    def _sweep_cases(
        self,
        part: Part,
        precision: PrecisionName,
        sweep: Sweep,
        user_tolerance: Tolerance | None,
        progress: Callable[[float], None],
    ) -> list[Case]:
        key = part, precision, sweep, user_tolerance
        if key not in self._cases:
            inputs = self._sweep_inputs(part, precision, sweep)
            outputs = []
            for index, probe in enumerate(inputs):
                progress(index / len(inputs) / (1 + sweep.perturbations))
                batches = sweep.batches_of(probe, first=index == 0)
                outputs.append(self._probe_outputs(part, probe, inputs[probe], batches, sweep))
            cases = probe_cases(
                self.oracle(part),
                outputs,
                precision,
                self.function(part, precision),
                user_tolerance,
                perturbations=sweep.perturbations,
                progress=progress,
            )
            self._cases[key] = [replace(case, sizes=sweep.sizes) for case in cases]
        return self._cases[key]

    def _sweep_inputs(self, part: Part, precision: PrecisionName, sweep: Sweep) -> dict[str, Mapping[str, Array]]:
        """Return the inputs of each probe of a sweep that a part can have, by the probe's name."""
        withheld = probes_out_of_range(precision)
        if sweep.is_complete:
            return self._inputs(part, [name for name in PROBES if name not in withheld], sweep)
        candidates = [name for name in PROBES_BY_VALUE if name not in withheld]
        found: dict[str, Mapping[str, Array]] = {}
        while candidates and len(found) < sweep.probes:
            missing = sweep.probes - len(found)
            found |= self._inputs(part, candidates[:missing], sweep)
            candidates = candidates[missing:]
        return found

    def _inputs(self, part: Part, names: Sequence[str], sweep: Sweep) -> dict[str, Mapping[str, Array]]:
        """Return the inputs of these probes, without those that a part cannot have."""
        spec = self.captured.graph(part).spec
        inputs = {
            probe.name: probe.inputs(spec, sweep.rows_of(probe.name))
            for probe in self.probes(sweep.rows, tuple(names), sweep.sizes)
        }
        return {name: arrays for name, arrays in inputs.items() if arrays is not None}

    def _probe_outputs(
        self, part: Part, probe: str, inputs: Mapping[str, Array], batches: tuple[int, ...], sweep: Sweep
    ) -> ProbeOutputs:
        """Return PyTorch's outputs for one probe, for all precisions."""
        key = part, batches, sweep, probe
        if key not in self._outputs:
            self._outputs[key] = ProbeOutputs.of(self.oracle(part), probe, inputs, batches)
        return self._outputs[key]

    def release(self, part: Part) -> None:
        """Drop the outputs of a part whose files are verified, unless they are small."""
        outputs = [outputs for (of_part, *_), outputs in self._outputs.items() if of_part == part]
        if sum(one.nbytes for one in outputs) > _KEPT_BYTES:
            self._outputs = {key: value for key, value in self._outputs.items() if key[0] != part}
            self._cases = {key: value for key, value in self._cases.items() if key[0] != part}
