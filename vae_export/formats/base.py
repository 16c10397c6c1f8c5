"""What a format must be able to do. A new one is one file beside this and one line in the registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from vae_export.contract import Array, PartSpec

if TYPE_CHECKING:
    from vae_export.graphs import Graph

#: Runs an opened file: input arrays by name → output arrays by name.
Runner = Callable[[Mapping[str, Array]], dict[str, Array]]


@dataclass(frozen=True)
class WriteOptions:
    """Attributes:
    metadata: text entries that go into the file where the format has room for them.
    opset: ONNX operator set.
    """

    metadata: Mapping[str, str] = field(default_factory=dict)
    opset: int = 20


class Format(Protocol):
    """Attributes:
    name: as it is typed after --format.
    suffix: of its files, after the part's name.
    extra: what to put into `pip install 'vae-export[…]'` to write it.
    summary: one line for help and docs.
    """

    name: str
    suffix: str
    extra: str
    summary: str

    def unavailable(self) -> str | None:
        """Why this format cannot be written on this machine, or None."""

    def write(self, graph: Graph, options: WriteOptions) -> bytes:
        """The whole file. Equal inputs and versions give equal bytes; no path of this machine is inside."""

    def providers(self) -> tuple[str, ...]:
        """What can run a file of this format here, the CPU first."""

    def open(self, data: bytes, spec: PartSpec, provider: str) -> Runner:
        """Load a file for running; raises `TargetError` if the provider is not really used."""
