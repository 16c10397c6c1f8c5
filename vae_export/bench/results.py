"""The options of a benchmark and the record of its results, `timings.json`; docs/bench.md describes the JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vae_export.bench.roofline import Peak, Roofline
from vae_export.bench.statistics import Spread
from vae_export.contract import EVERY_PART, Part
from vae_export.errors import UsageError
from vae_export.io.atomic import write_atomic
from vae_export.precision import PrecisionName

FORMAT = "vae-export-timings/2"
TIMINGS = "timings.json"
BATCHES = (1, 8, 64, 512, 4096)
THREADS = (1, 2)
#: The largest batch size; the input of a larger one takes gigabytes.
_MAX_BATCH = 1 << 20


@dataclass(frozen=True)
class BenchPlan:
    """The parts, batch sizes and thread counts to measure, and for how long.

    Attributes:
        parts: the parts of the model, measured in this order.
        batches: batch sizes, in rows.
        threads: threads within an operator.
        rounds: number of rounds; each measures every subject once, and ratios are taken within a round.
        seconds: measuring time of a subject in a round, for one batch size and thread count.
        sizes: values of the contract's free sizes, such as {"h": 32, "w": 32}; others have their usual value.
    """

    parts: tuple[Part, ...] = ("decoder",)
    batches: tuple[int, ...] = BATCHES
    threads: tuple[int, ...] = THREADS
    rounds: int = 12
    seconds: float = 0.02
    sizes: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        cores = os.cpu_count() or 1
        for name, values, highest in (
            ("batch", self.batches, _MAX_BATCH),
            ("threads", self.threads, max(cores, *THREADS)),
            ("rounds", (self.rounds,), 10_000),
        ):
            if not values or (bad := [value for value in values if not 1 <= value <= highest]):
                raise UsageError(f"bad {name}", expected=f"1 to {highest:,}", got=bad[0] if values else "none")
            if len(set(values)) != len(values):
                raise UsageError(f"{name} is given twice", got=list(values))
        if not self.parts or any(part not in EVERY_PART for part in self.parts):
            raise UsageError("unknown part", expected=" | ".join(EVERY_PART), got=list(self.parts))

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON, with sizes where some were chosen."""
        return {name: value for name, value in asdict(self).items() if name != "sizes" or value}

    @classmethod
    def quick(cls) -> BenchPlan:
        """Return a plan for a first look, with a few short rounds."""
        return cls(rounds=3, seconds=0.005)


@dataclass(frozen=True)
class SubjectSummary:
    """The properties of a subject that do not depend on the batch size.

    Attributes:
        part: the part of the model.
        name: a name from `vae_export.bench.subjects`, such as `onnx/CPUExecutionProvider`; "side" in the JSON.
        file: name of the exported file, or None for a subject that is not a file.
        file_bytes: size of the file and its sidecars in bytes, or None.
        precision: precision of the numbers in the file, or None.
        load_seconds: time to import the engine, open the subject and make the first call, in a Python with numpy.
    """

    part: str
    name: str
    file: str | None
    file_bytes: int | None
    precision: PrecisionName | None
    load_seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the entry of timings.json."""
        return _renamed(asdict(self), {"name": "side"})


@dataclass(frozen=True)
class BenchResult:
    """The measurements of one subject for one part, batch size and thread count.

    Attributes:
        part, batch, threads: the measured case.
        subject: name of the subject; "side" in the JSON.
        calls: number of calls that were timed in the undisturbed rounds.
        p50_seconds: median time of one call; the ratio of those of two subjects is the ratio that is stated.
        p90_seconds, p99_seconds: percentiles of the time of one call, over the calls of the undisturbed rounds.
        memory_bytes: peak memory of the process up to this batch size, minus that of a Python with numpy.
        speedup: eager PyTorch's median time divided by this subject's, with the quartiles over the rounds.
        roofline_share: the roofline's time divided by this subject's, so that 1 is the roofline, with the quartiles
            over the rounds; None on a device for which there is no roofline. "reached" in the JSON.
        disturbed_rounds: number of rounds left out, because other programs slowed this subject down.
    """

    part: str
    subject: str
    batch: int
    threads: int
    calls: int
    p50_seconds: float
    p90_seconds: float
    p99_seconds: float
    memory_bytes: int
    speedup: Spread
    roofline_share: Spread | None
    disturbed_rounds: int = 0

    @property
    def rows_per_second(self) -> float:
        """Throughput: rows of the batch divided by the median time."""
        return self.batch / self.p50_seconds

    def to_json(self) -> dict[str, Any]:
        """Return the entry of timings.json; `disturbed_rounds` is left out where it is 0."""
        values = _renamed(asdict(self), {"subject": "side", "roofline_share": "reached"})
        if not self.disturbed_rounds:
            del values["disturbed_rounds"]
        return values | {"rows_per_second": self.rows_per_second}


@dataclass(frozen=True)
class Timings:
    """The record of one benchmark.

    Attributes:
        files: SHA-256 of the exported files that were measured, by name.
        plan: the fields of the `BenchPlan`.
        machine: the machine and the versions of the software.
        subjects: the measured subjects; "sides" in the JSON.
        rooflines: one for each part, batch size and thread count; "limits" in the JSON.
        peaks: the peaks of the processor for each thread count.
        results: one for each subject, batch size and thread count; "figures" in the JSON.
        unusable: subjects that could not be measured here, with the reason: "decoder, aoti/cpu" → reason.
    """

    files: Mapping[str, str]
    plan: Mapping[str, Any]
    machine: Mapping[str, Any]
    subjects: tuple[SubjectSummary, ...]
    rooflines: tuple[Roofline, ...]
    peaks: tuple[Peak, ...]
    results: tuple[BenchResult, ...]
    unusable: Mapping[str, str] = field(default_factory=dict)

    @property
    def disturbed_rounds(self) -> int:
        """The number of measurements that were left out, over all results."""
        return sum(result.disturbed_rounds for result in self.results)

    def by_batch(self, part: str, subject: str, threads: int) -> dict[int, BenchResult]:
        """Select the results of one subject.

        Args:
            part: the part of the model.
            subject: the name of the subject.
            threads: the number of threads.

        Returns:
            The results by batch size.
        """
        return {r.batch: r for r in self.results if (r.part, r.subject, r.threads) == (part, subject, threads)}

    def best(self, part: str, batch: int, precision: PrecisionName | None = None) -> BenchResult | None:
        """Return the fastest certified file for a part and batch size, over all threads.

        Args:
            part: the part of the model.
            batch: rows of a call.
            precision: precision of the file; None takes any.

        Returns:
            The result of the fastest file, or None if there is none.
        """
        files = {
            (subject.part, subject.name)
            for subject in self.subjects
            if subject.file is not None and precision in (None, subject.precision)
        }
        found = [r for r in self.results if (r.part, r.batch) == (part, batch) and (r.part, r.subject) in files]
        return min(found, key=lambda result: result.p50_seconds, default=None)

    def to_json(self) -> dict[str, Any]:
        """Return the content of timings.json, with numbers rounded to six digits."""
        return {
            "format": FORMAT,
            "files": dict(self.files),
            "plan": dict(self.plan),
            "machine": dict(self.machine),
            "unusable": dict(self.unusable),
            "peaks": [_rounded(asdict(peak)) for peak in self.peaks],
            "sides": [_rounded(subject.to_json()) for subject in self.subjects],
            "limits": [_rounded(asdict(roofline)) for roofline in self.rooflines],
            "figures": [_rounded(result.to_json()) for result in self.results],
        }

    @property
    def text(self) -> bytes:
        """The bytes of timings.json, with one line for each entry of a list."""
        data = self.to_json()
        lists = {name: data.pop(name) for name in ("peaks", "sides", "limits", "figures")}
        head = json.dumps(data, indent=1, allow_nan=False).removesuffix("\n}")
        rows = (
            f' "{name}": [\n' + ",\n".join(json.dumps(item, allow_nan=False) for item in items) + "\n ]"
            for name, items in lists.items()
        )
        return (",\n".join([head, *rows]) + "\n}\n").encode()

    def write(self, path: Path) -> None:
        """Write timings.json atomically."""
        write_atomic(path, self.text)


def _renamed(entry: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the entry with some of its keys renamed; the order of the keys stays."""
    return {names.get(key, key): value for key, value in entry.items()}


def _rounded(value: Any) -> Any:
    """Return the value with all floats in it rounded to six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return {name: _rounded(item) for name, item in value.items()} if isinstance(value, dict) else value
