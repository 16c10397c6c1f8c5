"""Parse and choose the targets of a verification, named `format/provider`: "onnx/CPUExecutionProvider", or "onnx/CPU".

A precision other than float32 follows the format, as in `onnx+int8/CPUExecutionProvider`; `+tf32` follows a provider
that lets a GPU use TF32.

TF32 rounds the factors of products to 10 bits. For CUDA it is an option of ONNX Runtime and PyTorch. TensorRT uses it
by default. `NVIDIA_TF32_OVERRIDE=0`, set before the process starts, switches it off everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from vae_export.artifact.manifest import FileEntry, Manifest
from vae_export.errors import IntegrityError, TargetError, UsageError
from vae_export.formats import FORMATS
from vae_export.precision import FULL, PRECISIONS, PrecisionName
from vae_export.session_options import CUDA, TENSORRT, SessionOptions, find_provider

_TF32 = "+tf32"
#: A format and a precision.
Kind: TypeAlias = tuple[str, PrecisionName]
#: Providers that can use TF32: two of ONNX Runtime, and one device of PyTorch.
_NVIDIA = (CUDA, TENSORRT, "cuda")


@dataclass(frozen=True)
class Target:
    """A format, a precision, and the provider that runs its files.

    Attributes:
        format: format of the files.
        provider: provider that runs the files.
        tf32: whether the factors of products are rounded to TF32.
        precision: precision of the files.
    """

    format: str
    provider: str
    tf32: bool = False
    precision: PrecisionName = FULL

    def __str__(self) -> str:
        precision = "" if self.precision == FULL else f"+{self.precision}"
        return f"{self.format}{precision}/{self.provider}{_TF32 if self.tf32 else ''}"

    def runs(self, entry: FileEntry) -> bool:
        """Whether a file has the format and the precision of the target."""
        return (entry.format, entry.precision) == (self.format, self.precision)

    def session_options(self, *, thorough: bool) -> tuple[SessionOptions, ...]:
        """Return the session options that a file is opened with; the first are the engine's plain options.

        Args:
            thorough: whether to include every optimisation level and thread count. Otherwise only the lowest and the
                highest level are used, with one thread. A fault that only another level or thread count shows is a
                fault of the engine.
        """
        options = FORMATS[self.format].options_to_test(self.provider, self.precision)
        every = (replace(setting, tf32=self.tf32) for setting in options)
        return tuple(setting for setting in every if thorough or (setting.threads == 1 and setting.is_extreme))

    @property
    def is_gpu(self) -> bool:
        """Whether the provider runs on an NVIDIA GPU."""
        return self.provider in _NVIDIA

    def check_provider(self) -> None:
        """Raise `TargetError` if this machine lacks the provider; opening a file reports a missing engine."""
        format = FORMATS[self.format]
        if format.providers():
            format.check_provider(self.provider)

    def check(self) -> None:
        """Raise `TargetError` if the environment forces TF32 on or off against this target."""
        if self.provider not in FORMATS[self.format].providers():
            return  # opening a file raises the error that says what to install
        overridden = os.environ.get("NVIDIA_TF32_OVERRIDE") == "0"
        if self.tf32 and overridden:
            raise TargetError("TF32 is off", where=self, do="unset NVIDIA_TF32_OVERRIDE")
        if self.provider == TENSORRT and not self.tf32 and not overridden:
            raise TargetError("TensorRT uses TF32", where=self, do="set NVIDIA_TF32_OVERRIDE=0 before the command")


def parse_target(name: str, kinds: Iterable[Kind]) -> Target:
    """Parse a target's name.

    Args:
        name: the name, such as "onnx+int8/CPUExecutionProvider", in short "onnx+int8/CPU".
        kinds: formats and precisions of the files.

    Returns:
        The target.

    Raises:
        UsageError: no file of these formats and precisions can have this target.
    """
    written, slash, provider = name.partition("/")
    format, _, precision = written.partition("+")
    tf32 = provider.endswith(_TF32)
    kind = next((kind for kind in kinds if kind == (format, precision or FULL)), None)
    target = None
    if kind is not None:
        full = find_provider(provider.removesuffix(_TF32), FORMATS[format].known_providers)
        target = Target(format, full, tf32, kind[1])
    if target is None or not slash or not target.provider or (tf32 and not target.is_gpu):
        do = "targets are written format/provider, such as onnx/CPU"
        expected = " | ".join(str(Target(*kind[:1], "…", precision=kind[1])) for kind in kinds)
        raise UsageError("no file for this target", where=name, expected=expected, do=do)
    return target


def refuse_unknown(manifest: Manifest) -> None:
    """Raise `TargetError` for a file of unknown precision, because a verification of all files must not skip it."""
    for entry in manifest.files:
        if entry not in manifest.known:
            raise TargetError(
                "file cannot be verified here",
                where=entry.name,
                expected=" | ".join(PRECISIONS),
                got=f"precision {entry.precision}",
                do="verify it with the version that wrote it, or name the others with --target",
            )


def kinds_of(manifest: Manifest) -> list[Kind]:
    """Return the formats and precisions of the files that this version can run."""
    return sorted({(entry.format, entry.precision) for entry in manifest.known})


def choose_targets(kinds: Sequence[Kind], asked: Sequence[str] | None) -> list[Target]:
    """Return the requested targets, or all that this machine lists.

    Args:
        kinds: formats and precisions of the files.
        asked: names of the requested targets; None takes all.

    Raises:
        IntegrityError: the manifest names an unknown format.
        UsageError: no file can have a requested target.
        TargetError: this machine lacks the provider of a requested target.
    """
    if unknown := [format for format, _ in kinds if format not in FORMATS]:
        raise IntegrityError("manifest names an unknown format", expected=" | ".join(FORMATS), got=unknown)
    if asked is not None:
        chosen = list(dict.fromkeys(parse_target(name, kinds) for name in asked))
        for target in chosen:
            target.check_provider()
        return chosen
    plain = [
        Target(format, provider, precision=precision)
        for format, precision in kinds
        for provider in FORMATS[format].providers()
    ]
    return [
        variant for target in plain for variant in ([target, replace(target, tf32=True)] if target.is_gpu else [target])
    ]
