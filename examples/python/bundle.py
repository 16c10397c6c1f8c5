"""Open a vae-export bundle, draw its random latents and test what an engine computes, with numpy alone.

This reader was written from docs/bundle-format.md, whose sections are named here. `vae_export` does the same faster and
more strictly; copy this file if you cannot install it.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Run = Callable[[str, dict[str, Array]], dict[str, Array]]

#: The parts that this reader knows. It ignores any other part of a newer bundle (section 3).
PARTS = ("encoder", "decoder", "autoencoder")
#: A reader takes the first of these that a part has, and ignores files of any other precision.
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8-static", "int4-weights")
#: Versions of the format (section 3), and dtypes of inputs and outputs.
FORMATS = ("vae-export/1", "vae-export/2")
DTYPES = {"float32": "<f4", "int32": "<i4", "int64": "<i8"}


class Bundle:
    """An opened bundle (sections 1 and 2). Opening it checks the SHA-256 of every file.

    Raises ValueError if a file was altered, naming it, and OSError if the bundle cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self._files = _read_zip(path)
        if "SHA256SUMS" not in self._files:
            raise ValueError("not a bundle: it has no SHA256SUMS")
        lines = self._files.pop("SHA256SUMS").decode().splitlines()
        self._sums = {line[66:]: line[:64] for line in lines}
        for name in self._sums:
            if name not in self._files:
                raise ValueError(f"file is missing: {name}")
        for name, data in self._files.items():
            stated, found = self._sums.get(name), hashlib.sha256(data).hexdigest()
            if found != stated:
                raise ValueError(f"file was altered: {name}; expected SHA-256 {stated}, got {found}")
        self.manifest = json.loads(self._files["manifest.json"])
        if self.manifest["format"] not in FORMATS:
            raise ValueError(f"bundle of another version: {self.manifest['format']}")

    @cached_property
    def contract(self) -> Contract:
        """The contract of the manifest."""
        return Contract(self.manifest)

    def find_model(self, part: str, format: str = "onnx") -> dict[str, Any] | None:
        """Return the manifest's entry for a part's model file, in float32 if there is one: see `PRECISIONS`."""
        files = [file for file in self.manifest["files"] if (file["part"], file["format"]) == (part, format)]
        for precision in PRECISIONS:
            for file in files:
                if file.get("precision", "fp32") == precision:
                    return {"precision": precision, **file}
        return None

    def entry(self, part: str, format: str = "onnx") -> dict[str, Any]:
        """Return what `find_model` does; raise ValueError if there is none."""
        entry = self.find_model(part, format)
        if entry is None:
            raise ValueError(f"bundle has no {part} as {format}")
        return entry

    @property
    def golden_parts(self) -> list[dict[str, Any]]:
        """The golden vectors of the parts that this reader knows."""
        return [golden for golden in self.manifest["golden"] if golden["part"] in PARTS]

    def model(self, part: str, format: str = "onnx") -> bytes:
        """Return the bytes of a part's model file."""
        entry = self.entry(part, format)
        return self._checked_file(entry["name"], entry["sha256"])

    def golden(self, array: dict[str, Any]) -> Array:
        """Return a golden array (section 5)."""
        data, dtype = self._checked_file(array["file"], array["sha256"]), array.get("dtype", "float32")
        return np.frombuffer(data, DTYPES[dtype]).astype(dtype).reshape(array["shape"])

    def golden_inputs(self, part: str) -> dict[str, Array]:
        """Return the golden inputs of a part by name; none if the bundle has no golden vectors of it."""
        found = [golden for golden in self.golden_parts if golden["part"] == part]
        return {array["tensor"]: self.golden(array) for golden in found for array in golden["inputs"]}

    def conditions(self, part: str, n: int) -> dict[str, Array]:
        """Return the conditions that a part takes, for n rows: those of its golden vectors, again and again."""
        inputs = self.golden_inputs(part)
        names = [item["name"] for item in self.contract.conditions if item["name"] in inputs]
        return {name: np.resize(inputs[name], (n, *inputs[name].shape[1:])) for name in names}

    def _checked_file(self, name: str, digest: str) -> bytes:
        if self._sums.get(name) != digest:
            raise ValueError(f"manifest.json has another hash of {name}")
        return self._files[name]


class Contract:
    """The contract of a manifest of either version (section 3), in the words of version 2.

    A tensor is an object with `name`, `dtype`, `shape` and `range`, where the first size of the shape is the batch.
    """

    def __init__(self, manifest: dict[str, Any]) -> None:
        stated = manifest["contract"]
        if manifest["format"] == FORMATS[0]:
            data = {"name": "image", "shape": ["N", *stated["image_shape"]], "range": stated["image_range"]}
            latent = {"name": "latent", "dtype": "float32", "shape": ["N", *stated["latent_shape"]], "range": None}
            stated = {"data": data, "latents": [latent], "encoding": "gaussian", "prior": stated["prior"]}
        self.output: dict[str, Any] = stated.get("output") or stated["data"]
        self.latents: list[dict[str, Any]] = stated["latents"]
        self.conditions: list[dict[str, Any]] = stated.get("conditions", [])
        self.symbols: dict[str, dict[str, Any]] = stated.get("symbols", {})
        self.has_codes, self.prior = stated["encoding"] == "codes", stated["prior"]
        batch = self.symbols.get("N", {})
        self.fewest_rows, self.most_rows = batch.get("min", 1), batch.get("max")

    def item(self, tensor: dict[str, Any]) -> tuple[int, ...]:
        """Return the shape of one row of a tensor, with the usual value of each symbol."""
        return tuple(size if isinstance(size, int) else self._size(size) for size in tensor["shape"][1:])

    def _size(self, text: str) -> int:
        found = re.fullmatch(r"(?:(\d+)\*)?([A-Za-z]\w*)([+-]\d+)?", text)
        if found is None:
            raise ValueError(f"size cannot be read: {text}")
        symbol = self.symbols[found[2]]
        usual: int = symbol["usual"] or min(max(8, symbol["min"]), symbol["max"] or 8)
        return int(found[1] or 1) * usual + int(found[3] or 0)

    def check_drawable(self) -> None:
        """Raise ValueError if no new images can be drawn: the data is no image, or the prior is not known."""
        name, shape = self.output["name"], self.output["shape"]
        if name != "image" or self.output["range"] is None or shape[1] not in (1, 2, 3, 4):
            raise ValueError(f"no images can be drawn: {name} {tuple(shape)} is no image of 1 to 4 channels")
        if self.prior == "given by the user":
            raise ValueError("no images can be drawn: the prior of the latents is not in the bundle")

    def draw(self, n: int, seed: int) -> dict[str, Array]:
        """Draw n latents or codes from the prior, by name (section 6). Several latents share one row."""
        items = [self.item(latent) for latent in self.latents]
        ends = np.cumsum([math.prod(item) for item in items])
        size = int(ends[-1])
        rows = sample_codes(n, size, self.latents[0]["range"][1] + 1, seed) if self.has_codes else sample(n, size, seed)
        pairs = zip(self.latents, np.split(rows, ends[:-1], axis=1), items, strict=True)
        return {latent["name"]: part.astype(latent["dtype"]).reshape(n, *item) for latent, part, item in pairs}

    def run(self, run: Run, part: str, inputs: dict[str, Array]) -> dict[str, Array]:
        """Run a part on any number of rows. Larger batches than its bounds are cut, smaller ones repeat a row."""
        rows = len(next(iter(inputs.values())))
        step = min(rows, self.most_rows or rows)
        pieces: list[dict[str, Array]] = []
        for start in range(0, rows, step):
            piece = {name: array[start : start + step] for name, array in inputs.items()}
            count = len(next(iter(piece.values())))
            index = np.minimum(np.arange(max(count, self.fewest_rows)), count - 1)
            outputs = run(part, {name: array[index] for name, array in piece.items()})
            pieces.append({name: array[:count] for name, array in outputs.items()})
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _read_zip(path: str | Path) -> dict[str, bytes]:
    data = Path(path).read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError) as error:  # zipfile raises both for damaged files
        raise ValueError(f"not a bundle, or altered: {path}; {error}") from error
    if len({entry.filename for entry in entries}) != len(entries):
        raise ValueError("two files have one name")
    # The files are not compressed, so slices hold them. zipfile's reader would check a CRC-32 first, which says less.
    starts = [entry.header_offset + 30 + len(entry.filename) for entry in entries]
    return {entry.filename: data[start : start + entry.file_size] for entry, start in zip(entries, starts, strict=True)}


# ------------------------------------------------------------------------------------------------- random latents (6)


def sample(n: int, size: int, seed: int, start: int = 0) -> Array:
    """Draw n latents of `size` numbers from N(0, I), after skipping `start`; a seed gives the same bits everywhere."""
    words = _words(n * size, start * size, seed)
    return np.array([normal(word) for word in words], np.float32).reshape(n, size)


def sample_codes(n: int, size: int, count: int, seed: int, start: int = 0) -> Array:
    """Draw n rows of `size` codes from 0 to count - 1, each equally likely."""
    words = _words(n * size, start * size, seed)
    return np.array([word * int(count) >> 32 for word in words], np.int64).reshape(n, size)


def _words(count: int, first: int, seed: int) -> list[int]:
    if not 0 <= seed < 2**64:
        raise ValueError(f"bad seed: {seed}; expected 0 to 2^64 - 1")
    blocks = range(first // 4, (first + count + 3) // 4)
    words = [word for block in blocks for word in philox((block % 2**32, block // 2**32, 0, 0), seed)]
    return words[first % 4 : first % 4 + count]


def philox(counter: tuple[int, int, int, int], seed: int) -> tuple[int, int, int, int]:
    """Philox 4x32-10: encrypt a counter into four random 32-bit words (Salmon et al., SC'11)."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed % 2**32, seed // 2**32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 % 2**32, p0 >> 32 ^ c3 ^ k1, p0 % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


# Wichura's AS 241, the coefficient of the highest power first.
A = (
    2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457,
    13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608,
)  # fmt: skip
B = (
    5226.495278852854561, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867,
    5394.1960214247511077, 687.1870074920579083, 42.313330701600911252, 1.0,
)  # fmt: skip
C = (
    7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258,
    3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734,
)  # fmt: skip
D = (
    1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
    0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1.0,
)  # fmt: skip


def normal(word: int) -> float:
    """Turn a 32-bit word into a standard normal number, which the caller rounds to float32."""
    p = (word + 0.5) / 4294967296
    q = p - 0.5
    if abs(q) <= 0.425:
        r = 0.180625 - q * q
        return (q * _horner(A, r)) / _horner(B, r)
    r = math.sqrt(-_ln(p if q < 0 else 1 - p)) - 1.6
    x = _horner(C, r) / _horner(D, r)
    return -x if q < 0 else x


def _ln(x: float) -> float:
    """The natural logarithm. math.log would not do: no two libraries agree in the last bit."""
    k = 0
    while x < 0.7071067811865476:
        x, k = 2 * x, k + 1
    s = (x - 1) / (x + 1)
    z, t = s * s, 1 / 23
    for m in range(21, 0, -2):
        t = t * z + 1 / m
    return 2 * s * t - k * 0.6931471805599453


def _horner(coefficients: tuple[float, ...], r: float) -> float:
    t = coefficients[0]
    for k in coefficients[1:]:
        t = t * r + k
    return t


# -------------------------------------------------------------------------------- pixels and the self-test (4, 5)


def to_levels(image: Array, low: float, high: float) -> Array:
    """Return the bytes that show pixels of the range [low, high]."""
    scaled = (image.astype(np.float64) - low) / (high - low) * 255
    return np.clip(np.floor(scaled + 0.5), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Comparison:
    """The comparison of one output of an engine with its golden array.

    For integers `error` is the number of those that differ.
    `pixels` are the numbers of differing and of unexplained pixels; None for an output that is no image.
    """

    part: str
    output: str
    error: float
    tolerance: float
    pixels: tuple[int, int] | None

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance and (self.pixels is None or self.pixels[1] == 0)

    def __str__(self) -> str:
        grey = "" if self.pixels is None else ", {} pixels differ, {} unexplained".format(*self.pixels)
        return f"{self.part} {self.output}: worst error {self.error:.2e}, {self.tolerance:.2e} allowed{grey}"


def self_test(bundle: Bundle, run: Run) -> list[Comparison]:
    """Run the golden inputs of every part that the bundle has as ONNX, and compare every output."""
    comparisons = []
    for golden in bundle.golden_parts:
        part = golden["part"]
        entry = bundle.find_model(part)
        if entry is None:
            continue
        outputs = run(part, {array["tensor"]: bundle.golden(array) for array in golden["inputs"]})
        ranges = {output["name"]: output["range"] for output in entry["outputs"]}
        for expected in golden["outputs"]:
            name, tolerance = expected["tensor"], tolerance_of(expected, entry["precision"])
            got, stored = outputs[name], bundle.golden(expected)
            if got.shape != stored.shape:
                raise ValueError(f"wrong shape of {name}: expected {stored.shape}, got {got.shape}")
            if stored.dtype != np.float32:
                comparisons.append(Comparison(part, name, float((got != stored).sum()), tolerance, None))
                continue
            reference = stored.astype(np.float64)
            finite = bool(np.isfinite(got).all())
            error = float(np.abs(got - reference).max()) if finite else math.inf
            pixels = _compare_levels(got, reference, tolerance, *ranges[name]) if finite and ranges[name] else None
            comparisons.append(Comparison(part, name, error, tolerance, pixels))
    return comparisons


def tolerance_of(output: dict[str, Any], precision: str) -> float:
    """Return the largest error that a model file of this precision may have in a golden output; 0 if none is stated."""
    return float(output["band"] if precision == "fp32" else output.get("bands", {}).get(precision, 0))


def _compare_levels(got: Array, reference: Array, tolerance: float, low: float, high: float) -> tuple[int, int]:
    """Count the pixels of another level, and those that no value within the tolerance explains."""
    level = to_levels(got, low, high)
    lowest, highest = (to_levels(reference + step, low, high) for step in (-tolerance, tolerance))
    unexplained = (level < lowest) | (level > highest)
    return int((level != to_levels(reference, low, high)).sum()), int(unexplained.sum())


def check_noise(bundle: Bundle) -> tuple[int, int]:
    """Return how many golden latents this reader draws bit for bit, and how many there are: those from row 2 on."""
    same = total = 0
    inputs = bundle.golden_inputs("decoder")
    for index, latent in enumerate(bundle.contract.latents if inputs else ()):
        array = inputs[latent["name"]]
        wanted = array.reshape(len(array), -1)[2:]
        n, size = wanted.shape
        seed = 2 * index
        has_codes = bundle.contract.has_codes
        drawn = sample_codes(n, size, latent["range"][1] + 1, seed) if has_codes else sample(n, size, seed)
        same += sum(
            row.tobytes() == other.tobytes() for row, other in zip(drawn.astype(wanted.dtype), wanted, strict=True)
        )
        total += n
    return same, total
