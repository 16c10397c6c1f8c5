"""How a part runs: as its caller says, as was recommended for this machine, or as usual; and why."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vae_export.artifact.manifest import Manifest, Recommendation, describe_session
from vae_export.contract import Part
from vae_export.errors import TargetError, UsageError
from vae_export.precision import FULL, PrecisionName
from vae_export.runtime.session import CPU, try_provider


@dataclass(frozen=True)
class Running:
    """Attributes:
    precision: of the ONNX file.
    provider: of ONNX Runtime.
    threads, optimisation, switches: see `vae_export.runtime.session.Session`.
    why: these settings and no others, in one line.
    """

    precision: PrecisionName
    provider: str = CPU
    threads: int | None = None
    optimisation: str | None = None
    switches: tuple[str, ...] = ()
    why: str = "nothing was recommended"

    def __str__(self) -> str:
        settings = describe_session(self.provider, self.threads or 0, self.optimisation or "", self.switches)
        return f"{self.precision}, {settings}: {self.why}"


def running(
    manifest: Manifest, part: Part, precision: PrecisionName | None, provider: str | None, threads: int | None
) -> Running:
    """The settings of a part; None leaves one to us. Raises `UsageError` for a precision that no ONNX file has.

    A recommendation was measured as a whole: a caller who gives one of these settings gets the usual others.
    """
    advice = manifest.recommendation(part)
    asked = {"precision": precision, "provider": provider, "threads": threads}
    given = [name for name, value in asked.items() if value is not None]
    if advice is not None and not given and (obstacle := _obstacle(advice)) is None:
        entry = next(entry for entry in manifest.files if entry.name == advice.file)
        why = f"recommended for batches of {advice.batch:,}, measured on a machine like this one"
        threads = advice.threads or None
        return Running(entry.precision, advice.provider, threads, advice.optimisation, advice.switches, why)
    usual = Running(_precision(manifest, precision), CPU if provider is None else provider, threads)
    if advice is None:
        return usual
    reason = f"{' and '.join(given)} given by the caller" if given else obstacle
    return replace(usual, why=f"recommendation not followed: {reason}")


def _obstacle(advice: Recommendation) -> str | None:
    """Why a recommendation does not hold on this machine; None where it does."""
    from vae_export.system.hardware import identity

    for name, here in identity().items():
        if (measured := advice.machine.get(name)) != here:
            return f"it was measured on another machine: {name} {measured}, and here {here}"
    try:
        try_provider(advice.provider)
    except TargetError as error:
        return error.line()
    return None


def _precision(manifest: Manifest, asked: PrecisionName | None) -> PrecisionName:
    """The precision of the ONNX files to run: float32 where there are such files, the only one where not."""
    have = dict.fromkeys(entry.precision for entry in manifest.known if entry.format == "onnx")
    if asked is not None and asked not in have:
        raise UsageError("no ONNX file has this precision", expected=" | ".join(have) or "an ONNX file", got=asked)
    if asked is None and have and FULL not in have and len(have) > 1:
        raise UsageError("which precision?", expected=" | ".join(have), do="name one: precision=…")
    if asked is not None:
        return asked
    return FULL if FULL in have or not have else next(iter(have))
