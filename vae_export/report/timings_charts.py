"""Compute the geometry of the charts on the timings page: speed by batch size, and error by latency and size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from vae_export.bench.results import Timings
from vae_export.bench.subjects import COMPILE, EAGER, RUNTIME
from vae_export.precision import FULL, PRECISIONS
from vae_export.report.text import duration, number, times

WIDTH, HEIGHT = 820, 440
#: The number of colours on the page; further engines reuse them.
COLOURS = 12
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 24, 18, 56
#: Width of the labels at the right ends of lines, and the distance between two of them.
_LABELS, _LINE_HEIGHT = 216, 19
#: Distances of the grid lines of a linear axis, and the most of them.
_STEPS = (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 1000, 10000)
_MOST_TICKS = 8
#: Precisions that one line stands for.
_KINDS: Mapping[str, str] = {
    "fp32": "32 bits", "fp16": "16 bits", "bf16": "16 bits", "int8": "8 bits", "int8-static": "8 bits",
    "int4-weights": "4 bits",
}  # fmt: skip
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


def _colour_of_kind(subject: str) -> int:
    """Return the colour of what a line of `best_of_each_kind` stands for, which is the same in every chart."""
    kinds = [COMPILE, RUNTIME, *dict.fromkeys(_KINDS.values())]
    engine, precision = _engine(subject)
    known = next((name for name in (COMPILE, RUNTIME) if _engine(name)[0] == engine), None)
    return kinds.index(known or _KINDS[precision or FULL])


@dataclass(frozen=True)
class Line:
    """The speeds of one subject as a path and its points (x, y, text), with a label at its right end.

    Attributes:
        style: the style of the line.
        path: the line.
        points: the points, each with its tooltip.
        label: the text at the right end.
        label_y: coordinate of the label, which keeps its distance from other labels.
    """

    style: LineStyle
    path: str
    points: tuple[tuple[float, float, str], ...]
    label: str
    label_y: float


@dataclass(frozen=True)
class Speeds:
    """The chart of speed relative to eager PyTorch, on a linear axis, against batch size.

    Attributes:
        lines: the drawn subjects.
        roofline: the line of the roofline.
        columns: (x, batch size) of the grid.
        ticks: (y, text) of the grid.
        one: coordinate of eager PyTorch's speed, which is 1.
        one_label: coordinate of its label, which keeps its distance from those of the lines.
        slower: the subjects that are not drawn because they are slower than eager at every batch size.
    """

    lines: tuple[Line, ...]
    roofline: Line
    columns: tuple[tuple[float, int], ...]
    ticks: tuple[tuple[float, str], ...]
    one: float
    one_label: float
    slower: tuple[str, ...]


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


def best_of_each_kind(timings: Timings, part: str, threads: int) -> tuple[list[str], list[str]]:
    """Choose the subjects of the chart that is read at a glance.

    Args:
        timings: the results.
        part: the part of the model.
        threads: the number of threads.

    Returns:
        `torch.compile`, the runtime, and the fastest file of each kind of precision (by the geometric mean of its
        speedups over all batch sizes); and those of them that are slower than eager PyTorch at every batch size, which
        need no line.
    """
    kinds: dict[str, list[tuple[float, str]]] = {}
    for subject in timings.subjects:
        rows = timings.by_batch(part, subject.name, threads).values()
        if subject.part == part and subject.name != EAGER and rows:
            mean = sum(math.log(result.speedup.median) for result in rows) / len(rows)
            kind = subject.name if subject.precision is None else _KINDS[subject.precision]
            kinds.setdefault(kind, []).append((mean, subject.name))
    best = [max(found)[1] for found in kinds.values()]
    fast = [
        name
        for name in best
        if any(result.speedup.median > 1 for result in timings.by_batch(part, name, threads).values())
    ]
    return fast, [name for name in best if name not in fast]


def speeds(
    timings: Timings, part: str, threads: int, names: Sequence[str], slower: Sequence[str] | None = None
) -> Speeds:
    """Draw how many times as fast as eager PyTorch subjects are; the axis of the speed is linear.

    Args:
        timings: the results.
        part: the part of the model.
        threads: the number of threads.
        names: the subjects to draw, in the order of their colours.
        slower: subjects that the caption names and the chart leaves out. If it is given, the lines are few, and each is
            solid and has the colour of its kind; otherwise they have the colour of their engine and the dashes of their
            precision.

    Returns:
        The lines, the roofline and the grid, in pixels of the SVG.
    """
    batches = sorted(timings.plan["batches"])
    rows = {name: row for name in names if (row := timings.by_batch(part, name, threads))}
    eager = timings.by_batch(part, EAGER, threads)
    limits = {
        roofline.batch: eager[roofline.batch].p50_seconds / roofline.seconds
        for roofline in timings.rooflines
        if (roofline.part, roofline.threads) == (part, threads)
    }
    highest = max([*limits.values(), *(result.speedup.median for row in rows.values() for result in row.values())])
    step = next(step for step in _STEPS if highest / step <= _MOST_TICKS)
    top = step * math.ceil(highest / step)
    x = Axis.over(batches, _LEFT, WIDTH - _LABELS, 1.2)
    base, height = HEIGHT - _BOTTOM, HEIGHT - _BOTTOM - _TOP

    def y(value: float) -> float:
        return round(base - value / top * height, 1)

    heights = _apart(
        {name: y(row[max(row)].speedup.median) for name, row in rows.items()}
        | {"": y(limits[batches[-1]]), EAGER: y(1)}
    )

    def line(name: str, values: Mapping[int, tuple[float, float]]) -> Line:
        points = tuple(
            (
                x.place(batch),
                y(speed),
                f"{name or 'roofline'}, batch {batch}: {times(speed)} eager, {duration(seconds)}",
            )
            for batch, (speed, seconds) in sorted(values.items())
        )
        style = LineStyle.of(name, names) if name else LineStyle("roofline", 0, 0, "")
        if slower is not None and name:
            style = replace(style, colour=_colour_of_kind(name), dash=0)
        return Line(style, _path(points), points, style.name, heights[name])

    return Speeds(
        tuple(line(name, {b: (r.speedup.median, r.p50_seconds) for b, r in row.items()}) for name, row in rows.items()),
        line("", {batch: (speed, eager[batch].p50_seconds / speed) for batch, speed in limits.items()}),
        tuple((x.place(batch), batch) for batch in batches),
        tuple((y(step * index), f"{step * index:g}×") for index in range(round(top / step) + 1)),
        y(1),
        heights[EAGER],
        tuple(_named_range(timings, part, name, threads) for name in slower or ()),
    )


def kinds_of(names: Sequence[str]) -> list[str]:
    """Return what the lines of `best_of_each_kind` stand for, in words."""
    kinds = {COMPILE: "torch.compile", RUNTIME: "the Python runtime"}
    files = any(name not in kinds for name in names)
    return [kinds[name] for name in kinds if name in names] + ["the fastest file of each kind of precision"] * files


def _named_range(timings: Timings, part: str, name: str, threads: int) -> str:
    """Return a subject with its speedups over all batch sizes: "pt2+fp16/cpu (0.11× to 0.40×)"."""
    found = [result.speedup.median for result in timings.by_batch(part, name, threads).values()]
    return f"{name.replace('ExecutionProvider', '')} ({times(min(found))} to {times(max(found))})"


def _apart(heights: Mapping[str, float]) -> dict[str, float]:
    """Move labels up or down so that they do not overlap, with their order kept."""
    placed: dict[str, float] = {}
    lowest = -math.inf
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        placed[name] = lowest = max(height, lowest + _LINE_HEIGHT)
    # Labels that were pushed below the axis, to its numbers, push the ones above them back.
    highest = HEIGHT - _BOTTOM - _LINE_HEIGHT / 4
    for name in reversed(placed):
        placed[name] = highest = min(placed[name], highest)
        highest -= _LINE_HEIGHT
    return {name: round(height + 5, 1) for name, height in placed.items()}


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
