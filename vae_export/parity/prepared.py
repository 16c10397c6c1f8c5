"""All that files are held against: probes, the truth, and what PyTorch makes of them in each precision."""

from __future__ import annotations

from collections.abc import Mapping

from vae_export.contract import PARTS, PIXELS, Array, Part
from vae_export.graphs import Graph, Source
from vae_export.parity.lowered import Evaluate, lowered
from vae_export.parity.measure import Tolerance
from vae_export.parity.oracle import Oracle
from vae_export.parity.probes import Calibrated, calibration, make_probes, within
from vae_export.parity.reference import BATCHES, FEW_BATCHES, Reference, of_pixels, references
from vae_export.precision import CALIBRATED, PrecisionName


class Prepared:
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
        calibrated: Calibrated | None,
        *,
        thorough: bool,
    ) -> None:
        self.source, self.graphs, self.tolerance, self.calibrated = source, graphs, tolerance, calibrated
        self.batches = BATCHES if thorough else FEW_BATCHES
        self.oracles = {part: Oracle(graph) for part, graph in graphs.items() if part in PARTS}
        self._probes = make_probes(source, graphs, max(self.batches))
        self._references: dict[tuple[Part, PrecisionName], list[Reference]] = {}
        self._own: dict[tuple[Part, PrecisionName], Evaluate] = {}

    def cases(self, part: Part, precision: PrecisionName) -> list[Reference]:
        """Every probe at every batch size, for the files of a part in a precision."""
        if part in PIXELS.values():
            contract = self.source.contract
            return [of_pixels(case, contract, part) for case in self.cases("decoder", precision)]
        if (part, precision) not in self._references:
            self._references[part, precision] = references(
                self.graphs[part],
                self.oracles[part],
                within(self._probes, precision),
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
                self.calibrated = calibration(self.source, self.graphs)
            inputs = None if self.calibrated is None else self.calibrated[part]
            self._own[part, precision] = lowered(self.graphs[part], precision, inputs)
        return self._own[part, precision]

    def images(self, probe: str) -> Array | None:
        """The images of a probe (M, C, H, W); None where it has none."""
        return next(known.image for known in self._probes if known.name == probe)
