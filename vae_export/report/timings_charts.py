"""Compute the geometry of the charts on the timings page: latency by batch size, and error by latency and size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vae_export.bench.results import Timings
from vae_export.precision import PRECISIONS
from vae_export.report.text import duration, number

WIDTH, HEIGHT = 720, 400
#: The number of colours on the page; further engines reuse them.
COLOURS = 12
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 24, 16, 48
#: Radius of the largest file's circle, whose area stands for its size, and of the smallest circle that is drawn.
_LARGEST, _SMALLEST = 16.0, 4.0


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis, which maps low to start and high to end, in pixels of the SVG."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float, margin: float = 1.3) -> Axis:
        """Return an axis that covers positive values.

        Args:
            values: the values, at least one.
            start, end: coordinates of the ends of the axis, in pixels of the SVG.
            margin: factor by which the axis extends beyond the smallest and the largest value.

        Returns:
            The axis.
        """
        known = list(values)
        return cls(min(known) / margin, max(known) * margin, start, end)

    def place(self, value: float) -> float:
        """Return the coordinate of a value."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def decades(self) -> list[float]:
        """Return the powers of ten on the axis; if there are fewer than three, also 2 and 5 times each of them."""
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for steps in ((1,), (1, 2, 5)):
            ticks = [step * 10.0**exponent for exponent in range(first, last + 1) for step in steps]
            inside = [tick for tick in ticks if self.low <= tick <= self.high]
            if len(inside) >= 3:
                return inside
        return inside


@dataclass(frozen=True)
class LineStyle:
    """The style that tells a subject from the others.

    Attributes:
        name: name of the subject, without the suffix ExecutionProvider.
        colour: number of the engine's colour.
        dash: number of the precision's dash pattern; 0 is a solid line, for float32.
        precision: precision of the subject, or "" for float32.
    """

    name: str
    colour: int
    dash: int
    precision: str

    @classmethod
    def of(cls, subject: str, subjects: Sequence[str]) -> LineStyle:
        """Return the style of a subject among all subjects of the page."""
        engines = list(dict.fromkeys(_engine(name)[0] for name in subjects))
        engine, precision = _engine(subject)
        dash = PRECISIONS.index(precision) if precision in PRECISIONS else 0
        return cls(subject.replace("ExecutionProvider", ""), engines.index(engine) % COLOURS, dash, precision)


def _engine(subject: str) -> tuple[str, str]:
    """Return "onnx" and "int8" for "onnx+int8/CPUExecutionProvider"."""
    engine, _, precision = subject.partition("/")[0].partition("+")
    return engine, precision


@dataclass(frozen=True)
class Line:
    """The latencies of one subject as a path and its points (x, y, text)."""

    style: LineStyle
    path: str
    points: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class Latencies:
    """The chart of latency against batch size.

    Attributes:
        lines: one for each subject.
        roofline: the path of the roofline.
        columns: (x, batch size) of the grid.
        ticks: (y, text) of the grid.
    """

    lines: tuple[Line, ...]
    roofline: str
    columns: tuple[tuple[float, int], ...]
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Point:
    """A file, or PyTorch: a circle whose area stands for the size of the file; `says` is its tooltip."""

    style: LineStyle
    x: float
    y: float
    radius: float
    says: str


@dataclass(frozen=True)
class TradeOff:
    """The chart of error against latency.

    Attributes:
        points: one for each subject.
        columns: (x, text) of the grid.
        ticks: (y, text) of the grid.
        pareto_front: the files that no other file beats (at least equal in latency, error and size, better in one).
    """

    points: tuple[Point, ...]
    columns: tuple[tuple[float, str], ...]
    ticks: tuple[tuple[float, str], ...]
    pareto_front: tuple[str, ...]


def latencies(timings: Timings, part: str, threads: int, names: Sequence[str]) -> Latencies:
    """Draw the chart of one part with one number of threads; both axes are logarithmic.

    Args:
        timings: the results.
        part: the part of the model.
        threads: the number of threads.
        names: the subjects, in the order of their colours.

    Returns:
        The lines, the roofline and the grid, in pixels of the SVG.
    """
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
    """Return the chart of all subjects with a known error, each at its fastest number of threads.

    Args:
        timings: the results.
        part: the part of the model.
        batch: the batch size.
        names: the subjects, in the order of their colours.
        errors: the largest error by subject.

    Returns:
        The chart, or None if fewer than two subjects have a known error.
    """
    sizes = {subject.name: subject.file_bytes for subject in timings.subjects if subject.part == part}
    fastest: dict[str, float] = {}
    for result in timings.results:
        if (result.part, result.batch) == (part, batch) and result.subject in errors:
            fastest[result.subject] = min(result.p50_seconds, fastest.get(result.subject, math.inf))
    shown = [name for name in names if name in fastest]
    if len(shown) < 2:
        return None
    # An error of 0 has no logarithm, so it is drawn at the lower edge.
    least = min((errors[name] for name in shown if errors[name] > 0), default=1e-9)
    height = {name: errors[name] or least / 2 for name in shown}
    x = Axis.over(fastest.values(), _LEFT, WIDTH - _RIGHT, 1.6)
    y = Axis.over(height.values(), HEIGHT - _BOTTOM, _TOP, 2.5)
    largest = max([size for size in sizes.values() if size] or [1])
    points = tuple(
        Point(
            LineStyle.of(name, names),
            x.place(fastest[name]),
            y.place(height[name]),
            round(max(_SMALLEST, _LARGEST * math.sqrt((sizes[name] or 0) / largest)), 1),
            f"{name}: {duration(fastest[name])}, error {number(errors[name])}",
        )
        for name in shown
    )
    files = {name: (fastest[name], errors[name], size) for name in shown if (size := sizes[name]) is not None}
    return TradeOff(
        points,
        tuple((x.place(tick), duration(tick)) for tick in x.decades()),
        tuple((y.place(tick), number(tick)) for tick in y.decades()),
        tuple(name for name, own in files.items() if not any(_beats(other, own) for other in files.values())),
    )


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether one point is at least as good as the other in every figure, and better in one."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


def _path(points: Sequence[tuple[float, ...] | tuple[float, float, str]]) -> str:
    return "M" + "L".join(f"{point[0]} {point[1]}" for point in points)
