"""Programs of torch.export. They are not for archiving, because newer versions of PyTorch may not load them."""

from __future__ import annotations

import copy
import io
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vae_export.artifact.manifest import FileContent
from vae_export.contract import PartSpec
from vae_export.formats._torch import TorchFormat, archive_traces, torch_runner
from vae_export.formats.base import Finding, Runner, StatedFile, WriteOptions
from vae_export.formats.structure import Structure
from vae_export.precision import PrecisionName
from vae_export.session_options import SessionOptions

if TYPE_CHECKING:
    import torch

    from vae_export.capture import Graph


class Pt2(TorchFormat):
    """Programs of torch.export. Loading one may run code: files of unknown origin are refused."""

    name = "pt2"
    suffix = ".pt2"
    runs_code = True
    summary = "torch.export's program, for PyTorch of the same version and for AOTInductor"
    precisions: tuple[PrecisionName, ...] = ("fp32", "bf16", "fp16")

    def write(self, graph: Graph, options: WriteOptions) -> FileContent:
        """Return the program, converted to the precision."""
        import torch

        program = copy.copy(graph.at(options.precision).program)  # formats share the original
        # The inputs that it was captured with would be stored as a pickle, and nothing needs them.
        program._example_inputs = None
        buffer = io.BytesIO()
        # To memory, because saving to a path aborts the process on a full disk (pytorch#156955).
        torch.export.save(program, buffer, extra_files=dict(options.metadata))
        return FileContent(buffer.getvalue())

    def lint(self, content: FileContent, stated: StatedFile) -> Iterator[Finding]:
        """Find stochastic ops, weights that the program changes, and traces of this machine in all but the weights."""
        from vae_export.capture import is_stochastic

        yield from archive_traces(content.data, stated.name)
        program = _load(content.data)
        for node in program.graph.nodes:
            if is_stochastic(node):
                yield Finding("random-operator", "error", f"{stated.name}, node '{node.name}'", str(node.target))
        signature = program.graph_signature
        for written in (*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()):
            yield Finding("hidden-state", "error", stated.name, f"it writes to '{written}'")

    def structure(self, content: FileContent) -> Structure:
        """Return the operators of the program; loading the file may run code."""
        from vae_export.formats.torch_structure import program_structure

        return program_structure(content.data, _load(content.data))

    def open(self, content: FileContent, spec: PartSpec, options: SessionOptions) -> Runner:
        """Load a program on the requested device; raise `TargetError` if this machine lacks the device."""
        from torch.export.passes import move_to_device_pass

        self.check_provider(options.provider)
        program = _load(content.data)
        if options.provider != "cpu":
            program = move_to_device_pass(program, options.provider)
        return torch_runner(program.module(), spec, options)


def _load(data: bytes) -> torch.export.ExportedProgram:
    """Load a program, without logging the traceback of an error that is raised anyway."""
    import torch

    log = logging.getLogger("torch.export")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        return torch.export.load(io.BytesIO(data))
    finally:
        log.setLevel(before)
