"""AOTInductor packages: a part compiled to machine code, with its weights in one shared library.

Writing a package needs a C++ compiler. Running it needs PyTorch of the same version. It contains no Python, so that a
C++ program can load it too. https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html
"""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import sys
import warnings
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vae_export.artifact.manifest import FileContent
from vae_export.contract import PartSpec
from vae_export.errors import ModelError, TargetError
from vae_export.formats._torch import TorchFormat, archive_traces, rewrite_archive, torch_runner
from vae_export.formats.base import Finding, Runner, StatedFile, WriteOptions
from vae_export.session_options import SessionOptions
from vae_export.system.extras import missing

if TYPE_CHECKING:
    from vae_export.capture import Graph

#: Debug information is off, because it contains paths. "cpp.march" is empty, because otherwise the compiler uses all
#: instructions of this processor and not only those that the package names. The number of threads is that of the
#: process that runs the package, and not of the one that wrote it.
_COMPILER_OPTIONS = {
    "aot_inductor.enable_line_tables": False,
    "aot_inductor.enable_frame_pointer": False,
    "cpp.march": "",
    "cpp.dynamic_threads": True,
}
#: Keys by which a package's metadata names the machine that it was compiled for.
_MACHINE_KEYS = ("AOTI_PLATFORM", "AOTI_MACHINE", "AOTI_CPU_ISA")
#: Key of the instruction sets that the compiler may use beyond those of AOTI_CPU_ISA. Inductor adds their flags on
#: processors that have them, and does not record it (`torch._inductor.cpu_vec_isa`).
_ADDED_INSTRUCTIONS_KEY = "vae_export.added_instructions"
_ADDED_INSTRUCTIONS = {"-mavx512bf16": "AVX512_BF16", "-mamx-fp16": "AMX_FP16"}


class Aoti(TorchFormat):
    """AOTInductor packages, compiled for the processor that writes them. Their bytes depend on the compiler."""

    name = "aoti"
    suffix = ".aoti.pt2"
    summary = "machine code by AOTInductor, for PyTorch of the same version on a processor like this one"
    runs_code = True
    may_crash = True
    left_out_of_all = "it takes many seconds a part"

    def unavailable(self) -> str | None:
        """Return the reason why packages cannot be written, such as a missing compiler, or None."""
        compiler = None if _compiler() else "no C++ compiler: install g++ or clang++, or name one in CXX"
        return super().unavailable() or compiler

    def write(self, graph: Graph, options: WriteOptions) -> FileContent:
        """Compile the part to a package; raise `ModelError` if the compiler fails."""
        import torch
        from torch._inductor.runtime.cache_dir_utils import cache_dir

        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are about the compiler's own code
            metadata = dict(options.metadata)
            if added := _added_instructions():
                metadata[_ADDED_INSTRUCTIONS_KEY] = " ".join(added)
            configs = _COMPILER_OPTIONS | {"aot_inductor.metadata": metadata}
            try:
                torch._inductor.aoti_compile_and_package(graph.program, package_path=buffer, inductor_configs=configs)
            except Exception as error:  # the compiler may raise anything
                got = f"{type(error).__name__}: {error}"[:400]
                raise ModelError("graph cannot be compiled", where=graph.spec.part, got=got) from error
        return FileContent(rewrite_archive(buffer.getvalue(), _TraceRemover(cache_dir(), *torch.__path__)))

    def lint(self, content: FileContent, stated: StatedFile) -> Iterator[Finding]:
        """Find traces of this machine. Capture refuses stochastic ops, which machine code does not show."""
        yield from archive_traces(content.data, stated.name)

    def required_machine(self, content: FileContent) -> str:
        """Return platform, processor and instruction sets; raise `ModelError` for a package without them."""
        with zipfile.ZipFile(io.BytesIO(content.data)) as records:
            for record in records.namelist():
                if record.endswith("wrapper_metadata.json"):
                    stated = json.loads(records.read(record))
                    words = [str(stated[key]) for key in _MACHINE_KEYS]
                    return " ".join([*words, *stated.get(_ADDED_INSTRUCTIONS_KEY, "").split()])
        raise ModelError("AOTInductor package lacks platform metadata")

    def providers(self) -> tuple[str, ...]:
        """Return the CPU if PyTorch is installed, else nothing."""
        return ("cpu",) if missing(self.extra, "torch") is None else ()

    def open(self, content: FileContent, spec: PartSpec, options: SessionOptions) -> Runner:
        """Load a package; raise `TargetError` unless it was compiled for this machine and the provider is "cpu"."""
        import torch

        self.check_provider(options.provider)
        check_machine(self.required_machine(content), spec.part)
        # PyTorch writes the package to a private temporary file and removes it.
        return torch_runner(torch._inductor.aoti_load_package(io.BytesIO(content.data)), spec, options)


def check_machine(needed: str, where: str) -> None:
    """Raise `TargetError` unless this machine can run a package, because foreign machine code ends the process.

    Args:
        needed: platform, processor and instruction sets, as `Aoti.required_machine` returns them.
        where: the part, for messages.
    """
    from torch import cpu

    known = {
        "AVX2": cpu._is_avx2_supported,
        "AVX512": cpu._is_avx512_supported,
        "AVX512_VNNI": cpu._is_vnni_supported,
        "AVX512_BF16": cpu._is_avx512_bf16_supported,
        "AMX_TILE": cpu._is_amx_tile_supported,
        "AMX_FP16": cpu._is_amx_fp16_supported,
    }
    kind, instructions = needed.split()[:2], needed.split()[2:]
    here = [sys.platform, platform.machine()]
    lacking = [name for name in instructions if name in known and not known[name]()]
    if kind != here or lacking:
        got = " ".join(here) + (f" without {', '.join(lacking)}" if lacking else "")
        raise TargetError("compiled for another machine", where=where, expected=needed, got=got, do="export it here")


def _added_instructions() -> list[str]:
    """Return the instruction sets that Inductor lets the compiler use here, in addition to those that it records."""
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    flags = pick_vec_isa().build_arch_flags().split()
    return [name for flag, name in _ADDED_INSTRUCTIONS.items() if flag in flags]


class _TraceRemover:
    """Remove the C++ sources of a package, which contain the compiler's command line, and folders of this machine.

    The library contains folders in error messages. They are overwritten with dots of the same length, so that no offset
    changes.
    """

    def __init__(self, *folders: str) -> None:
        self._folders = sorted((os.path.realpath(folder).encode() for folder in folders), key=len, reverse=True)
        self._folders += [folder.encode() for folder in folders]

    def __call__(self, name: str, data: bytes) -> bytes | None:
        if name.endswith((".cpp", ".h")):
            return None
        if name.endswith(".so"):
            for folder in self._folders:
                data = data.replace(folder, b"." * len(folder))
        return data


def _compiler() -> str | None:
    """Return the path of the C++ compiler that PyTorch uses, or None if there is none."""
    return shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
