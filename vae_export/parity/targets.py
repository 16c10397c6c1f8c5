"""Which targets there are, by name: `format/provider`, with `+tf32` behind one that lets a GPU use TF32.

TF32 rounds the factors of products to 10 bits. For CUDA it is an option of ONNX Runtime and PyTorch; TensorRT uses it
unless `NVIDIA_TF32_OVERRIDE=0` was set before the process began, which switches it off everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from vae_export.errors import IntegrityError, TargetError, UsageError
from vae_export.formats import FORMATS
from vae_export.formats.base import Setting
from vae_export.runtime.session import CUDA, TENSORRT

_TF32 = "+tf32"
#: What runs on a GPU that has TF32: two providers of ONNX Runtime, one device of PyTorch.
_NVIDIA = (CUDA, TENSORRT, "cuda")


@dataclass(frozen=True)
class Target:
    """Attributes:
    format: of the files that run on it.
    provider: what runs them.
    tf32: whether products are rounded.
    """

    format: str
    provider: str
    tf32: bool = False

    def __str__(self) -> str:
        return f"{self.format}/{self.provider}{_TF32 if self.tf32 else ''}"

    def settings(self, *, thorough: bool) -> tuple[Setting, ...]:
        """Every way of opening a file that is tried; the first is the plain one.

        Not `thorough`, those with one thread that leave the graph as it is and that rewrite it most: a fault that only
        another level or thread count shows is one of the engine.
        """
        every = (replace(setting, tf32=self.tf32) for setting in FORMATS[self.format].settings(self.provider))
        return tuple(setting for setting in every if thorough or (setting.threads == 1 and setting.is_extreme))

    @property
    def is_gpu(self) -> bool:
        return self.provider in _NVIDIA

    def check(self) -> None:
        """Raise `TargetError` where TF32 cannot be what the target says."""
        if self.provider not in FORMATS[self.format].providers():
            return  # opening a file says so, and what to install
        overridden = os.environ.get("NVIDIA_TF32_OVERRIDE") == "0"
        if self.tf32 and overridden:
            raise TargetError("TF32 is off", where=self, do="unset NVIDIA_TF32_OVERRIDE")
        if self.provider == TENSORRT and not self.tf32 and not overridden:
            raise TargetError("TensorRT uses TF32", where=self, do="set NVIDIA_TF32_OVERRIDE=0 before the command")


def parse(name: str, formats: Iterable[str]) -> Target:
    """Read a target's name; raises `UsageError` unless a file of `formats` can have it."""
    format, slash, provider = name.partition("/")
    tf32 = provider.endswith(_TF32)
    target = Target(format, provider.removesuffix(_TF32), tf32)
    if format not in formats or not slash or not target.provider or (tf32 and not target.is_gpu):
        do = "targets are written format/provider, such as onnx/CPUExecutionProvider"
        raise UsageError("no file for this target", where=name, expected=" | ".join(formats), do=do)
    return target


def choose(formats: Sequence[str], asked: Sequence[str] | None) -> list[Target]:
    """The targets that were asked for, or all that this machine lists."""
    if unknown := [format for format in formats if format not in FORMATS]:
        raise IntegrityError("manifest names an unknown format", expected=" | ".join(FORMATS), got=unknown)
    if asked is not None:
        return [parse(name, formats) for name in dict.fromkeys(asked)]
    plain = [Target(format, provider) for format in formats for provider in FORMATS[format].providers()]
    return [
        variant for target in plain for variant in ([target, replace(target, tf32=True)] if target.is_gpu else [target])
    ]
