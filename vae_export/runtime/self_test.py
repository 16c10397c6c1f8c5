"""Does this machine compute the right pixels? An application asks in its own process, with the golden vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vae_export.artifact import Package
from vae_export.contract import Array
from vae_export.errors import ModelError, ParityError
from vae_export.golden import Judgement, judge
from vae_export.precision import FULL, PrecisionName

Run = Callable[..., dict[str, Array]]


@dataclass(frozen=True)
class SelfTest:
    """One judgement for each output of each part."""

    judgements: tuple[Judgement, ...]

    @property
    def passed(self) -> bool:
        return bool(self.judgements) and all(judgement.passed for judgement in self.judgements)

    @property
    def worst_error(self) -> float:
        """The largest error in units of what is allowed: 1 and below passes."""
        return max((judgement.error / judgement.band for judgement in self.judgements), default=float("inf"))

    def __str__(self) -> str:
        """A line for each judgement, and the verdict."""
        return "\n".join([*map(str, self.judgements), "self-test passed" if self.passed else "self-test FAILED"])

    def require(self) -> None:
        """Raise `ParityError` unless it passed; the message names what is worst."""
        if self.passed:
            return
        if not self.judgements:
            raise ParityError("nothing was tested", expected="an ONNX file with golden vectors")
        worst = max(self.judgements, key=lambda item: (not item.passed, item.error / item.band))
        pixels = f" and {worst.grey.unexplained} pixels of another grey level" if worst.grey else ""
        raise ParityError(
            "self-test failed",
            where=f"{worst.part}, '{worst.output}'",
            expected=f"error of {worst.band:.3g} at most",
            got=f"{worst.error:.3g}{pixels}",
            do="compute in float32, and see what the engine does otherwise",
        )


def self_test(package: Package, run: Run, precision: PrecisionName = FULL) -> SelfTest:
    """Run the golden inputs of every part that has an ONNX file; raises `ModelError` for an export without any."""
    manifest = package.manifest
    if not manifest.golden:
        raise ModelError("export has no golden vectors", do="export again")
    judgements = []
    for golden in manifest.golden:
        kind = golden.part, "onnx", precision
        if not any((entry.part, entry.format, entry.precision) == kind for entry in manifest.known):
            continue
        outputs = run(golden.part, **{item.tensor: item.array(package.read(item)) for item in golden.inputs})
        for tensor, expected in zip(manifest.contract.spec(golden.part).outputs, golden.outputs, strict=True):
            exact = expected.array(package.read(expected))
            judgements.append(judge(golden.part, tensor, outputs[tensor.name], expected, exact, precision))
    return SelfTest(tuple(judgements))
