"""Everything that one measurement sets side by side, by name, and how a child process opens it.

side                            what a call of it is
eager/cpu                       the checkpoint's module in PyTorch; what all ratios are to
compile/cpu                     the same after `torch.compile`, which compiles for a batch of 1 and for others
runtime/CPUExecutionProvider    `vae_export.load(…).run(…)` with all its checks: what a Python application gets
onnx/CPUExecutionProvider …     an exported file on each target that runs here, its engine's own call
products, weights               the machine's limit: see `vae_export.bench.roofline`
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vae_export.contract import Array, Part, PartSpec
from vae_export.errors import UsageError
from vae_export.formats.base import Bound, Runner, Setting

if TYPE_CHECKING:
    from vae_export.capture import Graph

EAGER, COMPILE, RUNTIME = "eager/cpu", "compile/cpu", "runtime/CPUExecutionProvider"
PRODUCTS, WEIGHTS = "products", "weights"
#: Sides that are no exported file.
OWN = (EAGER, COMPILE, RUNTIME)
LIMITS = (PRODUCTS, WEIGHTS)


@dataclass(frozen=True)
class Opening:
    """How an exported file is opened; the number of threads in the setting is replaced by those that are measured."""

    file: str
    format: str
    provider: str
    setting: Setting

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Opening:
        setting = Setting(**(data["setting"] | {"switches": tuple(data["setting"]["switches"])}))
        return cls(data["file"], data["format"], data["provider"], setting)


@dataclass(frozen=True)
class Subject:
    """What is measured, as a child process is told it.

    Attributes:
        export: folder with the manifest.
        checkpoint: that it was made from.
        part: which graph.
        side: one of the names above.
        opened: for an exported file, how.
    """

    export: str
    checkpoint: str
    part: Part
    side: str
    opened: Opening | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Subject:
        return cls(**(dict(data) | {"opened": data["opened"] and Opening.from_json(data["opened"])}))

    def open(self, threads: int) -> Runner:
        """Load it, ready to bind batches; raises whatever keeps it from that."""
        match self.side:
            case "eager/cpu":
                return _module(self.graph(), threads)
            case "compile/cpu":
                return _compiled(self.graph(), threads)
            case "runtime/CPUExecutionProvider":
                return _runtime(self.export, self.part, threads)
            case "products" | "weights":
                from vae_export.bench.roofline import products, weights

                return (products if self.side == PRODUCTS else weights)(self.graph(), threads)
        return self._file(threads)

    def graph(self) -> Graph:
        """The part as PyTorch has it."""
        from vae_export.capture import capture
        from vae_export.models.checkpoint import load_checkpoint
        from vae_export.sources import Source

        return capture(Source.of(load_checkpoint(Path(self.checkpoint))), self.part)

    def _file(self, threads: int) -> Runner:
        from vae_export.artifact.folder import open_artifact, read_content
        from vae_export.formats import FORMATS

        if self.opened is None:
            raise UsageError("unknown side", got=self.side)
        artifact, how = open_artifact(self.export), self.opened
        content = read_content(artifact, next(entry for entry in artifact.manifest.files if entry.name == how.file))
        spec = artifact.manifest.contract.spec(self.part)
        return FORMATS[how.format].open(content, spec, how.provider, replace(how.setting, threads=threads))


def make_inputs(spec: PartSpec, batch: int) -> dict[str, Array]:
    """Numbers as an application has them: pixels over their range, latents and noise from a standard normal."""
    rng = np.random.default_rng(0)
    return {
        tensor.name: (
            rng.uniform(tensor.low, tensor.high, (batch, *tensor.item))
            if tensor.is_bounded
            else rng.standard_normal((batch, *tensor.item))
        ).astype(np.float32)
        for tensor in spec.inputs
    }


def _module(graph: Graph, threads: int) -> Runner:
    from vae_export.formats._torch import torch_runner

    return torch_runner(graph.module, graph.spec, "cpu", Setting(threads))


def _compiled(graph: Graph, threads: int) -> Runner:
    import torch

    from vae_export.formats._torch import torch_runner

    # Else every batch size would be compiled anew, until the compiler gives up on the module.
    return torch_runner(torch.compile(graph.module, dynamic=True), graph.spec, "cpu", Setting(threads))


def _runtime(export: str, part: Part, threads: int) -> Runner:
    from vae_export.runtime import load

    model = load(export, threads=threads)

    def bind(inputs: Mapping[str, Array]) -> AbstractContextManager[Bound]:
        given = dict(inputs)
        return nullcontext(Bound(lambda: model.run(part, **given), lambda outputs: outputs))

    return Runner(bind)
