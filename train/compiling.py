"""`--compile`: torch.compile, which either compiles or ends the command. Nothing runs uncompiled behind one's back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn

from vae_export.errors import MachineError


def compiled(module: nn.Module, device: torch.device) -> nn.Module:
    """`module`, compiled as one graph when it is first called; on CUDA, replayed as a CUDA graph.

    `fullgraph`: whatever cannot be compiled, and a graph compiled too often, is an error and no slow path.
    """
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    made = torch.compile(module, fullgraph=True, dynamic=False, mode=mode)
    return cast(nn.Module, made)  # it is one; torch's type hints say a function


def check_compiler(device: torch.device) -> None:
    """Compile one line, before anything is read or written. Raises `MachineError`."""
    with compile_errors():
        torch.compile(lambda x: torch.exp(x).sum(), fullgraph=True)(torch.ones(64, device=device))


@contextmanager
def compile_errors() -> Iterator[None]:
    """Turn what torch's compiler, or the C++ compiler behind it, raises into one line."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        lines = [line.strip(" :") for line in str(error).splitlines() if line.strip()]
        do = "see whether a C++ compiler (g++) is installed, or leave --compile out"
        raise MachineError("cannot compile", where="--compile", got=": ".join(lines[:2])[:300], do=do) from error
