"""The interface of a file format. A new format is one file beside this one and one line in the registry."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from vae_export.artifact.manifest import FileContent
from vae_export.contract import Array, PartSpec
from vae_export.precision import FULL, PrecisionName
from vae_export.session_options import SessionOptions

if TYPE_CHECKING:
    from vae_export.capture import Graph

#: ONNX operator set 20: the newest that onnxruntime-web, OpenVINO and OpenCV can read.
OPSET = 20

#: An error fails the certificate; a warning is recorded in it.
Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """A fault that reading a file shows before it is run.

    Attributes:
        rule: name of the rule, such as "random-operator".
        severity: error or warning.
        where: the file, and the node or tensor in it.
        detail: what was found.
    """

    rule: str
    severity: Severity
    where: str
    detail: str

    def line(self) -> str:
        """Return the finding as one line of text."""
        return f"{self.severity}: {self.rule}: {self.where}; {self.detail}"


#: Absolute paths of Linux, macOS or Windows, and lines of a Python traceback: texts that no model contains by chance.
_TRACES = (
    re.compile(rb'File \\?"[^"]{1,200}", line \d+'),
    re.compile(rb"(?<![\w.])/(?:home|root|Users|usr|opt|tmp|var|mnt|work|srv|data)/[\w.\-]{2,}/[\w.\-/]{2,}"),
    re.compile(rb"[A-Za-z]:\\\\?(?:Users|Windows|Program Files)\\\\?[\w.\- ]{2,}"),
    re.compile(rb"site-packages/[\w./\-]{2,}"),
)


def machine_traces(text: bytes, where: str) -> Iterator[Finding]:
    """Find paths and source lines of the machine that wrote `text`; they reveal it and make files differ."""
    for pattern in _TRACES:
        if (match := pattern.search(text)) is not None:
            yield Finding("machine-trace", "error", where, match.group().decode("utf-8", "replace"))


@dataclass(frozen=True)
class Bound:
    """A batch whose inputs are in place in the engine, ready to be computed any number of times.

    Attributes:
        call: computes once. It is the engine's own call with nothing around it, so that `bench` times the engine.
        fetch: takes what `call` returned; gives output arrays by name.
    """

    call: Callable[[], Any]
    fetch: Callable[[Any], dict[str, Array]]


@dataclass(frozen=True)
class Runner:
    """An opened file. Calling it takes input arrays by name and returns output arrays by name.

    Attributes:
        bind: takes input arrays by name; returns a context in which they are bound. Threads and modes that an engine
            keeps for the whole process are set on entry and restored on exit.
        run: runs with more checks than binding, calling and fetching makes; None where the engine has no such call.
    """

    bind: Callable[[Mapping[str, Array]], AbstractContextManager[Bound]]
    run: Callable[[Mapping[str, Array]], dict[str, Array]] | None = None

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if self.run is not None:
            return self.run(inputs)
        with self.bind(inputs) as bound:
            return bound.fetch(bound.call())


@dataclass(frozen=True)
class WriteOptions:
    """Options of one file to write.

    Attributes:
        metadata: text entries to store in the file, if its format has room for them.
        opset: ONNX operator set.
        precision: precision of the numbers in the file, one of the format's `precisions`.
        calibration: inputs of the part by name, each (M, *item), for a precision that is calibrated.
    """

    metadata: Mapping[str, str] = field(default_factory=dict)
    opset: int = OPSET
    precision: PrecisionName = FULL
    calibration: Mapping[str, Array] | None = None


class Format(Protocol):
    """A file format: how a part is written, checked, opened and run.

    Attributes:
        name: its name after `--format`.
        suffix: suffix of its files, after the part's name.
        sidecars: last suffixes of the files that must lie beside each of them; most formats have none.
        extra: extra in `pip install 'vae-export[…]'` that writing it needs.
        packages: packages whose versions decide what is written and how it is run.
        summary: one line for help and docs.
        danger: why files of unknown origin are never loaded, such as "is a program"; empty if they may be.
        may_crash: whether its engine can take the process down, so that a child process runs each file first (see
            `vae_export.sandbox.crash_check`).
        is_slow: whether writing takes many seconds a part; `--format all` leaves such a format out.
        precisions: the precisions that its files can have, float32 first.
    """

    name: str
    suffix: str
    sidecars: tuple[str, ...]
    extra: str
    packages: tuple[str, ...]
    summary: str
    danger: str
    may_crash: bool
    is_slow: bool
    precisions: tuple[PrecisionName, ...]

    def unavailable(self) -> str | None:
        """Return why this machine cannot write this format, or None."""

    def check(self, options: WriteOptions) -> None:
        """Raise `UsageError` for options that cannot be written; called before any work."""

    def write(self, graph: Graph, options: WriteOptions) -> FileContent:
        """Return the file of one part.

        Equal inputs and versions give equal bytes in every format but `ort` and `aoti`. No path of this machine is in
        a file.
        """

    def lint(
        self, content: FileContent, name: str, opset: int | None, precision: PrecisionName = FULL
    ) -> Iterable[Finding]:
        """Return what reading the file `name` shows before it is run; raises whatever its reader raises.

        `opset` is the operator set that an ONNX file must have; None where no manifest states one.
        """

    def machine(self, content: FileContent) -> str:
        """Return the machine that the file needs, such as "linux x86_64 AVX2"; empty if any machine can run it."""

    def providers(self) -> tuple[str, ...]:
        """Return what can run a file of this format on this machine, the CPU first."""

    def session_options(self, provider: str) -> tuple[SessionOptions, ...]:
        """Return all options that parity opens a file with on a provider."""

    def open(self, content: FileContent, spec: PartSpec, options: SessionOptions) -> Runner:
        """Load a file for running; raise `TargetError` unless it runs on the requested provider."""
