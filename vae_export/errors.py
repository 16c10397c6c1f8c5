"""All errors of this package. Each class has its exit code for the command line.

    VaeExportError                 1
    ├── UsageError                 2   an option or argument that is not allowed
    │   └── OutputExistsError          an output that exists, without --force
    ├── InputError                 3   an input that cannot be read or does not fit
    │   ├── DataError                  images
    │   ├── CheckpointError            weights, config, provenance
    │   └── ModelError                 encoder, decoder, exported graph
    ├── IntegrityError             4   a hash or a manifest does not match the bytes
    ├── ParityError                5   the exported file does not compute what PyTorch computed
    └── MachineError               6   this machine lacks something
        ├── MissingExtraError          an optional dependency; names the pip line
        ├── TargetError                a device or provider that is missing
        ├── StorageError               disk full, folder read-only, run locked
        └── OutOfMemoryError           Python's MemoryError, as one line

`Interrupted` and `Terminated` (130 and 143) are not errors. They derive from `KeyboardInterrupt`, so that
`except Exception` does not catch them.
"""

from __future__ import annotations

import difflib
import signal
from collections.abc import Collection


class VaeExportError(Exception):
    """The base class of all errors of this package, which `vae_export.cli` catches in one place.

    The message is one line: WHAT: WHERE; expected X, got Y; DO. Only `what` is required.

    Args:
        what: the problem.
        where: the file, option or tensor that has the problem.
        expected: the values that are allowed.
        got: the value that was found.
        do: the next step for the user.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        got: object = None,
        do: str | None = None,
    ) -> None:
        self.what, self.where, self.expected, self.got, self.do = what, where, expected, got, do
        super().__init__(self.line())

    def line(self) -> str:
        """Return the whole message as one line, without the line breaks in its parts."""
        text = self.what if self.where is None else f"{self.what}: {self.where}"
        if self.expected is not None:
            text += f"; expected {self.expected}"
        if self.got is not None:
            text += f"; got {self.got}" if self.expected is None else f", got {self.got}"
        if self.do is not None:
            text += f"; {self.do}"
        return " ".join(text.split())


class UsageError(VaeExportError):
    """An option or argument that is not allowed."""

    exit_code = 2


def unknown_choice(what: str, choices: Collection[str], got: str) -> UsageError:
    """Return an error about a value that is none of `choices`, with a suggestion if it resembles one of them."""
    near = difflib.get_close_matches(got.lower(), choices, 1)
    do = f"did you mean {near[0]}?" if near else None
    return UsageError(f"unknown {what}", expected=" | ".join(choices), got=got, do=do)


class OutputExistsError(UsageError):
    """An output exists, and --force was not given."""

    def __init__(self, path: object, do: str = "pass --force to replace it, or --out to write elsewhere") -> None:
        super().__init__("output exists", where=path, do=do)


class InputError(VaeExportError):
    """An input cannot be read or does not fit."""

    exit_code = 3


class DataError(InputError):
    """Images or latents cannot be read or do not fit."""


class CheckpointError(InputError):
    """The weights, config or provenance of a checkpoint cannot be read or do not fit."""


class ModelError(InputError):
    """An encoder, a decoder or an exported graph cannot be read or does not fit."""


class IntegrityError(VaeExportError):
    """A hash or a manifest does not match the bytes."""

    exit_code = 4


class ParityError(VaeExportError):
    """An exported file does not compute what PyTorch computes."""

    exit_code = 5


class MachineError(VaeExportError):
    """This machine lacks something that is needed."""

    exit_code = 6


class MissingExtraError(MachineError):
    """An optional dependency is missing; the message names the pip command that installs it."""

    def __init__(self, module: str, extra: str) -> None:
        do = f"run: pip install 'vae-export[{extra}]'"
        if extra == "litert":  # it needs older packages than the other extras do
            do += " in an environment of its own: docs/formats.md#litert"
        super().__init__(f"{module} is not installed", do=do)


class TargetError(MachineError):
    """A device or provider is missing or does not work."""


class StorageError(MachineError):
    """The disk is full, a folder is read-only, or a run is locked."""


class OutOfMemoryError(MachineError):
    """There is not enough memory."""

    def __init__(self, detail: str) -> None:
        super().__init__("out of memory", got=detail or None, do="try a smaller --batch-size")


class Interrupted(KeyboardInterrupt):
    """The process received SIGINT and has saved its current work."""

    exit_code = 128 + signal.SIGINT


class Terminated(KeyboardInterrupt):
    """The process received SIGTERM. This is a `KeyboardInterrupt`, so that code that saves on Ctrl-C saves here too."""

    exit_code = 128 + signal.SIGTERM
