"""What reading a file shows before it is run: a finding names the rule, how bad it is, and where.

What a format must be able to do. A new one is one file beside this and one line in the registry.
"""

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

#: An error fails the certificate; a warning is written down in it.
Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """Attributes:
    rule: its name, such as "random-operator".
    severity: error or warning.
    where: the file, and the node or tensor in it.
    detail: what was found.
    """

    rule: str
    severity: Severity
    where: str
    detail: str

    def line(self) -> str:
        return f"{self.severity}: {self.rule}: {self.where}; {self.detail}"


#: An absolute path of Linux, macOS or Windows, or a line of a Python traceback. Names that no model has by chance.
_TRACES = (
    re.compile(rb'File \\?"[^"]{1,200}", line \d+'),
    re.compile(rb"(?<![\w.])/(?:home|root|Users|usr|opt|tmp|var|mnt|work|srv|data)/[\w.\-]{2,}/[\w.\-/]{2,}"),
    re.compile(rb"[A-Za-z]:\\\\?(?:Users|Windows|Program Files)\\\\?[\w.\- ]{2,}"),
    re.compile(rb"site-packages/[\w./\-]{2,}"),
)


def machine_traces(text: bytes, where: str) -> Iterator[Finding]:
    """Paths and source lines of the machine that wrote `text`: they tell strangers about it, and change the bytes."""
    for pattern in _TRACES:
        if (match := pattern.search(text)) is not None:
            yield Finding("machine-trace", "error", where, match.group().decode("utf-8", "replace"))


#: ONNX operator set 20: the newest that onnxruntime-web, OpenVINO and OpenCV read as well.
OPSET = 20


@dataclass(frozen=True)
class Bound:
    """One batch whose inputs lie where the engine wants them, ready to be computed as often as one likes.

    Attributes:
        call: computes once; the engine's own call and nothing around it, so that this is what `bench` times.
        fetch: what `call` returned → output arrays by name.
    """

    call: Callable[[], Any]
    fetch: Callable[[Any], dict[str, Array]]


@dataclass(frozen=True)
class Runner:
    """An opened file. Called, it runs: input arrays by name → output arrays by name.

    Attributes:
        bind: input arrays by name → a block in which they are bound. Threads and modes that an engine keeps for the
            whole process are set on the way in and put back on the way out.
        run: a way of running that checks more than binding, calling and fetching does; None has no such way.
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
    """Attributes:
    metadata: text entries that go into the file where the format has room for them.
    opset: ONNX operator set.
    precision: of the numbers inside; one of the format's own.
    calibration: inputs of the part by name, for a precision that is calibrated.
    """

    metadata: Mapping[str, str] = field(default_factory=dict)
    opset: int = OPSET
    precision: PrecisionName = FULL
    calibration: Mapping[str, Array] | None = None


class Format(Protocol):
    """Attributes:
    name: as it is typed after --format.
    suffix: of its files, after the part's name.
    sidecars: the last suffixes of what must lie beside each of them: none, in most formats.
    extra: what to put into `pip install 'vae-export[…]'` to write it.
    packages: whose versions decide what is written and how it is run.
    summary: one line for help and docs.
    danger: why no file of a stranger is ever loaded, such as "is a program"; empty where one may be.
    may_crash: its engine can take the process down; a file is run in a child first (see `rehearsal`).
    is_slow: writing takes many seconds a part: `--format all` leaves it out.
    precisions: what its files can have, float32 first.
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
        """Why this format cannot be written on this machine, or None."""

    def check(self, options: WriteOptions) -> None:
        """Raise `UsageError` for options that no file can be written with. Asked before any work."""

    def write(self, graph: Graph, options: WriteOptions) -> FileContent:
        """Write one part to memory.

        Equal inputs and versions give equal bytes in every format but `ort` and `aoti`. No path of this machine is in
        a file.
        """

    def lint(self, content: FileContent, name: str, opset: int, precision: PrecisionName = FULL) -> Iterable[Finding]:
        """What reading the file `name` shows, before it is run."""

    def machine(self, content: FileContent) -> str:
        """What a machine must be to run this file, such as "linux x86_64 AVX2"; empty where any will do."""

    def providers(self) -> tuple[str, ...]:
        """What can run a file of this format here, the CPU first."""

    def session_options(self, provider: str) -> tuple[SessionOptions, ...]:
        """Every way of opening a file that parity tries on a provider."""

    def open(self, content: FileContent, spec: PartSpec, options: SessionOptions) -> Runner:
        """Load a file for running; raises `TargetError` if the provider is not really used."""
