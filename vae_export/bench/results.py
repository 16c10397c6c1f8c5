"""What is measured, and for how long.

The record of one measurement: every figure, the limit beside it, the machine. docs/bench.md describes the JSON.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from vae_export.contract import EVERY_PART, Part
from vae_export.errors import InputError, IntegrityError, UsageError
from vae_export.io.atomic import write_atomic
from vae_export.io.strict import CERTIFICATE_LIMIT, parse_json
from vae_export.precision import PrecisionName

BATCHES = (1, 8, 64, 512, 4096)
THREADS = (1, 2)
#: Beyond this an input alone is gigabytes.
_MOST_ROWS = 1 << 20


@dataclass(frozen=True)
class Plan:
    """Attributes:
    parts: in this order.
    batches: rows of a call.
    threads: within an operator.
    rounds: how often every side is measured; a ratio is of two figures of one round.
    seconds: that a side has for one batch size in one round.
    """

    parts: tuple[Part, ...] = ("decoder",)
    batches: tuple[int, ...] = BATCHES
    threads: tuple[int, ...] = THREADS
    rounds: int = 12
    seconds: float = 0.02

    def __post_init__(self) -> None:
        cores = os.cpu_count() or 1
        for name, values, highest in (
            ("batch", self.batches, _MOST_ROWS),
            ("threads", self.threads, max(cores, *THREADS)),
            ("rounds", (self.rounds,), 10_000),
        ):
            if not values or (bad := [value for value in values if not 1 <= value <= highest]):
                raise UsageError(f"bad {name}", expected=f"1 to {highest:,}", got=bad[0] if values else "none")
            if len(set(values)) != len(values):
                raise UsageError(f"{name} is there twice", got=list(values))
        if not self.parts or any(part not in EVERY_PART for part in self.parts):
            raise UsageError("unknown part", expected=" | ".join(EVERY_PART), got=list(self.parts))

    @classmethod
    def quick(cls) -> Plan:
        """For a first look: few rounds, and spreads that say so."""
        return cls(rounds=3, seconds=0.005)


FORMAT = "vae-export-timings/1"
TIMINGS = "timings.json"


@dataclass(frozen=True)
class Spread:
    """A ratio that was taken once a round: its median and quartiles over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, _, high = quantiles(values, n=4, method="inclusive")
        return cls(median(values), low, high)


@dataclass(frozen=True)
class Side:
    """What does not depend on the batch.

    Attributes:
        file: name of the exported file; None for a side that is none.
        file_bytes: with what lies beside it; None likewise.
        precision: of the numbers in it; None likewise.
        load_seconds: from a Python with numpy to the first result: the engine's import, opening, the first call.
    """

    part: str
    side: str
    file: str | None
    file_bytes: int | None
    precision: PrecisionName | None
    load_seconds: float


@dataclass(frozen=True)
class Limit:
    """The machine's limit for one part, batch size and number of threads.

    Attributes:
        products_seconds, weights_seconds: medians of the bare matrix products, and of reading the weights.
        operations: additions and multiplications in the products.
        weight_bytes: in float32.
    """

    part: str
    batch: int
    threads: int
    products_seconds: float
    weights_seconds: float
    operations: int
    weight_bytes: int

    @property
    def seconds(self) -> float:
        """The longer of the two."""
        return max(self.products_seconds, self.weights_seconds)


@dataclass(frozen=True)
class Figure:
    """One part, side, batch size and number of threads.

    Attributes:
        calls: how many were timed, over all rounds.
        p50_seconds, p90_seconds, p99_seconds: of one call.
        memory_bytes: the most that the process of this side had up to this batch size, above a Python with numpy.
        speedup: eager's time over this one's.
        reached: the limit's time over this one's: 1 is the limit; None on a device that the limit is not of.
    """

    part: str
    side: str
    batch: int
    threads: int
    calls: int
    p50_seconds: float
    p90_seconds: float
    p99_seconds: float
    memory_bytes: int
    speedup: Spread
    reached: Spread | None

    @property
    def rows_per_second(self) -> float:
        """Throughput: rows of the batch over the median time."""
        return self.batch / self.p50_seconds

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"rows_per_second": self.rows_per_second}


@dataclass(frozen=True)
class Timings:
    """Attributes:
    files: SHA-256 of the exported files that were measured, by name.
    plan: rounds, seconds of a slot, parts, batches, threads.
    machine: what it is, and what ran on it.
    unusable: sides that this machine lists and could not be measured, with the reason: "decoder, aoti/cpu" → why.
    """

    files: Mapping[str, str]
    plan: Mapping[str, Any]
    machine: Mapping[str, Any]
    sides: tuple[Side, ...]
    limits: tuple[Limit, ...]
    figures: tuple[Figure, ...]
    unusable: Mapping[str, str] = field(default_factory=dict)

    def row(self, part: str, side: str, threads: int) -> dict[int, Figure]:
        """The figures of one side by batch size."""
        return {f.batch: f for f in self.figures if (f.part, f.side, f.threads) == (part, side, threads)}

    def best(self, part: str, batch: int, precision: PrecisionName | None = None) -> Figure | None:
        """The quickest certified file for this part and batch size, over all threads; None takes any precision."""
        own = {
            (side.part, side.side)
            for side in self.sides
            if side.file is not None and precision in (None, side.precision)
        }
        found = [f for f in self.figures if (f.part, f.batch) == (part, batch) and (f.part, f.side) in own]
        return min(found, key=lambda figure: figure.p50_seconds, default=None)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "files": dict(self.files),
            "plan": dict(self.plan),
            "machine": dict(self.machine),
            "unusable": dict(self.unusable),
            "sides": [_rounded(asdict(side)) for side in self.sides],
            "limits": [_rounded(asdict(limit)) for limit in self.limits],
            "figures": [_rounded(figure.to_json()) for figure in self.figures],
        }

    @property
    def text(self) -> bytes:
        """The bytes of timings.json: an entry a line."""
        data = self.to_json()
        lists = {name: data.pop(name) for name in ("sides", "limits", "figures")}
        head = json.dumps(data, indent=1, allow_nan=False).removesuffix("\n}")
        rows = (
            f' "{name}": [\n' + ",\n".join(json.dumps(item, allow_nan=False) for item in items) + "\n ]"
            for name, items in lists.items()
        )
        return (",\n".join([head, *rows]) + "\n}\n").encode()

    def write(self, path: Path) -> None:
        write_atomic(path, self.text)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Timings:
        """The inverse of `to_json`; raises `KeyError`, `TypeError` or `ValueError` for anything else."""

        def figure(item: Mapping[str, Any]) -> Figure:
            values = {name: value for name, value in item.items() if name != "rows_per_second"}
            spreads = {name: values[name] and Spread(**values[name]) for name in ("speedup", "reached")}
            return Figure(**(values | spreads))

        return cls(
            dict(document["files"]),
            dict(document["plan"]),
            dict(document["machine"]),
            tuple(Side(**item) for item in document["sides"]),
            tuple(Limit(**item) for item in document["limits"]),
            tuple(figure(item) for item in document["figures"]),
            dict(document["unusable"]),
        )


def percentile(values: Sequence[int], share: float) -> float:
    """The smallest value that `share` of all are at or below, in seconds (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] / 1e9


def read_timings(path: Path) -> Timings:
    """Raises `InputError` where there are none or of another version, `IntegrityError` for a broken file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError("no timings", where=path, got=error.strerror, do="run: vae-export bench") from error
    document = parse_json(data, "timings", path, limit=CERTIFICATE_LIMIT)
    found = document.get("format") if isinstance(document, dict) else document
    if found != FORMAT:
        raise InputError("timings of another version", where=path, expected=FORMAT, got=str(found)[:80])
    try:
        return Timings.from_json(document)
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError("timings cannot be read", where=path, got=repr(error)[:200]) from error


def _rounded(value: Any) -> Any:
    """Six digits say all."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return {name: _rounded(item) for name, item in value.items()} if isinstance(value, dict) else value
