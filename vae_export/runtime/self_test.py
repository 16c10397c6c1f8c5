"""Run the golden vectors of an export, with which an application tests its own process on its own machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from vae_export.artifact.folder import Package
from vae_export.artifact.golden import GoldenComparison, compare_golden, compare_golden_pixels
from vae_export.contract import PIXELS, Array, Part
from vae_export.errors import ModelError, ParityError
from vae_export.precision import FULL, PrecisionName

RunPart = Callable[..., dict[str, Array]]


@dataclass(frozen=True)
class SelfTest:
    """The result of a self-test: one comparison for each output of each part."""

    outputs: tuple[GoldenComparison, ...]

    @property
    def passed(self) -> bool:
        """Whether at least one output was compared and all of them are within their tolerances."""
        return bool(self.outputs) and all(comparison.passed for comparison in self.outputs)

    @property
    def worst_error(self) -> float:
        """The largest error as a fraction of the allowed error; the test passes with 1 or less."""
        return max((comparison.share for comparison in self.outputs), default=float("inf"))

    def __str__(self) -> str:
        """Return a line for each comparison, and the verdict."""
        return "\n".join([*map(str, self.outputs), "self-test passed" if self.passed else "self-test FAILED"])

    def require(self) -> None:
        """Raise `ParityError` unless the test passed; the message names the worst output."""
        if self.passed:
            return
        if not self.outputs:
            raise ParityError("nothing was tested", expected="an ONNX file with golden vectors")
        worst = max(self.outputs, key=lambda item: (not item.passed, item.share))
        pixels = f" and {worst.grey.unexplained} pixels of another grey level" if worst.grey else ""
        raise ParityError(
            "self-test failed",
            where=f"{worst.part}, '{worst.output}'",
            expected=f"error of {worst.tolerance:.3g} at most",
            got=f"{worst.error:.3g}{pixels}",
            do="check that the engine computes in float32",
        )


def self_test(package: Package, run: RunPart, precisions: Mapping[Part, PrecisionName] | None = None) -> SelfTest:
    """Run the golden inputs of every part that has an ONNX file.

    Args:
        package: an export folder or a bundle.
        run: runs a part on inputs that are given by name; see `vae_export.runtime.Model.run`.
        precisions: the precision of the files by part; float32 for parts that are not in it.

    Returns:
        One comparison for each output of each part; outputs that are wrong raise no error here, see `SelfTest.require`.

    Raises:
        ModelError: the export has no golden vectors.
    """
    manifest = package.manifest
    if not manifest.golden:
        raise ModelError("export has no golden vectors", do="export again")
    comparisons = []
    for golden in manifest.golden:
        precision = (precisions or {}).get(golden.part, FULL)
        kind = golden.part, precision
        if not any((entry.part, entry.precision) == kind for entry in manifest.runtime_files):
            continue
        outputs = run(golden.part, **{item.tensor: item.array(package.read(item)) for item in golden.inputs})
        for tensor, stored in zip(manifest.contract.spec(golden.part).outputs, golden.outputs, strict=True):
            expected = stored.array(package.read(stored))
            comparisons.append(compare_golden(golden.part, tensor, outputs[tensor.name], stored, expected, precision))
    return SelfTest((*comparisons, *_of_pixels(package, run, (precisions or {}).get("decoder", FULL))))


def _of_pixels(package: Package, run: RunPart, precision: PrecisionName) -> Iterator[GoldenComparison]:
    """Compare decoders with uint8 pixels with the decoder's golden vectors, because they have no golden vectors."""
    manifest = package.manifest
    for entry in manifest.runtime_files:
        if entry.part in PIXELS.values() and entry.precision == precision:
            [golden] = (golden for golden in manifest.golden if golden.part == "decoder")
            image, inputs = golden.outputs[0], {item.tensor: item.array(package.read(item)) for item in golden.inputs}
            pixels = run(entry.part, **inputs)["pixels"]
            expected = image.array(package.read(image))
            yield compare_golden_pixels(manifest.contract, entry.part, pixels, image, expected, precision)
