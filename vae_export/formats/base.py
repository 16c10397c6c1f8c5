"""The interface of a file format. A new format needs one module beside this one and one line in `FORMATS`."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vae_export.artifact.manifest import FileContent
from vae_export.contract import Array, PartSpec
from vae_export.errors import ModelError, TargetError
from vae_export.formats.structure import Structure
from vae_export.precision import FULL, PrecisionName
from vae_export.session_options import SessionOptions
from vae_export.system.extras import missing

if TYPE_CHECKING:
    from vae_export.capture import Graph

#: ONNX operator set 20: the newest that onnxruntime-web, OpenVINO and OpenCV can read.
OPSET = 20

#: An error fails the certificate; a warning is recorded in it.
Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """A fault that is found by reading a file, before it is run.

    Attributes:
        rule: name of the rule, such as "random-operator".
        severity: "error" or "warning".
        where: the file, and the node or tensor in it.
        detail: the value that was found.
    """

    rule: str
    severity: Severity
    where: str
    detail: str

    def line(self) -> str:
        """Return the finding as one line of text."""
        return f"{self.severity}: {self.rule}: {self.where}; {self.detail}"


#: Patterns of absolute paths on Linux, macOS and Windows, and of lines of a Python traceback.
_TRACES = (
    re.compile(rb'File \\?"[^"]{1,200}", line \d+'),
    re.compile(rb"(?<![\w.])/(?:home|root|Users|usr|opt|tmp|var|mnt|work|srv|data)/[\w.\-]{2,}/[\w.\-/]{2,}"),
    re.compile(rb"[A-Za-z]:\\\\?(?:Users|Windows|Program Files)\\\\?[\w.\- ]{2,}"),
    re.compile(rb"site-packages/[\w./\-]{2,}"),
)


def machine_traces(text: bytes, where: str) -> Iterator[Finding]:
    """Find paths and source lines of the machine that wrote a file. They reveal private data and make files differ.

    Args:
        text: bytes of the file without its weights.
        where: the name of the file, for the findings.
    """
    for pattern in _TRACES:
        if (match := pattern.search(text)) is not None:
            yield Finding("machine-trace", "error", where, match.group().decode("utf-8", "replace"))


@dataclass(frozen=True)
class BoundCall:
    """A batch whose inputs were given to the engine, so that it can be computed any number of times.

    Attributes:
        call: function that computes once; the engine's own call, so that `bench` times the engine alone.
        fetch: function from the result of `call` to output arrays by name.
    """

    call: Callable[[], Any]
    fetch: Callable[[Any], dict[str, Array]]


@dataclass(frozen=True)
class Runner:
    """An opened file. Calling it takes input arrays by name and returns output arrays by name.

    Attributes:
        bind: function from input arrays by name to a context in which they are bound; threads and modes that belong to
            the whole process are set on entry and restored on exit.
        run: function that also checks inputs and outputs; None if the engine has no such call.
    """

    bind: Callable[[Mapping[str, Array]], AbstractContextManager[BoundCall]]
    run: Callable[[Mapping[str, Array]], dict[str, Array]] | None = None

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if self.run is not None:
            return self.run(inputs)
        with self.bind(inputs) as bound:
            return bound.fetch(bound.call())


def check_fixed_sizes(spec: PartSpec, engine: str) -> None:
    """Raise `ModelError` for a tensor with a free size besides the batch, which `engine` cannot have."""
    for tensor in (*spec.inputs, *spec.outputs):
        if any(isinstance(size, str) for size in tensor.item):
            where = f"{spec.part}, tensor '{tensor.name}'"
            raise ModelError(f"{engine} models have fixed sizes", where=where, expected="numbers", got=tensor.item)


def row_runner(
    spec: PartSpec, prepare: Callable[[Mapping[str, Array]], Any], compute: Callable[[Any], Sequence[Any]]
) -> Runner:
    """Return a runner of an engine that computes one row at a time.

    Args:
        spec: the inputs and outputs of the part, with sizes in numbers.
        prepare: function from the inputs of one row by name, each (*item), to the argument of `compute`.
        compute: function that returns the outputs of one row in the order of `spec`, each (*item) or (1, *item), as
            arrays or as something that NumPy can copy.

    Returns:
        The runner. Fetching its outputs raises `ModelError` if one has another shape.
    """
    import numpy as np

    @contextlib.contextmanager
    def bind(inputs: Mapping[str, Array]) -> Iterator[BoundCall]:
        count = len(inputs[spec.inputs[0].name])
        rows = [prepare({tensor.name: inputs[tensor.name][row] for tensor in spec.inputs}) for row in range(count)]
        yield BoundCall(lambda: [compute(row) for row in rows], fetch)

    def fetch(rows: Sequence[Sequence[Any]]) -> dict[str, Array]:
        outputs = {}
        for place, tensor in enumerate(spec.outputs):
            arrays = [np.array(row[place]) for row in rows]
            if wrong := {array.shape for array in arrays} - {tensor.fixed_item, (1, *tensor.fixed_item)}:
                raise ModelError("wrong shape", where=tensor.name, expected=tensor.fixed_item, got=sorted(wrong)[0])
            outputs[tensor.name] = np.stack(arrays).reshape(-1, *tensor.fixed_item)
        return outputs

    return Runner(bind)


@dataclass(frozen=True)
class WriteOptions:
    """Options of one file to write.

    Attributes:
        metadata: text entries for the file, if its format can store them.
        opset: ONNX operator set.
        precision: precision of the numbers in the file, one of the format's `precisions`.
        calibration: inputs of the part by name, each (M, *item), for precisions with calibration.
    """

    metadata: Mapping[str, str] = field(default_factory=dict)
    opset: int = OPSET
    precision: PrecisionName = FULL
    calibration: Mapping[str, Array] | None = None


@dataclass(frozen=True)
class StatedFile:
    """The name, the operator set and the precision that a manifest states of a file.

    Attributes:
        name: its name, which findings begin with.
        opset: the operator set of an ONNX file; None is not checked.
        precision: the precision of its numbers.
    """

    name: str
    opset: int | None = None
    precision: PrecisionName = FULL


class Format(ABC):
    """A file format, which can write, check, open and run a part.

    Attributes:
        name: the name for `--format`.
        suffix: suffix of the files, after the part's name.
        sidecars: last suffixes of the sidecars of each file; most formats have none.
        extra: extra in `pip install 'vae-export[…]'` that writing needs.
        packages: packages whose versions affect the files and their results.
        engine: the package that runs the files.
        summary: one line for help and docs.
        danger: reason why files of unknown origin are never loaded, such as "is a program"; empty if they may be.
        runs_code: whether loading a file may run any code in it, before the first call.
        may_crash: whether the engine can crash the process, so that a child process runs each file first (see
            `vae_export.sandbox.crash_check`).
        is_reproducible: whether equal inputs and versions give equal bytes.
        left_out_of_all: why `--format all` leaves the format out, such as "it takes many seconds a part"; empty if not.
        precisions: precisions of the files, float32 first.
        known_providers: names of the engine's providers or devices, whether they are here or not.
    """

    name: str
    suffix: str
    sidecars: tuple[str, ...] = ()
    extra = "export"
    packages: tuple[str, ...]
    engine: str
    summary: str
    danger = ""
    runs_code = False
    may_crash = False
    is_reproducible = True
    left_out_of_all = ""
    precisions: tuple[PrecisionName, ...] = (FULL,)
    known_providers: tuple[str, ...] = ("cpu", "cuda")

    def unavailable(self) -> str | None:
        """Return the reason why this machine cannot write this format, or None if it can."""
        error = missing(self.extra, "torch", *self.packages)
        return None if error is None else error.line()

    def check(self, options: WriteOptions) -> None:  # noqa: B027 -- most formats can write all options
        """Raise `UsageError` for options that this format cannot write. This is called before any work."""

    def check_part(self, spec: PartSpec) -> None:  # noqa: B027 -- most formats can have any part
        """Raise `ModelError` for inputs or outputs that files of this format cannot have.

        This is called before any work, with sizes in numbers: capturing may find that free sizes are fixed.
        """

    def engine_version(self) -> str:
        """Return the version of the engine as it is loaded, such as that of onnxruntime-gpu in place of onnxruntime."""
        module = importlib.import_module(self.engine)
        return str(getattr(module, "__version__", None) or importlib.metadata.version(self.engine))

    @abstractmethod
    def write(self, graph: Graph, options: WriteOptions) -> FileContent:
        """Write the file of one part.

        Equal inputs and versions give equal bytes in every format except `ort` and `aoti`. Files contain no path of
        this machine.

        Args:
            graph: the captured part.
            options: metadata, operator set, precision and calibration inputs.

        Returns:
            The bytes of the file and of its sidecars.

        Raises:
            ModelError: the graph cannot be written in this format.
        """

    @abstractmethod
    def lint(self, content: FileContent, stated: StatedFile) -> Iterable[Finding]:
        """Find faults by reading a file; errors of the reader are raised.

        Args:
            content: the file.
            stated: what the manifest says of it.

        Returns:
            The faults; none if the file is good.
        """

    def structure(self, content: FileContent) -> Structure | None:  # noqa: ARG002 -- some files cannot be read as one
        """Return a file as a graph of operators and constants, or None where the format hides them.

        The file may be anybody's: errors of the reader are raised.
        """
        return None

    def required_machine(self, content: FileContent) -> str:  # noqa: ARG002 -- most files run anywhere
        """Return the required machine, such as "linux x86_64 AVX2", or "" if any machine can run the file."""
        return ""

    def without_vnni(self, precision: PrecisionName) -> Mapping[str, str]:  # noqa: ARG002 -- most need none
        """Return the engine's settings that a file needs on an x86-64 processor without VNNI; most need none."""
        return {}

    @abstractmethod
    def providers(self) -> tuple[str, ...]:
        """Return the providers or devices of this machine that can run files of this format, the CPU first."""

    def nondeterminism(self, provider: str) -> str:
        """Return the reason why a second run on a provider may give other bits, or "" if that is a fault."""
        return "" if "cpu" in provider.lower() else "a GPU may add in another order in each run"

    def session_options(self, provider: str) -> tuple[SessionOptions, ...]:
        """Return all session options of a provider, the engine's plain ones first: here, one thread and two."""
        return SessionOptions(provider, threads=1), SessionOptions(provider, threads=2)

    def options_to_test(
        self,
        provider: str,
        precision: PrecisionName,  # noqa: ARG002 -- most formats are tested alike in every precision
    ) -> tuple[SessionOptions, ...]:
        """Return all session options that parity tests files of a precision with on a provider."""
        return self.session_options(provider)

    @abstractmethod
    def open(self, content: FileContent, spec: PartSpec, options: SessionOptions) -> Runner:
        """Load a file for running.

        Args:
            content: the file.
            spec: the inputs and outputs of the part.
            options: provider, threads and other options.

        Returns:
            A function from input arrays by name to output arrays by name.

        Raises:
            TargetError: the file does not run on the requested provider.
            ModelError: the inputs or outputs of the file do not match the contract.
        """

    def open_stored(
        self, path: Path, read: Callable[[], FileContent], spec: PartSpec, options: SessionOptions
    ) -> Runner:
        """Load a file without holding its bytes afterwards; see `open`.

        Args:
            path: the file, with its sidecars beside it, for an engine that reads files itself.
            read: reads the file and compares its hash, for the others.
            spec: the inputs and outputs of the part.
            options: options of the session.
        """
        del path
        return self.open(read(), spec, options)

    def check_provider(self, provider: str) -> None:
        """Raise `TargetError` unless this machine can run files of this format on the provider."""
        if provider not in (providers := self.providers()):
            raise TargetError("device not found", where=f"{self.name}/{provider}", expected=" | ".join(providers))
