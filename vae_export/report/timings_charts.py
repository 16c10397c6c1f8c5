"""The timings' charts as geometry: latency against batch size, and what a file's speed costs in error and bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vae_export.bench.results import Timings
from vae_export.precision import PRECISIONS
from vae_export.report.text import duration, number

WIDTH, HEIGHT = 720, 400
#: Engines that have a colour of their own; the page has as many.
COLOURS = 12
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 24, 16, 48
#: Radius of the largest file's circle; the others' areas are to its.
_LARGEST, _SMALLEST = 16.0, 4.0


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis: from a number to a place in the SVG."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float, room: float = 1.3) -> Axis:
        known = list(values)
        return cls(min(known) / room, max(known) * room, start, end)

    def place(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def decades(self) -> list[float]:
        """The powers of ten on it; halves and fifths too where there are fewer than three."""
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for steps in ((1,), (1, 2, 5)):
            ticks = [step * 10.0**exponent for exponent in range(first, last + 1) for step in steps]
            inside = [tick for tick in ticks if self.low <= tick <= self.high]
            if len(inside) >= 3:
                return inside
        return inside


@dataclass(frozen=True)
class LineStyle:
    """How a side is told from the others.

    Attributes:
    name: of the side, without what ONNX Runtime's providers all end with.
    colour: the number of its engine's.
    dash: the number of its precision's; 0, a whole line, is float32.
    precision: in a word, for files of fewer bits.
    """

    name: str
    colour: int
    dash: int
    precision: str

    @classmethod
    def of(cls, subject: str, subjects: Sequence[str]) -> LineStyle:
        engines = list(dict.fromkeys(_engine(name)[0] for name in subjects))
        engine, precision = _engine(subject)
        dash = PRECISIONS.index(precision) if precision in PRECISIONS else 0
        return cls(subject.replace("ExecutionProvider", ""), engines.index(engine) % COLOURS, dash, precision)


def _engine(subject: str) -> tuple[str, str]:
    """ "onnx+int8/CPUExecutionProvider" → "onnx", "int8"."""
    engine, _, precision = subject.partition("/")[0].partition("+")
    return engine, precision


@dataclass(frozen=True)
class Line:
    """One side's latencies: a path, and its points with what each says."""

    look: LineStyle
    path: str
    points: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class Latencies:
    """Attributes:
    limit: the machine's limit, as a path.
    columns: (x, batch size) of the grid.
    ticks: (y, text) of the grid.
    """

    lines: tuple[Line, ...]
    limit: str
    columns: tuple[tuple[float, int], ...]
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Point:
    """One file or PyTorch: a circle whose area is the file's size."""

    look: LineStyle
    x: float
    y: float
    radius: float
    says: str


@dataclass(frozen=True)
class TradeOff:
    """Error against latency against size. `front`: the sides that no other beats in all three."""

    points: tuple[Point, ...]
    columns: tuple[tuple[float, str], ...]
    ticks: tuple[tuple[float, str], ...]
    front: tuple[str, ...]


def latencies(timings: Timings, part: str, threads: int, names: Sequence[str]) -> Latencies:
    """One part with one number of threads, both axes logarithmic."""
    batches = sorted(timings.plan["batches"])
    rooflines = {
        roofline.batch: roofline.seconds
        for roofline in timings.rooflines
        if (roofline.part, roofline.threads) == (part, threads)
    }
    rows = {name: timings.by_batch(part, name, threads) for name in names}
    seconds = [result.p50_seconds for row in rows.values() for result in row.values()]
    x = Axis.over(batches, _LEFT, WIDTH - _RIGHT, 1.4)
    y = Axis.over([*seconds, *rooflines.values()], HEIGHT - _BOTTOM, _TOP)

    def line(name: str) -> Line:
        points = [
            (
                x.place(batch),
                y.place(row[batch].p50_seconds),
                f"{name}, batch {batch}: {duration(row[batch].p50_seconds)}",
            )
            for batch in batches
            if (row := rows[name])
        ]
        return Line(LineStyle.of(name, names), _path(points), tuple(points))

    return Latencies(
        tuple(line(name) for name in names if rows[name]),
        _path([(x.place(batch), y.place(rooflines[batch])) for batch in batches]),
        tuple((x.place(batch), batch) for batch in batches),
        tuple((y.place(tick), duration(tick)) for tick in y.decades()),
    )


def trade_off(
    timings: Timings, part: str, batch: int, names: Sequence[str], errors: Mapping[str, float]
) -> TradeOff | None:
    """Each side with an error on record, at its quickest number of threads; None where fewer than two have one."""
    sizes = {subject.name: subject.file_bytes for subject in timings.subjects if subject.part == part}
    quickest: dict[str, float] = {}
    for result in timings.results:
        if (result.part, result.batch) == (part, batch) and result.subject in errors:
            quickest[result.subject] = min(result.p50_seconds, quickest.get(result.subject, math.inf))
    shown = [name for name in names if name in quickest]
    if len(shown) < 2:
        return None
    # An output that equals float64 has no logarithm: it lies on the lower edge.
    least = min((errors[name] for name in shown if errors[name] > 0), default=1e-9)
    height = {name: errors[name] or least / 2 for name in shown}
    x = Axis.over(quickest.values(), _LEFT, WIDTH - _RIGHT, 1.6)
    y = Axis.over(height.values(), HEIGHT - _BOTTOM, _TOP, 2.5)
    largest = max([size for size in sizes.values() if size] or [1])
    points = tuple(
        Point(
            LineStyle.of(name, names),
            x.place(quickest[name]),
            y.place(height[name]),
            round(max(_SMALLEST, _LARGEST * math.sqrt((sizes[name] or 0) / largest)), 1),
            f"{name}: {duration(quickest[name])}, error {number(errors[name])}",
        )
        for name in shown
    )
    files = {name: (quickest[name], errors[name], size) for name in shown if (size := sizes[name]) is not None}
    return TradeOff(
        points,
        tuple((x.place(tick), duration(tick)) for tick in x.decades()),
        tuple((y.place(tick), number(tick)) for tick in y.decades()),
        tuple(name for name, own in files.items() if not any(_beats(other, own) for other in files.values())),
    )


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Nowhere worse, and better somewhere."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


def _path(points: Sequence[tuple[float, ...] | tuple[float, float, str]]) -> str:
    return "M" + "L".join(f"{point[0]} {point[1]}" for point in points)
