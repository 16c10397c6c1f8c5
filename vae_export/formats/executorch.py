"""ExecuTorch programs, for phones and embedded devices: https://docs.pytorch.org/executorch/stable/

XNNPACK computes the operators that it supports, and ExecuTorch's portable kernels compute the others. Memory is planned
when a program is written, so that each program has a largest batch. The runner splits larger batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vae_export.artifact.manifest import FileContent
from vae_export.contract import PartSpec
from vae_export.errors import ModelError
from vae_export.formats._torch import torch_runner
from vae_export.formats.base import Finding, Format, Runner, StatedFile, WriteOptions, machine_traces
from vae_export.session_options import SessionOptions
from vae_export.system.extras import missing, require
from vae_export.system.streams import silenced

if TYPE_CHECKING:
    from torch import Tensor

    from vae_export.capture import Graph

#: The largest batch: small enough for the memory of a phone, and large enough that the overhead of a call is small.
MAX_BATCH = 64
#: Bytes 4 and 5 of a program: the FlatBuffer identifier is "ET12" or a later one.
_IDENTIFIER = b"ET"


class ExecuTorch(Format):
    """Programs for batches of 1 to `MAX_BATCH`, run by ExecuTorch's Python runtime."""

    name = "executorch"
    suffix = ".pte"
    extra = "executorch"
    packages = ("executorch", "torch")
    engine = "executorch"
    summary = f"ExecuTorch's program for phones and embedded devices, batches of 1 to {MAX_BATCH}"
    danger = "is checked by nobody before ExecuTorch maps it"
    may_crash = True

    def unavailable(self) -> str | None:
        """Return the reason why programs cannot be written, or None."""
        error = missing("export", "torch") or missing(self.extra, "executorch")
        return None if error is None else error.line()

    def write(self, graph: Graph, options: WriteOptions) -> FileContent:  # noqa: ARG002 -- a program has no room for metadata
        """Return the program; raise `ModelError` if ExecuTorch cannot lower the graph. A program stores no metadata."""
        with silenced():
            from executorch.backends.xnnpack.partition import config
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            # XNNPACK's sigmoid gives NaN for numbers of 1e30; the portable kernel gives 0 and 1.
            kept = [known for known in config.ALL_PARTITIONER_CONFIGS if known.__name__ != "SigmoidConfig"]
            captured = graph.capture_program(MAX_BATCH)
            try:
                lowered = to_edge_transform_and_lower(captured, partitioner=[XnnpackPartitioner(configs=kept)])
                return FileContent(bytes(lowered.to_executorch().buffer))
            except Exception as error:  # its passes may raise anything
                got = f"{type(error).__name__}: {error}"[:400]
                raise ModelError("graph cannot be lowered", where=graph.spec.part, got=got) from error

    def lint(self, content: FileContent, stated: StatedFile) -> Iterator[Finding]:
        """Find traces of this machine; raise `ValueError` for another format. Capture refuses stochastic ops."""
        if content.data[4:6] != _IDENTIFIER:
            raise ValueError("not an ExecuTorch program")
        yield from machine_traces(content.data, stated.name)

    def providers(self) -> tuple[str, ...]:
        """Return the CPU if ExecuTorch is installed, else nothing."""
        return ("cpu",) if self.unavailable() is None else ()

    def session_options(self, provider: str) -> tuple[SessionOptions, ...]:
        """Return one thread only, because the process has one pool, which must not be resized under open programs."""
        return (SessionOptions(provider, threads=1),)

    def open(self, content: FileContent, spec: PartSpec, options: SessionOptions) -> Runner:
        """Load a program; raise `TargetError` for any provider but "cpu". The threads of the process are set."""
        require(self.extra, "executorch")
        self.check_provider(options.provider)
        with silenced():
            from executorch.extension.pybindings import portable_lib
            from executorch.runtime import Runtime

            if portable_lib._threadpool_get_thread_count() != options.threads:
                portable_lib._unsafe_reset_threadpool(options.threads)
            program = Runtime.get().load_program(content.data)
            loaded = _LoadedProgram(program, program.load_method("forward"))
        return torch_runner(loaded, spec, options)


@dataclass(frozen=True)
class _LoadedProgram:
    """A method with its program, which must stay alive because the method reads its memory."""

    program: Any
    method: Any

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        import torch

        pieces = zip(*(torch.split(tensor, MAX_BATCH) for tensor in inputs), strict=True)
        # The next run overwrites the memory of the outputs.
        outputs = [[output.clone() for output in self.method.execute(piece)] for piece in pieces]
        return tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))
