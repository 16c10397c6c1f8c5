"""Every error a user can meet. Each class carries the exit code that the command line ends with.

    VaeExportError                 1
    ├── UsageError                 2   an option that makes no sense
    │   └── OutputExistsError          a target that is there already, without --force
    ├── InputError                 3   something given to us cannot be read or does not fit
    │   ├── DataError                  images
    │   ├── CheckpointError            weights, config, provenance
    │   └── ModelError                 encoder, decoder, exported graph
    ├── IntegrityError             4   a hash or a manifest does not match the bytes
    ├── ParityError                5   the exported file does not compute what PyTorch computed
    └── MachineError               6   this machine lacks something
        ├── MissingExtraError          an optional dependency; names the pip line
        ├── TargetError                a device or provider that is not there
        ├── StorageError               disk full, folder read-only, run locked
        └── OutOfMemoryError           Python's MemoryError, as one line

`Interrupted` and `Terminated` (130 and 143) stand apart: they are no errors, and `except Exception` must not
swallow them.
"""

from __future__ import annotations

import signal


class VaeExportError(Exception):
    """Base of all errors of this package; caught once, in `vae_export.cli`.

    The message is one line: WHAT: WHERE; expected X, got Y; do Z. Only `what` is required.
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
        """The whole message on one line, whatever line breaks its parts hold."""
        text = self.what if self.where is None else f"{self.what}: {self.where}"
        if self.expected is not None:
            text += f"; expected {self.expected}"
        if self.got is not None:
            text += f"; got {self.got}" if self.expected is None else f", got {self.got}"
        if self.do is not None:
            text += f"; {self.do}"
        return " ".join(text.split())


class UsageError(VaeExportError):
    """An option or argument that makes no sense."""

    exit_code = 2


class OutputExistsError(UsageError):
    """A target that is there already, without --force."""

    def __init__(self, path: object) -> None:
        super().__init__("output exists", where=path, do="pass --force to replace it, or --out to write elsewhere")


class InputError(VaeExportError):
    """Something given to us cannot be read or does not fit."""

    exit_code = 3


class DataError(InputError):
    """Images."""


class CheckpointError(InputError):
    """Weights, config or provenance of a checkpoint."""


class ModelError(InputError):
    """An encoder, a decoder or an exported graph."""


class IntegrityError(VaeExportError):
    """A hash or a manifest does not match the bytes."""

    exit_code = 4


class ParityError(VaeExportError):
    """An exported file does not compute what PyTorch computes."""

    exit_code = 5


class MachineError(VaeExportError):
    """This machine lacks something."""

    exit_code = 6


class MissingExtraError(MachineError):
    """An optional dependency; names the pip line that brings it."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"{module} is not installed", do=f"run: pip install 'vae-export[{extra}]'")


class TargetError(MachineError):
    """A device or provider that is not there, or does not work."""


class StorageError(MachineError):
    """Disk full, folder read-only, run locked."""


class OutOfMemoryError(MachineError):
    """Python's MemoryError, as one line."""

    def __init__(self, detail: str) -> None:
        super().__init__("out of memory", got=detail or None, do="try a smaller --batch-size")


class Interrupted(KeyboardInterrupt):
    """SIGINT, after the work at hand was saved."""

    exit_code = 128 + signal.SIGINT


class Terminated(KeyboardInterrupt):
    """SIGTERM. A `KeyboardInterrupt`, so that code which saves on Ctrl-C saves on this one too."""

    exit_code = 128 + signal.SIGTERM
