"""Golden vectors: inputs with their expected outputs, with which an application can test itself.

docs/bundle-format.md, section 5, is the specification. The golden vectors are raw little-endian files beside the model
files: float32, or int32 and int64 for codes and classes. `vae_export.parity.golden` makes them. This module reads and
compares them, without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vae_export.contract import MAX_LEVEL, Array, Contract, Part
from vae_export.pixels import GreyLevels, compare_levels, in_levels, rounding_miss, unrounded
from vae_export.precision import FULL, PrecisionName
from vae_export.tensors import TensorSpec

GOLDEN_FOLDER = "golden"
#: Limits of the rows of a golden array: enough to reveal faults of a decoder, and few enough to fit into a bundle.
MOST_ROWS, FEWEST_ROWS = 16, 2
#: The dtypes of golden arrays in their files, by the name in the manifest, and the suffixes of the files.
DTYPES: Mapping[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "int32": np.dtype("<i4"),
    "int64": np.dtype("<i8"),
}
SUFFIXES = {"float32": ".f32", "int32": ".i32", "int64": ".i64"}
INTEGERS = ("int32", "int64")


@dataclass(frozen=True)
class GoldenArray:
    """A golden array, which has its own file.

    Attributes:
        tensor: the name of the input or output.
        name: the name of the file, below the export folder.
        shape: its shape, with the batch first.
        sha256: the hash of the file.
        tolerance: for an output, the largest allowed absolute error in float32; for integers, the number of them that
            may differ, because rounding changes them in PyTorch too. None for an input.
        tolerances: the tolerances of other precisions, by precision.
        dtype: one of `DTYPES`.
    """

    tensor: str
    name: str
    shape: tuple[int, ...]
    sha256: str
    tolerance: float | None = None
    tolerances: Mapping[str, float] = field(default_factory=dict)
    dtype: str = "float32"

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def array(self, data: bytes) -> Array:
        """Return the bytes of the file as a read-only array of `shape` in native byte order."""
        stored = DTYPES[self.dtype]
        values: Array = np.frombuffer(data, stored).reshape(self.shape).astype(stored.newbyteorder("="), copy=False)
        return values

    def to_json(self) -> dict[str, Any]:
        """Return the array as an object of the manifest (docs/bundle-format.md, section 5)."""
        entry: dict[str, Any] = {"tensor": self.tensor, "file": self.name, "shape": list(self.shape)}
        entry |= {"sha256": self.sha256} | ({"dtype": self.dtype} if self.dtype != "float32" else {})
        if self.tolerance is None:
            return entry
        return entry | {"band": self.tolerance} | ({"bands": dict(self.tolerances)} if self.tolerances else {})

    def allowed(self, precision: str) -> float:
        """Return the largest allowed absolute error in this precision, or 0 if none is stated."""
        return (self.tolerance or 0.0) if precision == FULL else self.tolerances.get(precision, 0.0)

    @classmethod
    def from_json(cls, item: Mapping[str, Any], *, output: bool) -> GoldenArray:
        """Return the golden array that `to_json` wrote; raise `KeyError`, `TypeError` or `ValueError` otherwise.

        Args:
            item: the JSON object.
            output: whether the array is an output, which has tolerances.
        """
        tensor, name, shape, digest = item["tensor"], item["file"], tuple(item["shape"]), item["sha256"]
        tolerance, dtype = item["band"] if output else None, item.get("dtype", "float32")
        if not all(isinstance(text, str) for text in (tensor, name, digest)):
            raise TypeError("tensor, file and sha256 of a golden array are texts")
        if not shape or not all(type(size) is int and size > 0 for size in shape):
            raise ValueError(f"shape of a golden array is {shape}")
        if dtype not in DTYPES:
            raise ValueError(f"dtype of a golden array is {dtype!r}")
        tolerances = item.get("bands", {}) if output else {}
        if not isinstance(tolerances, dict):
            raise TypeError("bands of a golden array are an object")
        for value in (tolerance, *tolerances.values()) if output else ():
            is_right = type(value) is int and 0 <= value < 1 << 53 if dtype in INTEGERS else _is_tolerance(value)
            if not is_right:
                raise ValueError(f"tolerance of a golden array is {value!r}")
        return cls(tensor, name, shape, digest, tolerance, tolerances, dtype)


def _is_tolerance(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


@dataclass(frozen=True)
class GoldenPart:
    """The golden arrays of one part, in the order of its inputs and outputs."""

    part: Part
    inputs: tuple[GoldenArray, ...]
    outputs: tuple[GoldenArray, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the part as an object of the manifest's "golden" (docs/bundle-format.md, section 5)."""
        return {
            "part": self.part,
            "inputs": [array.to_json() for array in self.inputs],
            "outputs": [array.to_json() for array in self.outputs],
        }

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> GoldenPart:
        """Return the golden part that `to_json` wrote; raise `KeyError`, `TypeError` or `ValueError` otherwise."""
        return cls(
            item["part"],
            tuple(GoldenArray.from_json(array, output=False) for array in item["inputs"]),
            tuple(GoldenArray.from_json(array, output=True) for array in item["outputs"]),
        )


@dataclass(frozen=True)
class GoldenComparison:
    """The comparison of one output of one part with its golden array.

    Attributes:
        part: the part that was run.
        output: the name of the output.
        error: the largest absolute difference, infinite if a number is not finite; for integers, how many differ.
        tolerance: the largest allowed error.
        grey: counts of pixels with another level; None for outputs that are not images.
    """

    part: Part
    output: str
    error: float
    tolerance: float
    grey: GreyLevels | None

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance, and no pixel has an unexplained level."""
        return self.error <= self.tolerance and (self.grey is None or self.grey.unexplained == 0)

    @property
    def share(self) -> float:
        """The error as a share of the tolerance; up to 1 passes."""
        if self.tolerance == 0:
            return 0.0 if self.error == 0 else math.inf
        return self.error / self.tolerance

    def __str__(self) -> str:
        pixels = f", {self.grey.differing} pixels differ, {self.grey.unexplained} unexplained" if self.grey else ""
        return f"{self.part} {self.output}: worst error {self.error:.2e}, {self.tolerance:.2e} allowed{pixels}"


def compare_golden_pixels(
    contract: Contract,
    part: Part,
    got: Array,
    golden: GoldenArray,
    expected: Array,
    precision: PrecisionName = FULL,
) -> GoldenComparison:
    """Compare the uint8 pixels of a decoder with the golden image, in levels.

    Args:
        contract: shapes and ranges of the VAE.
        part: the decoder, one of the values of `PIXELS`.
        got: its uint8 pixels (N, H, W, C) or (N, C, H, W).
        golden: the golden array of the float32 decoder's image, with its tolerances.
        expected: the golden image, float32 (N, C, H, W), in the contract's range.
        precision: precision of the tested file.

    Returns:
        The largest error and its tolerance, both in levels of 0 to 255.
    """
    tolerance = in_levels(golden.allowed(precision), contract)
    expected_pixels = unrounded(expected, contract, part)
    grey = compare_levels(got, expected_pixels, low=0, high=MAX_LEVEL, tolerance=tolerance)
    return GoldenComparison(part, "pixels", float(rounding_miss(got, expected_pixels).max()), tolerance, grey)


def compare_golden(
    part: Part, spec: TensorSpec, got: Array, golden: GoldenArray, expected: Array, precision: PrecisionName = FULL
) -> GoldenComparison:
    """Compare an output of a file with its golden array.

    Args:
        part: the part that was run.
        spec: name and range of the output.
        got: the output (N, …), of the spec's dtype and shape.
        golden: the golden array with its tolerances.
        expected: the values of the golden array, float32, of the same shape as `got`.
        precision: precision of the tested file.

    Returns:
        The largest absolute error and its tolerance; for an image also the counts of pixels with another level.
    """
    tolerance = golden.allowed(precision)
    if spec.is_integer:
        return GoldenComparison(part, spec.name, float((got != expected).sum()), tolerance, None)
    # The difference of two infinities is NaN, so that numbers that are not finite need their own check.
    error = float(np.abs(got.astype(np.float64) - expected).max()) if np.isfinite(got).all() else math.inf
    has_levels = spec.is_image and math.isfinite(error)
    grey = (
        compare_levels(got, expected.astype(np.float64), low=spec.low, high=spec.high, tolerance=tolerance)
        if has_levels
        else None
    )
    return GoldenComparison(part, spec.name, error, tolerance, grey)
