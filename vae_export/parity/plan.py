"""Choose the test cases of a verification, so that its time and memory follow the cost of the network.

A small network gets every test case. For a network that takes longer than the budget allows, the plan is the first step
of a ladder that fits: fewer rows, then fewer probes. Batches stay, because a large batch can repeat a few rows; the
reference of a repeated row is known. A certificate states the plan and what it leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from vae_export.contract import Part
from vae_export.errors import UsageError
from vae_export.runtime.model import MAX_PIECE_ROWS
from vae_export.tensors import BATCH, Symbol

#: Batch sizes that every probe is run at: 1 (reveals a fixed batch size), 2, 3 and 7 (remainders of vector registers),
#: 64, and 257 (one more than the blocks that engines tile by).
BATCHES = (1, 2, 3, 7, 64, 257)
#: The batch sizes of a verification that is not thorough.
QUICK_BATCHES = BATCHES[:-1]
#: Number of evaluations with perturbed weights and inputs: four random directions, each forwards and back.
PERTURBATIONS = 8
#: The fewest: one direction, forwards and back.
FEWEST_PERTURBATIONS = 2
#: The probes, the most telling first. A part has those that its inputs can be made for.
PROBES_BY_VALUE = (
    "data",
    "six-sigma",
    "noise",
    "prior",
    "zeros",
    "posterior",
    "one-hot",
    "interpolation",
    "largest",
    "smallest",
    "extreme",
)
#: Probes with at most so many rows: all of their rows are alike, so that more of them show little more.
FEW_ROWS_PROBES, FEW_ROWS = ("noise", "extreme"), 64
#: The probe of test cases at batch sizes that are drawn for a file.
DRAWN_BATCHES = "batches"
#: Minutes for each part and format, unless another budget is given.
DEFAULT_MINUTES = 1.0
#: Bytes of activations that float64 takes at a time, that a batch takes at most, and of outputs that are kept for a
#: part. One row may take more.
PIECE_BYTES, BATCH_BYTES, STORED_BYTES = 64 << 20, 256 << 20, 512 << 20
#: Bytes of activations that a single row may take in float64; open sizes are chosen to stay below.
ROW_BYTES = 1 << 30
#: The share of a part's time that a complete plan may take: beyond that, more rows of the same probes are too costly
#: for the little that they can still find.
_COMPLETE_SHARE = 0.25
#: The number of settings of a verification that is not thorough: the lowest and the highest optimisation level.
_FEWEST_SETTINGS = 2
#: The share of a part's time that the test cases at each size but the usual one may take, and that nats may take.
_OTHER_SIZE_SHARE, _NATS_SHARE = 0.2, 0.25
#: The bounds of a batch axis without bounds.
_ANY_BATCH = Symbol()
#: Rows and probes of a sweep that is not complete, from the longest to the shortest. Inputs for `extreme` are searched
#: with gradients, for which large networks need too much memory.
_LADDER = ((7, 10), (3, 10), (2, 10), (2, 4), (2, 2), (2, 1))
#: Bounds of the drawn batch sizes, and how many of each are drawn for a complete plan and for a quick one.
_DRAWN = (((4, 16), 4, 2), ((17, 63), 4, 1), ((65, 256), 4, 1), ((258, MAX_PIECE_ROWS - 1), 3, 0))
#: The share of a part's time that batches of a drawn size may take.
_DRAWN_SHARE = 0.02


#: Values of the symbols of open sizes.
Sizes: TypeAlias = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class RowCost:
    """The cost of one row of a part, from a pilot run.

    Attributes:
        float32, float64: seconds of PyTorch.
        file: seconds of an exported file.
        bytes_float32, bytes_float64: bytes of activations that are alive at once.
        stored_bytes: bytes of the inputs and outputs in float32.
    """

    float32: float
    float64: float
    file: float
    bytes_float32: int
    bytes_float64: int
    stored_bytes: int

    def scaled(self, factor: float) -> RowCost:
        """Return the cost of rows of another size, with `factor` times as many values."""
        return RowCost(
            self.float32 * factor,
            self.float64 * factor,
            self.file * factor,
            math.ceil(self.bytes_float32 * factor),
            math.ceil(self.bytes_float64 * factor),
            math.ceil(self.stored_bytes * factor),
        )


@dataclass(frozen=True)
class Limits:
    """The time and memory that the verification of one part may take.

    Attributes:
        seconds: seconds for each part and format.
        batch_bytes: bytes of activations of one batch in float32.
        stored_bytes: bytes of the inputs and outputs that are kept for the comparison.
        row_bytes: bytes of activations of one row in float64.
    """

    seconds: float = math.inf
    batch_bytes: float = math.inf
    stored_bytes: float = math.inf
    row_bytes: float = math.inf

    @classmethod
    def of(cls, minutes: float | None, available_memory: int) -> Limits:
        """Return the limits.

        Args:
            minutes: minutes for each part and format; None for no limit of time and memory.
            available_memory: bytes of memory that other programs leave free.

        Raises:
            UsageError: the minutes are not a number above 0.
        """
        if minutes is None:
            return cls()
        if not 0 < minutes < math.inf:
            raise UsageError("bad verify-minutes", expected="a number above 0", got=minutes)
        share = available_memory / 8
        return cls(minutes * 60, min(share, BATCH_BYTES), min(share, STORED_BYTES), min(2 * share, ROW_BYTES))


@dataclass(frozen=True)
class Sweep:
    """The test cases at one size of the inputs.

    Attributes:
        probes: number of probes, in the order of `PROBES_BY_VALUE`.
        rows: number of different rows of each probe; a larger batch repeats them.
        batches: batch sizes of every probe.
        large_batches: further batch sizes of the first probe.
        perturbations: number of evaluations that measure the sensitivity.
        sizes: values of the symbols of open sizes.
    """

    probes: int
    rows: int
    batches: tuple[int, ...]
    large_batches: tuple[int, ...] = ()
    perturbations: int = PERTURBATIONS
    sizes: Sizes = ()

    @property
    def runs(self) -> int:
        """The number of rows that a file or PyTorch's float32 computes in all test cases."""
        probes = PROBES_BY_VALUE[: self.probes]
        return sum(sum(self.batches_of(probe, first=False)) for probe in probes) + sum(self.large_batches)

    @property
    def is_complete(self) -> bool:
        """Whether every probe has as many rows as the largest batch."""
        return self.probes >= len(PROBES_BY_VALUE) and not self.large_batches

    def batches_of(self, probe: str = "", *, first: bool) -> tuple[int, ...]:
        """Return the batch sizes of a probe, or of any that has many rows; `first` says whether it is the first one."""
        batches = (*self.batches, *self.large_batches) if first else self.batches
        if probe not in FEW_ROWS_PROBES:
            return batches
        return tuple(batch for batch in batches if batch <= FEW_ROWS) or batches[:1]

    def rows_of(self, probe: str) -> int:
        """Return the number of different rows of a probe."""
        return min(self.rows, max(self.batches_of(probe, first=False))) if probe in FEW_ROWS_PROBES else self.rows

    def reference_seconds(self, cost: RowCost) -> float:
        """Return the seconds that PyTorch takes, in float32 and in float64."""
        rows = sum(self.rows_of(probe) for probe in PROBES_BY_VALUE[: self.probes])
        exact = rows * (1 + self.perturbations)
        return exact * cost.float64 + self.runs * cost.float32

    def stored_bytes(self, cost: RowCost) -> int:
        """Return the bytes of the inputs and outputs that are kept for the comparison."""
        return cost.stored_bytes * (3 * self.probes * self.rows + 2 * self.runs)

    def to_json(self) -> dict[str, Any]:
        return {
            "sizes": dict(self.sizes),
            "probes": self.probes,
            "rows": self.rows,
            "batches": list(self.batches),
            "batches_of_one_probe": list(self.large_batches),
            "perturbations": self.perturbations,
        }


@dataclass(frozen=True)
class PartPlan:
    """The test cases of one part.

    Attributes:
        sweeps: the test cases at each size, the usual size first.
        every_setting: whether files run with every optimisation level and thread count; otherwise with the lowest and
            the highest level on one thread.
        piece: number of rows that float64 evaluates at a time; None for all.
        largest_batch: the largest batch size that may be drawn for a file; 0 draws none.
        reference_seconds, file_seconds: estimates for PyTorch, and for one file on one target.
        left_out: what the complete plan has and this one has not.
        reason: why it was left out.
    """

    sweeps: tuple[Sweep, ...]
    every_setting: bool = False
    piece: int | None = None
    largest_batch: int = 0
    reference_seconds: float = 0.0
    file_seconds: float = 0.0
    left_out: tuple[str, ...] = ()
    reason: str = ""

    @property
    def is_complete(self) -> bool:
        return not self.left_out

    @property
    def seconds(self) -> float:
        """The estimated time of one file on one target, with its references."""
        return self.reference_seconds + self.file_seconds

    def line(self) -> str:
        """Return the plan as one line of text."""
        usual = self.sweeps[0]
        sizes = "" if len(self.sweeps) == 1 else f" at {len(self.sweeps)} sizes"
        batches = ", ".join(map(str, usual.batches_of(first=True)))
        said = f"{usual.probes} probes of {usual.rows} rows{sizes}, batches {batches}, {_duration(self.seconds)}"
        return said if self.is_complete else f"{said}; left out: {'; '.join(self.left_out)}, because {self.reason}"

    def to_json(self) -> dict[str, Any]:
        return {
            "sweeps": [sweep.to_json() for sweep in self.sweeps],
            "every_setting": self.every_setting,
            "left_out": list(self.left_out),
            "reason": self.reason or None,
        }


@dataclass(frozen=True)
class NatsPlan:
    """The size of the comparison in nats.

    Attributes:
        images: number of images; 0 compares no nats.
        noise_samples: noise samples for each image.
        perturbations: number of evaluations that measure the sensitivity.
    """

    images: int = 64
    noise_samples: int = 8
    perturbations: int = PERTURBATIONS

    def seconds(self, encoder: RowCost, decoder: RowCost) -> float:
        """Return the seconds for one target, with its references."""
        exact = self.images * (encoder.float64 + self.noise_samples * decoder.float64)
        single = self.images * (encoder.float32 + self.noise_samples * decoder.float32)
        return (1 + self.perturbations) * exact + 2 * single

    def line(self) -> str:
        """Return the plan as one line of text."""
        if not self.images:
            return "not compared, because it would take too long"
        return f"{self.images} images with {self.noise_samples} noise samples each"

    def to_json(self) -> dict[str, Any]:
        return {"images": self.images, "noise_samples": self.noise_samples, "perturbations": self.perturbations}


#: From every image and noise sample to none.
_NATS_LADDER = (NatsPlan(), NatsPlan(16, 4, FEWEST_PERTURBATIONS), NatsPlan(4, 2, FEWEST_PERTURBATIONS), NatsPlan(0))


@dataclass(frozen=True)
class Plan:
    """The test cases of a verification.

    Attributes:
        parts: the plan of each part.
        nats: the size of the comparison in nats.
        minutes: the minutes for each part and format; None for no limit.
    """

    parts: Mapping[Part, PartPlan]
    nats: NatsPlan = NatsPlan()
    minutes: float | None = None

    @property
    def is_complete(self) -> bool:
        """Whether nothing was left out for want of time or memory."""
        return self.nats == NatsPlan() and all(plan.is_complete for plan in self.parts.values())

    def lines(self) -> Iterator[str]:
        """Yield a line for each part of which something is left out."""
        for part, plan in self.parts.items():
            if not plan.is_complete:
                yield f"plan for the {part}: {plan.line()}"
        if self.nats != NatsPlan():
            yield f"plan for nats: {self.nats.line()}"

    def to_json(self) -> dict[str, Any]:
        """Return the object `plan` of certificate.json (docs/parity.md)."""
        return {
            "minutes": self.minutes,
            "parts": {part: plan.to_json() for part, plan in self.parts.items()},
            "nats": self.nats.to_json(),
        }


def fitting_batches(batches: Sequence[int], bounds: Symbol) -> tuple[int, ...]:
    """Return the batch sizes within the bounds of the batch axis, with a highest bound that is not above them all."""
    high = math.inf if bounds.high is None else bounds.high
    fitting = {batch for batch in batches if bounds.low <= batch <= high}
    if high <= max(batches):
        fitting.add(int(high))
    return tuple(sorted(fitting or {bounds.low}))


def sizes_to_run(symbols: Mapping[str, Symbol]) -> tuple[Sizes, ...]:
    """Return the sizes that a part is run at: the usual ones, the smallest, and odd ones that differ from each other.

    Args:
        symbols: bounds of the symbols of open sizes.

    Returns:
        The values of all symbols for each size, each size once; a single empty one without symbols.
    """
    usual = {name: symbol.usual_value for name, symbol in symbols.items()}
    smallest = {name: symbol.low for name, symbol in symbols.items()}
    odd = {name: (symbol.low | 1) + 2 * (1 + index) for index, (name, symbol) in enumerate(symbols.items())}
    odd = {name: min(value, symbols[name].high or value) for name, value in odd.items()}
    return tuple(dict.fromkeys(tuple(values.items()) for values in (usual, smallest, odd)))


def halved(sizes: Sizes, symbols: Mapping[str, Symbol]) -> Sizes:
    """Return half of each size, within the bounds."""
    return tuple((name, max(symbols[name].low, value // 2)) for name, value in sizes)


def drawn_batches(plan: PartPlan, symbols: Mapping[str, Symbol], seed: str) -> tuple[int, ...]:
    """Return batch sizes drawn for a file, so that nobody knows at which sizes a file will be run when they change it.

    Args:
        plan: the test cases of the part, whose own batch sizes are left out.
        symbols: bounds of the symbols of the part.
        seed: the hash of the file.

    Returns:
        The sizes in rising order, with the largest that the runtime uses where the plan and the contract allow it.
    """
    bounds, usual = symbols.get(BATCH, _ANY_BATCH), plan.sweeps[0]
    most = min(plan.largest_batch, bounds.high or plan.largest_batch)
    rng, drawn = np.random.default_rng(list(seed.encode())), {most} if most >= MAX_PIECE_ROWS else set()
    for (low, high), many, few in _DRAWN:
        sizes = np.arange(max(low, bounds.low), min(high, most) + 1)
        count = many if plan.every_setting and usual.is_complete else few
        drawn |= set(rng.permutation(sizes)[:count].tolist())
    return tuple(sorted(drawn - set(usual.batches_of(first=True))))


def complete_plan(*, thorough: bool, bounds: Symbol = _ANY_BATCH, sizes: Sequence[Sizes] = ((),)) -> PartPlan:
    """Return the plan that leaves nothing out.

    Args:
        thorough: whether every batch size and setting runs.
        bounds: bounds of the batch axis.
        sizes: values of the symbols of open sizes, the usual ones first; the others have fewer rows.
    """
    batches = fitting_batches(BATCHES if thorough else QUICK_BATCHES, bounds)
    usual = Sweep(len(PROBES_BY_VALUE), max(batches), batches, sizes=sizes[0])
    others = (_short_sweep(batches, *_LADDER[0], value) for value in sizes[1:])
    return PartPlan((usual, *others), thorough, largest_batch=MAX_PIECE_ROWS)


def batches_plan(batches: Sequence[int]) -> PartPlan:
    """Return the plan of every probe at these batch sizes, with the lowest and the highest optimisation level."""
    return PartPlan((Sweep(len(PROBES_BY_VALUE), max(batches), tuple(batches)),))


def plan_part(
    costs: Sequence[RowCost],
    limits: Limits,
    *,
    thorough: bool,
    settings: int,
    bounds: Symbol = _ANY_BATCH,
    sizes: Sequence[Sizes] = ((),),
) -> PartPlan:
    """Choose the test cases of a part.

    Args:
        costs: the cost of a row at each of `sizes`.
        limits: the time and memory that the part may take.
        thorough: whether every batch size and setting is wanted.
        settings: number of settings that a thorough verification runs a file with.
        bounds: bounds of the batch axis.
        sizes: values of the symbols of open sizes, the usual ones first.

    Returns:
        The complete plan if it fits. Otherwise, for each size, the first step of the ladder that fits, or the last.
    """
    usual, *others = costs
    piece = max(1, PIECE_BYTES // max(cost.bytes_float64 for cost in costs))
    complete = complete_plan(thorough=thorough, bounds=bounds, sizes=sizes)
    complete = replace(complete, piece=piece, largest_batch=_largest_drawn(usual, limits))
    complete = _estimated(complete, costs, settings)
    batches = complete.sweeps[0].batches
    fitting = tuple(batch for batch in batches if batch * usual.bytes_float32 <= limits.batch_bytes) or batches[:1]
    stored = sum(sweep.stored_bytes(cost) for sweep, cost in zip(complete.sweeps, costs, strict=True))
    if complete.seconds <= limits.seconds * _COMPLETE_SHARE and stored <= limits.stored_bytes and fitting == batches:
        return complete
    sweeps = [
        _longest(fitting, value, cost, limits.seconds * _OTHER_SIZE_SHARE)
        for value, cost in zip(sizes[1:], others, strict=True)
    ]
    spent = sum(_seconds(sweep, cost) for sweep, cost in zip(sweeps, others, strict=True))
    sweeps.insert(0, _longest(fitting, sizes[0], usual, limits.seconds - spent))
    plan = _estimated(replace(complete, sweeps=tuple(sweeps)), costs, settings)
    if plan.seconds > limits.seconds:
        plan = _estimated(replace(plan, every_setting=False), costs, settings)
    return replace(
        plan, left_out=tuple(_left_out(complete, plan)), reason=_reason(complete, stored, batches, usual, limits)
    )


def _largest_drawn(cost: RowCost, limits: Limits) -> int:
    """Return the largest batch size that may be drawn: all draws together run about three times as many rows."""
    rows = min(limits.batch_bytes / cost.bytes_float32, _DRAWN_SHARE * limits.seconds / cost.file / 3)
    return int(min(MAX_PIECE_ROWS, rows))


def plan_nats(encoder: RowCost, decoder: RowCost, limits: Limits) -> NatsPlan:
    """Choose the size of the comparison in nats from the cost of a row of each part."""
    allowed = limits.seconds * _NATS_SHARE
    return next(plan for plan in _NATS_LADDER if not plan.images or plan.seconds(encoder, decoder) <= allowed)


def _duration(seconds: float) -> str:
    """Return a time for people, such as "about 20 s" or "about 7 minutes"."""
    return f"about {max(1, round(seconds))} s" if seconds < 100 else f"about {seconds / 60:.1f} minutes"


def _short_sweep(batches: Sequence[int], rows: int, probes: int, sizes: Sizes) -> Sweep:
    """Return a sweep of a few rows, whose large batches repeat the rows of one probe."""
    small = tuple(batch for batch in batches if batch <= rows) or tuple(batches[:1])
    large = tuple(batch for batch in batches if batch > small[-1])
    return Sweep(min(probes, len(PROBES_BY_VALUE)), small[-1], small, large, FEWEST_PERTURBATIONS, sizes)


def _longest(batches: Sequence[int], sizes: Sizes, cost: RowCost, seconds: float) -> Sweep:
    """Return the first step of the ladder that fits into the seconds, or the last step without large batches."""
    steps = [_short_sweep(batches, rows, probes, sizes) for rows, probes in _LADDER]
    steps += [replace(step, large_batches=()) for step in steps[-1:]]
    return next((step for step in steps if _seconds(step, cost) <= seconds), steps[-1])


def _seconds(sweep: Sweep, cost: RowCost) -> float:
    return sweep.reference_seconds(cost) + _FEWEST_SETTINGS * sweep.runs * cost.file


def _estimated(plan: PartPlan, costs: Sequence[RowCost], settings: int) -> PartPlan:
    """Return the plan with its estimates of time."""
    runs = settings if plan.every_setting else _FEWEST_SETTINGS
    pairs = list(zip(plan.sweeps, costs, strict=True))
    return replace(
        plan,
        reference_seconds=sum(sweep.reference_seconds(cost) for sweep, cost in pairs),
        file_seconds=sum(runs * sweep.runs * cost.file for sweep, cost in pairs),
    )


def _left_out(complete: PartPlan, plan: PartPlan) -> Iterator[str]:
    """Yield a phrase for each thing that a plan lacks, at the usual size."""
    every, usual = complete.sweeps[0], plan.sweeps[0]
    if usual.probes < every.probes:
        yield f"{every.probes - usual.probes} of {every.probes} probes"
    if usual.rows < every.rows:
        yield f"{every.rows - usual.rows} of {every.rows} rows of each probe"
    if usual.large_batches and usual.probes > 1:
        yield f"batches {', '.join(map(str, usual.large_batches))} of all probes but one"
    if missing := [str(batch) for batch in every.batches if batch not in usual.batches_of(first=True)]:
        yield f"batches {', '.join(missing)}"
    if usual.perturbations < every.perturbations:
        yield f"{every.perturbations - usual.perturbations} of {every.perturbations} perturbations"
    if plan.every_setting < complete.every_setting:
        yield "all settings but the lowest and the highest optimisation level on one thread"


def _reason(complete: PartPlan, stored: int, batches: Sequence[int], cost: RowCost, limits: Limits) -> str:
    reasons = []
    if complete.seconds > (allowed := limits.seconds * _COMPLETE_SHARE):
        reasons.append(f"all would take {_duration(complete.seconds)}, above {allowed:.0f} s")
    if (needed := batches[-1] * cost.bytes_float32) > limits.batch_bytes:
        reasons.append(f"batch {batches[-1]} would take {needed / 1e9:.2g} GB of {limits.batch_bytes / 1e9:.2g}")
    if stored > limits.stored_bytes:
        reasons.append(f"the outputs would take {stored / 1e9:.2g} GB of {limits.stored_bytes / 1e9:.2g}")
    return "; ".join(reasons)
