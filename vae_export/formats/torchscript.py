"""TorchScript, the easiest format for C++ programs that use LibTorch.

PyTorch has deprecated it in 2.10 and does not support it on Python 3.14. It stays here as long as PyTorch can write it.
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from vae_export.artifact.manifest import FileContent
from vae_export.contract import Part, PartSpec
from vae_export.errors import ModelError
from vae_export.formats._torch import (
    TorchFormat,
    archive_traces,
    rewrite_archive,
    torch_runner,
)
from vae_export.formats.base import Finding, Runner, StatedFile, WriteOptions
from vae_export.formats.structure import Structure
from vae_export.formats.torchscript_lint import lint_program
from vae_export.precision import PrecisionName
from vae_export.session_options import SessionOptions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vae_export.capture import Graph


class TorchScript(TorchFormat):
    """Traced and frozen modules. Loading one may run code: files of unknown origin are refused."""

    name = "torchscript"
    suffix = ".torchscript.pt"
    summary = "for C++ through LibTorch; PyTorch calls it legacy"
    precisions: tuple[PrecisionName, ...] = ("fp32", "bf16", "fp16")

    def unavailable(self) -> str | None:
        """Return the reason why TorchScript cannot be written, or None."""
        if sys.version_info >= (3, 14):
            return "PyTorch does not support TorchScript on Python 3.14; use Python 3.11 to 3.13, or --format pt2"
        return super().unavailable()

    def write(self, graph: Graph, options: WriteOptions) -> FileContent:
        """Return the traced and frozen module; raise `ModelError` if it cannot be traced."""
        graph = graph.at(options.precision)
        graph.check_program()  # tracing would record stochastic ops without a word
        archive = traced(graph.module, graph.example, graph.spec.part, options.metadata)
        # .debug_pkl records hold source lines with paths of this machine.
        return FileContent(rewrite_archive(archive, lambda name, data: None if name.endswith(".debug_pkl") else data))

    def lint(self, content: FileContent, stated: StatedFile) -> Iterator[Finding]:
        """Find stochastic ops, state and branches, and traces of this machine in everything but the weights."""
        import torch

        yield from archive_traces(content.data, stated.name)
        with _ignored_deprecation():
            module = torch.jit.load(io.BytesIO(content.data), map_location="cpu")
        yield from lint_program(module, stated.name)

    def structure(self, content: FileContent) -> Structure:
        """Return the operators of the module with everything that it calls; loading the file may run code."""
        from vae_export.formats.torch_structure import script_structure

        with _ignored_deprecation():
            return script_structure(content.data)

    def open(self, content: FileContent, spec: PartSpec, options: SessionOptions) -> Runner:
        """Load a module on the requested device; raise `TargetError` if this machine lacks the device."""
        import torch

        self.check_provider(options.provider)
        with _ignored_deprecation():
            module = torch.jit.load(io.BytesIO(content.data), map_location=options.provider)
            return torch_runner(module, spec, options)


def traced(
    module: nn.Module, example: tuple[Tensor, ...], part: Part, metadata: Mapping[str, str] = MappingProxyType({})
) -> bytes:
    """Trace and freeze a module.

    Args:
        module: the module, in eval mode.
        example: its inputs.
        part: the part in it, for messages.
        metadata: text entries for the file.

    Returns:
        The TorchScript file, in which source lines and paths of this machine are.

    Raises:
        ModelError: the module cannot be traced.
    """
    import torch

    from vae_export.capture import user_code

    buffer = io.BytesIO()
    # Parity checks several batches with measured tolerances: neither check_trace nor the tracer's warnings of Python
    # values that come from shapes add anything to that.
    with user_code(), _ignored_deprecation(), _fresh_names(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]  # not in `__all__`
        try:
            frozen = torch.jit.freeze(torch.jit.trace(module, example, check_trace=False).eval())
        except Exception as error:  # the tracer may raise anything
            raise ModelError("module cannot be traced", where=part, got=f"{type(error).__name__}: {error}") from error
        # To memory, because saving to a path aborts the process on a full disk (pytorch#156955).
        torch.jit.save(frozen, buffer, _extra_files=dict(metadata))
    return buffer.getvalue()


@contextlib.contextmanager
def _ignored_deprecation() -> Iterator[None]:
    """Ignore torch.jit's warnings: a DeprecationWarning in 2.10 to 2.13, a FutureWarning from 2.14 on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=r".*torch\.jit", category=FutureWarning)
        yield


@contextlib.contextmanager
def _fresh_names() -> Iterator[None]:
    """Number traced classes from zero in each block, so that equal graphs give equal bytes."""
    import torch
    from torch.jit import _state

    before = _state._python_cu
    _state._python_cu = torch._C.CompilationUnit()
    try:
        yield
    finally:
        _state._python_cu = before
