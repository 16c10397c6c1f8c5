"""The subjects of a benchmark, by name, and how a child process opens one.

subject                         one call of it
eager/cpu                       the checkpoint's module in PyTorch: the baseline of all ratios
compile/cpu                     the module after `torch.compile`, compiled for a batch of 1 and for others
runtime/CPUExecutionProvider    `vae_export.load(…).run(…)` with all its checks: what a Python application calls
onnx/CPUExecutionProvider …     an exported file on each target that runs here: a call of its engine
roofline/torch …                no call: times single products with one library, for `vae_export.bench.roofline`
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
from vae_export.formats.base import BoundCall, Runner
from vae_export.session_options import SessionOptions

if TYPE_CHECKING:
    from vae_export.capture import Graph

EAGER, COMPILE, RUNTIME = "eager/cpu", "compile/cpu", "runtime/CPUExecutionProvider"
#: Subjects that are not an exported file.
NOT_FILES = (EAGER, COMPILE, RUNTIME)
#: The start of the names of subjects that time kernels with a library.
_ROOFLINE = "roofline/"


@dataclass(frozen=True)
class ExportedFile:
    """An exported file and its session options, whose thread count is replaced by the measured one."""

    name: str
    format: str
    options: SessionOptions

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ExportedFile:
        """Return the file that `Subject.to_json` wrote as "file"."""
        options = SessionOptions(**(data["options"] | {"switches": tuple(data["options"]["switches"])}))
        return cls(data["name"], data["format"], options)


@dataclass(frozen=True)
class Subject:
    """A subject of a benchmark, in the form that is sent to its child process.

    Attributes:
        export: the folder with the manifest.
        checkpoint: the checkpoint that the export was made from.
        part: the part of the model.
        name: name of the subject, as listed in the module docstring.
        sizes: a value for each free size of the part.
        file: the exported file, or None for other subjects.
        model: what `NamedModel.to_json` gives, of a model without a checkpoint.
    """

    export: str
    checkpoint: str
    part: Part
    name: str
    sizes: Mapping[str, int]
    file: ExportedFile | None = None
    model: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the subject as JSON, which is sent to the child process."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Subject:
        """Return the subject that `to_json` wrote."""
        return cls(**(dict(data) | {"file": data["file"] and ExportedFile.from_json(data["file"])}))

    def open(self, threads: int) -> Runner:
        """Load the subject and return its runner; an engine may raise any exception."""
        match self.name:
            case "eager/cpu":
                return _eager_runner(self.graph(), threads)
            case "compile/cpu":
                return _compiled_runner(self.graph(), threads)
            case "runtime/CPUExecutionProvider":
                return _runtime_runner(self.export, self.part, threads)
        return self._open_file(threads)

    def graph(self) -> Graph:
        """Return the part of the model as a graph of PyTorch."""
        from vae_export.capture import capture
        from vae_export.models.checkpoint import load_checkpoint
        from vae_export.sources import NamedModel, Source

        if self.model is not None:
            return capture(NamedModel.from_json(self.model).open(), self.part)
        return capture(Source.of(load_checkpoint(Path(self.checkpoint))), self.part)

    def _open_file(self, threads: int) -> Runner:
        from vae_export.artifact.folder import open_artifact, read_content
        from vae_export.formats import FORMATS

        if self.file is None:
            raise UsageError("unknown subject", got=self.name)
        artifact, file = open_artifact(self.export), self.file
        content = read_content(artifact, next(entry for entry in artifact.manifest.files if entry.name == file.name))
        spec = artifact.manifest.contract.spec(self.part)
        return FORMATS[file.format].open(content, spec, replace(file.options, threads=threads))


def roofline_subject(library: str) -> str:
    """Return the name of the subject that times kernels with a library."""
    return f"{_ROOFLINE}{library}"


def library_of(subject: str) -> str:
    """Return the library of a subject that times kernels; others have none and give PyTorch."""
    return subject.removeprefix(_ROOFLINE) if subject.startswith(_ROOFLINE) else "torch"


def make_inputs(spec: PartSpec, batch: int, sizes: Mapping[str, int]) -> dict[str, Array]:
    """Return random inputs: uniform in their range, or standard normal without one.

    Args:
        spec: the part, with its inputs.
        batch: number of rows, N.
        sizes: a value for each free size of the part.

    Returns:
        Arrays (N, *item) by name.
    """
    rng = np.random.default_rng(0)
    return {tensor.name: tensor.draw(batch, rng) for tensor in spec.at(sizes).inputs}


def _eager_runner(graph: Graph, threads: int) -> Runner:
    from vae_export.formats._torch import torch_runner

    return torch_runner(graph.module, graph.spec, SessionOptions("cpu", threads))


def _compiled_runner(graph: Graph, threads: int) -> Runner:
    import torch

    from vae_export.formats._torch import torch_runner

    # Without dynamic=True each batch size is compiled separately, until the compiler gives up on the module.
    return torch_runner(torch.compile(graph.module, dynamic=True), graph.spec, SessionOptions("cpu", threads))


def _runtime_runner(export: str, part: Part, threads: int) -> Runner:
    from vae_export.runtime import load

    model = load(export, threads=threads)

    def bind(inputs: Mapping[str, Array]) -> AbstractContextManager[BoundCall]:
        given = dict(inputs)
        return nullcontext(BoundCall(lambda: model.run(part, **given), lambda outputs: outputs))

    return Runner(bind)
