"""Choose the session options of a part: those of the caller, those that were recommended, or the defaults."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vae_export.artifact.manifest import Manifest, Recommendation
from vae_export.contract import Part
from vae_export.errors import TargetError, UsageError
from vae_export.precision import FULL, PrecisionName
from vae_export.runtime.session import try_provider
from vae_export.session_options import CPU, SessionOptions, find_provider


@dataclass(frozen=True)
class ChosenOptions:
    """The ONNX file and the session options that a part runs with.

    Attributes:
        precision: the precision of the ONNX file.
        options: the session options.
        reason: reason for these options, in one line.
    """

    precision: PrecisionName
    options: SessionOptions
    reason: str = "nothing was recommended"

    def __str__(self) -> str:
        return f"{self.precision}, {self.options}: {self.reason}"


def choose_options(
    manifest: Manifest,
    part: Part,
    precision: PrecisionName | None = None,
    provider: str | None = None,
    threads: int | None = None,
) -> ChosenOptions:
    """Choose the file and the session options of a part.

    A recommendation was measured as a whole: with any of these arguments given, the others have their usual defaults.

    Args:
        manifest: the manifest of the export or bundle.
        part: the part that is to run.
        precision: precision of the file; None takes float32, or the only precision that there is.
        provider: an ONNX Runtime provider, in short CPU or CUDA; None takes the recommended one, or the CPU.
        threads: number of threads within an operator; None takes the recommended number, or lets ONNX Runtime choose.

    Returns:
        The precision of the file, the session options, and the reason for them.

    Raises:
        UsageError: no ONNX file has this precision, or several could be meant.
    """
    advice = manifest.recommendation(part)
    asked = {"precision": precision, "provider": provider, "threads": threads}
    given = [name for name, value in asked.items() if value is not None]
    if advice is not None and not given and (obstacle := _obstacle(advice)) is None:
        entry = next(entry for entry in manifest.files if entry.name == advice.file)
        reason = f"recommended for batches of {advice.batch:,}, measured on a machine like this one"
        return ChosenOptions(entry.precision, advice.options, reason)
    options = SessionOptions(CPU if provider is None else find_provider(provider), threads)
    usual = ChosenOptions(_precision(manifest, precision), options)
    if advice is None:
        return usual
    cause = f"{' and '.join(given)} given by the caller" if given else obstacle
    return replace(usual, reason=f"recommendation not followed: {cause}")


def _obstacle(advice: Recommendation) -> str | None:
    """Return the reason why a recommendation cannot be followed on this machine, or None."""
    from vae_export.system.hardware import identity

    for name, here in identity().items():
        if (measured := advice.machine.get(name)) != here:
            return f"it was measured on another machine: {name} {measured}, and here {here}"
    try:
        try_provider(advice.options.provider)
    except TargetError as error:
        return error.line()
    return None


def _precision(manifest: Manifest, asked: PrecisionName | None) -> PrecisionName:
    """Return the precision of the ONNX files to run: float32 where there is one, else the only one."""
    have = dict.fromkeys(entry.precision for entry in manifest.runtime_files)
    if asked is not None and asked not in have:
        raise UsageError("no ONNX file has this precision", expected=" | ".join(have) or "an ONNX file", got=asked)
    if asked is None and have and FULL not in have and len(have) > 1:
        raise UsageError("precision is ambiguous", expected=" | ".join(have), do="name one: precision=…")
    if asked is not None:
        return asked
    return FULL if FULL in have or not have else next(iter(have))
