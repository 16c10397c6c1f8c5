"""TorchScript, the easiest way into a C++ program through LibTorch.

PyTorch calls it a legacy format: deprecated since 2.10, unsupported on Python 3.14. It is supported here for as long
as PyTorch can write it.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vae_export.artifact.manifest import FileContent
from vae_export.contract import PartSpec
from vae_export.errors import ModelError
from vae_export.formats._torch import (
    archive_traces,
    check_device,
    rewritten,
    torch_devices,
    torch_runner,
    torch_session_options,
)
from vae_export.formats.base import Finding, Runner, WriteOptions
from vae_export.precision import FULL, PrecisionName
from vae_export.session_options import SessionOptions
from vae_export.system.extras import missing

if TYPE_CHECKING:
    from vae_export.capture import Graph


#: Operators that take numbers from a generator. Dropout is one where its last input, `train`, is true; traced in eval
#: mode and frozen it is gone altogether.
_DRAWS = re.compile(r"aten::(?:rand\w*|normal\w*|bernoulli\w*|multinomial|\w*dropout\w*)\b")


class TorchScript:
    """Traced and frozen modules. One is a program: never a stranger's is loaded."""

    name = "torchscript"
    suffix = ".torchscript.pt"
    sidecars: tuple[str, ...] = ()
    extra = "export"
    packages: tuple[str, ...] = ("torch",)
    summary = "for C++ through LibTorch; PyTorch calls it legacy"
    danger = "is a program"
    may_crash = False
    is_slow = False
    precisions: tuple[PrecisionName, ...] = ("fp32", "bf16", "fp16")

    def unavailable(self) -> str | None:
        if sys.version_info >= (3, 14):
            return "PyTorch does not support TorchScript on Python 3.14; use Python 3.11 to 3.13, or --format pt2"
        error = missing(self.extra, "torch")
        return None if error is None else error.line()

    def check(self, options: WriteOptions) -> None:
        """It has no options that could be wrong."""

    def write(self, graph: Graph, options: WriteOptions) -> FileContent:
        import torch

        graph = graph.at(options.precision)
        graph.check_program()  # tracing would record stochastic ops without a word
        buffer = io.BytesIO()
        # check_trace would run the module twice and compare at a tolerance of its own, and the tracer warns of each
        # Python value it takes from a shape: parity, with several batches, does both better.
        with _deprecation_known(), _fresh_names(), warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]  # not in `__all__`
            try:
                traced = torch.jit.trace(graph.module, graph.example, check_trace=False)
                frozen = torch.jit.freeze(traced.eval())
            except Exception as error:  # the tracer raises whatever the module's code led it to
                raise ModelError(
                    "module cannot be traced", where=graph.spec.part, got=f"{type(error).__name__}: {error}"
                ) from error
            # To memory: torch.jit.save to a path aborts the process on a full disk (pytorch#156955).
            torch.jit.save(frozen, buffer, _extra_files=dict(options.metadata))
        # Their .debug_pkl holds source lines with the paths of this machine.
        return FileContent(
            rewritten(buffer.getvalue(), lambda name, data: None if name.endswith(".debug_pkl") else data)
        )

    def machine(self, content: FileContent) -> str:  # noqa: ARG002 -- it runs anywhere
        return ""

    def providers(self) -> tuple[str, ...]:
        return torch_devices() if self.unavailable() is None else ()

    def lint(self, content: FileContent, name: str, opset: int, precision: PrecisionName = FULL) -> Iterator[Finding]:  # noqa: ARG002 -- opset is ONNX's, and rules are the same for every precision
        """Operators that draw, and traces of this machine in everything but the weights."""
        import torch

        yield from archive_traces(content.data, name)
        with _deprecation_known():
            module = torch.jit.load(io.BytesIO(content.data), map_location="cpu")
        for operator in _DRAWS.findall(str(module.inlined_graph)):
            yield Finding("random-operator", "error", name, operator)

    def session_options(self, provider: str) -> tuple[SessionOptions, ...]:
        return torch_session_options(provider)

    def open(self, content: FileContent, spec: PartSpec, options: SessionOptions) -> Runner:
        import torch

        check_device(options.provider)
        with _deprecation_known():
            module = torch.jit.load(io.BytesIO(content.data), map_location=options.provider)
            return torch_runner(module, spec, options)


@contextlib.contextmanager
def _deprecation_known() -> Iterator[None]:
    """torch.jit is deprecated: DeprecationWarning in 2.10 to 2.13, FutureWarning from 2.14. The docs say so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=r".*torch\.jit", category=FutureWarning)
        yield


@contextlib.contextmanager
def _fresh_names() -> Iterator[None]:
    """Traced classes are numbered through the process; numbered from zero, equal graphs give equal bytes."""
    import torch
    from torch.jit import _state

    before = _state._python_cu
    _state._python_cu = torch._C.CompilationUnit()
    try:
        yield
    finally:
        _state._python_cu = before
