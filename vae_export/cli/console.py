"""Output: results on stdout, progress and messages on stderr.

Texts can come from strangers' files: characters that could move the cursor, hide text or turn its direction are shown
as escapes (`printable`).

A closed pipe (`… | head -1`) neither stops an export half-way nor changes an exit code: after the first broken pipe
the rest of the output is dropped and the work goes on.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TextIO

from vae_export.errors import StorageError
from vae_export.session_options import short_provider

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.progress import Progress
    from rich.table import Table

#: Between two lines of progress where there is no terminal.
_SECONDS_BETWEEN_LINES = 10.0
#: Columns that a text which wraps is given at least.
_LEAST_WORDS = 10
#: Control characters but tab and line feed, soft hyphens, zero-width spaces and direction marks, line separators, tags,
#: and halves of characters. The halves DC80 to DCFF are Python's form of a path's bytes that are not UTF-8.
_UNSAFE = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udc7f\udd00-\udfff"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]"
)


def printable(text: str) -> str:
    """Return a text as a terminal can show it: `\\x1b` in place of an escape character, for example."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text.replace("\r\n", "\n"))


_LINE_ENDS = re.compile(" +$", re.MULTILINE)


def result(value: RenderableType) -> None:
    """Print a result for a person on stdout: text, or a table."""
    from rich.console import Console
    from rich.table import Table

    # To memory first: rich ends the process when a pipe breaks.
    text, terminal = io.StringIO(), sys.stdout.isatty()
    # No markup: in `pip install 'vae-export[export]'` the brackets are text.
    console = Console(
        file=text, force_terminal=terminal, highlight=False, markup=False, emoji=False, soft_wrap=isinstance(value, str)
    )
    console.width = width()
    if isinstance(value, Table):
        console.width = _fit(value, console.width)
    console.print(printable(value) if isinstance(value, str) else _Printable(value))
    # Cells are padded, and a pipe has no use for the spaces at the end of a line.
    write(sys.stdout, text.getvalue() if terminal else _LINE_ENDS.sub("", text.getvalue()))


@dataclass(frozen=True)
class _Printable:
    """A table or styled text of which only printable characters are shown; the styles are ours."""

    value: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.value, options):
            yield segment._replace(text=printable(segment.text))


NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"


def paragraph(text: str) -> None:
    """Print a long line as a result: a terminal shows it wrapped at words, a pipe gets one line.

    A no-break space in `text` is printed as a space at which the line is not wrapped.
    """
    if sys.stdout.isatty():
        text = textwrap.fill(text, width(), break_long_words=False, break_on_hyphens=False)
    result(text.replace(NO_BREAK_SPACE, " "))


def width() -> int:
    """Return the columns of the terminal; `WIDE` where there is none, because rich would take 80 there."""
    from rich.console import Console

    return Console().width if sys.stdout.isatty() else WIDE


#: Columns from which on tables have all their columns, and cells with two numbers one line.
WIDE = 120


def is_wide() -> bool:
    """Whether there is room for tables of `WIDE` columns."""
    return width() >= WIDE


def short_target(name: str) -> str:
    """Return the name of a target without the end of ONNX Runtime's long names: onnx/CPU."""
    return short_provider(name)


def table(*headings: str, right: Container[str] = (), wrap: Container[str] = ()) -> Table:
    """Return an empty table for `result`, without lines.

    Args:
        headings: one for each column; they may wrap.
        right: headings of the columns that are aligned to the right.
        wrap: headings of the columns that wrap where the terminal is narrow; the others are never cut.

    Returns:
        The table, to which rows can be added.
    """
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False)
    for heading in headings:
        justify: Literal["left", "right"] = "right" if heading in right else "left"
        made.add_column(Text(heading, no_wrap=False), justify=justify, overflow="fold", no_wrap=heading not in wrap)
    return made


def _fit(table: Table, columns: int) -> int:
    """Let headings wrap if `table` is wider than `columns`; return the width it needs so that no number is cut."""
    from rich.cells import cell_len

    gaps, natural, least = 2 * (len(table.columns) - 1), 0, 0
    for column in table.columns:
        heading = str(column.header)
        lines = [line for cell in column.cells for line in str(cell).splitlines()]
        words = [word for line in [heading, *([] if column.no_wrap else lines)] for word in line.split()]
        shortest = max(map(cell_len, [*words, *(lines if column.no_wrap else [])]), default=0)
        natural += max(map(cell_len, [heading, *lines]))
        least += shortest if column.no_wrap else min(shortest, _LEAST_WORDS)
        column.min_width = shortest if column.no_wrap else None
    if natural + gaps > columns:
        for column in table.columns:
            column.max_width = column.min_width
    return max(columns, least + gaps)


def result_json(value: Any) -> None:
    """Print a result for a program on stdout: one JSON document. Raises `ValueError` for NaN and Inf."""
    write(sys.stdout, json.dumps(value, indent=2, allow_nan=False) + "\n")


def message(text: str) -> None:
    """Print a line on stderr."""
    write(sys.stderr, printable(text) + "\n")


def note(text: str) -> None:
    """Print a line on stderr, which a terminal shows wrapped at words.

    Errors are printed by `message`: a command in one can be copied only if no line break is put into it.
    """
    message(wrapped(text))


def wrapped(text: str) -> str:
    """Return a line of stderr wrapped at words if stderr is a terminal; further lines are indented."""
    if not sys.stderr.isatty():
        return text
    from rich.console import Console

    columns = Console(stderr=True).width
    return textwrap.fill(text, columns, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def write(stream: TextIO, text: str) -> None:
    """Write and flush; a closed pipe is no error. Raises `StorageError` if a result cannot be written."""
    try:
        # A path may hold bytes that are not UTF-8: they are written unchanged.
        stream.buffer.write(text.encode("utf-8", "surrogateescape"))
        stream.flush()
    except BrokenPipeError:
        silence(stream)
    except OSError as error:
        silence(stream)
        if stream is sys.stdout:  # a lost result is an error, a lost message is not
            raise StorageError("result cannot be written", where="stdout", got=error.strerror) from error


def open_closed() -> None:
    """Redirect streams that were closed before the start (`>&-`) to the null device."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))


def silence(stream: TextIO) -> None:
    """Redirect a stream to the null device, so that the flush at exit does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def progress() -> Progress:
    """Return a progress bar on stderr with an estimate of the time left; it is shown on a terminal only."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        TextColumn("{task.completed:.0f}/{task.total}"),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=Console(file=sys.stderr),
        disable=not sys.stderr.isatty(),
        transient=True,
    )


class Steps:
    """Lines and progress of a long piece of work in steps; see `report_steps`."""

    def __init__(self, bar: Progress, total: int, verbs: tuple[str, ...], uncounted: tuple[str, ...]) -> None:
        self._bar, self._verbs, self._uncounted, self._begun = bar, verbs, uncounted, 0
        self._task = bar.add_task("preparing", total=total, note="")

    def __call__(self, line: str) -> None:
        """Show the line of a step beside the bar, and print any other line; without a terminal print all."""
        line = printable(line)
        if self._bar.disable:
            message(line)
        elif line.startswith(self._verbs):
            self._bar.update(self._task, description=line, completed=self._begun)
            self._begun += 1
        elif self._uncounted and line.startswith(self._uncounted):
            self._bar.update(self._task, description=line, completed=self._begun)
        else:
            self._bar.console.print(wrapped(line), highlight=False, markup=False, soft_wrap=True)

    def within(self, share: float) -> None:
        """Move the bar within the present step, of which this share is done."""
        self._bar.update(self._task, completed=self._begun - 1 + share)


@contextmanager
def report_steps(total: int, *verbs: str, uncounted: tuple[str, ...] = ()) -> Iterator[Steps]:
    """Give a function that takes the lines of a long piece of work; on a terminal they move a progress bar.

    Args:
        total: number of steps.
        verbs: first words of the lines that begin a step.
        uncounted: first words of the lines that begin work between the steps, which `total` does not count.
    """
    with progress() as bar:
        yield Steps(bar, total, verbs, uncounted)


@contextmanager
def report_progress(verb: str, total: int) -> Iterator[Callable[[int], None]]:
    """Give a function that takes the number of rows done: it moves a bar, or prints a line every ten seconds."""
    started = printed = time.perf_counter()
    with progress() as bar:
        task = bar.add_task(verb, total=total, note="")

        def report(done: int) -> None:
            nonlocal printed
            now = time.perf_counter()
            speed = f"{done / (now - started):,.0f}/s"
            bar.update(task, completed=done, note=speed)
            if bar.disable and now - printed > _SECONDS_BETWEEN_LINES:
                printed = now
                message(f"{verb} {done:,} of {total:,}, {speed}")

        yield report
