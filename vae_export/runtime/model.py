"""An exported VAE for applications: arrays in, arrays out.

From a path to a model: a bundle or an export folder, by what lies there.
"""

from __future__ import annotations

import math
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vae_export import rng
from vae_export.artifact.folder import Package, open_artifact
from vae_export.artifact.manifest import Manifest
from vae_export.bundle import open_bundle
from vae_export.contract import PARTS, PIXELS, Array, Contract, Part, Pixels, TensorSpec, float_part
from vae_export.errors import ModelError, OutOfMemoryError, UsageError
from vae_export.pixels import to_bytes
from vae_export.precision import PrecisionName
from vae_export.rng import check_integer
from vae_export.runtime.options import ChosenOptions, choose_options
from vae_export.runtime.self_test import SelfTest, self_test
from vae_export.runtime.session import Session
from vae_export.session_options import MAX_THREADS, RUNTIME_FORMAT

Float32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

#: How far a pixel may lie outside its range, in units of it: what float32 arithmetic leaves behind.
ROUNDING = 1e-6

#: Rows that go through a network at a time, and bytes of its inputs and outputs: enough to keep every core busy, and
#: few enough that what lies between the layers fits into memory.
_MOST_ROWS, _MOST_BYTES = 1024, 64 << 20
#: More than any memory holds: numpy answers larger numbers badly.
_MOST_IMAGES = 1 << 40


class Model:
    """The ONNX files of one export or bundle, each opened when it is first needed; safe to use from several threads.

    Arrays are float32 with a batch first, of any size from 1 up: large ones go through in pieces. Every method raises
    `ModelError` for any other dtype, byte order or shape, for numbers that are not finite and for pixels out of range;
    `OutOfMemoryError` where there is no room for the result.
    """

    def __init__(
        self,
        package: Package,
        *,
        precision: PrecisionName | None = None,
        provider: str | None = None,
        threads: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        threads = None if threads is None else check_integer("threads", threads, 1, MAX_THREADS)
        self._batch_size = None if batch_size is None else check_integer("batch_size", batch_size, 1)
        self._package = package
        self._chosen = {part: choose_options(package.manifest, part, precision, provider, threads) for part in PARTS}
        self._sessions: dict[Part, Session] = {}
        self._opening = threading.Lock()

    @property
    def manifest(self) -> Manifest:
        """What the export or bundle holds."""
        return self._package.manifest

    @property
    def contract(self) -> Contract:
        """Shapes and ranges of images and latents."""
        return self._package.manifest.contract

    def decode(self, latent: Float32) -> Float32:
        """latent (N, Z), prior N(0, I) → image (N, C, H, W) in the contract's range, [0, 1] for ours."""
        return self.run("decoder", latent=latent)["image"]

    def pixels(self, latent: Float32, layout: Pixels = "uint8-hwc") -> Bytes:
        """latent (N, Z) → the bytes of an image for a screen: (N, H, W, C), or (N, C, H, W) for "uint8-chw".

        By the decoder that was exported with `--pixels`, where there is one of this layout; else rounded here. Either
        way a byte is that of the bundle's specification, section 4; the two can differ where the exact value lies on
        the boundary between two levels, and are both right there.
        """
        if layout not in PIXELS:
            raise UsageError("unknown pixels", expected=" | ".join(PIXELS), got=layout)
        part = PIXELS[layout]
        if self._has(part):
            return self.run(part, latent=latent)["pixels"]
        rows, step = self._check("decoder", {"latent": latent}), self.rows_at_a_time("decoder")
        pieces = (self.decode(latent[start : start + step]) for start in range(0, rows, step))
        return np.concatenate([to_bytes(piece, self.contract, part) for piece in pieces])

    def encode(self, image: Float32) -> tuple[Float32, Float32]:
        """image (N, C, H, W) in the contract's range → mean (N, Z), logvar (N, Z)."""
        outputs = self.run("encoder", image=image)
        return outputs["mean"], outputs["logvar"]

    def reconstruct(self, image: Float32) -> Float32:
        """image (N, C, H, W) → its reconstruction (N, C, H, W) from the posterior mean, without noise."""
        mean, _ = self.encode(image)
        return self.decode(mean)

    def prior(self, n: int, seed: int = 0, *, start: int = 0) -> Float32:
        """n latents (n, Z) drawn from N(0, I): the same bits for a seed in every language and on every machine.

        Args:
            n: 1 and up.
            seed: 0 to 2^64 - 1.
            start: how many latents of the same seed come before the first one: pieces can be drawn alone.
        """
        n = check_integer("number of samples", n, 1, _MOST_IMAGES)
        try:
            return rng.sample((n, *self.contract.latent_shape), seed, start=start)
        except MemoryError as error:
            raise OutOfMemoryError(f"{n:,} latents") from error

    def sample(self, n: int, seed: int = 0, *, start: int = 0) -> Float32:
        """n new images (n, C, H, W): what `prior` draws, decoded."""
        return self.decode(self.prior(n, seed, start=start))

    def interpolate(self, a: Float32, b: Float32, steps: int) -> Float32:
        """Two images (C, H, W) → images (steps, C, H, W) on the straight line between their posterior means.

        The first and the last are the reconstructions of `a` and `b`; steps is 2 and up.
        """
        steps = check_integer("number of steps", steps, 2, _MOST_IMAGES)
        for name, image in (("a", a), ("b", b)):
            for what, expected in (("shape", self.contract.image_shape), ("dtype", np.dtype(np.float32))):
                if (got := getattr(image, what, type(image).__name__)) != expected:
                    raise ModelError(f"wrong {what}", where=f"image '{name}'", expected=expected, got=got)
        (first, last), _ = self.encode(np.stack([a, b]))
        try:
            along = np.linspace(0, 1, steps, dtype=np.float32).reshape(-1, *(1,) * first.ndim)
            latent = (first + along * (last - first)).astype(np.float32, copy=False)
        except MemoryError as error:
            raise OutOfMemoryError(f"{steps:,} steps") from error
        return self.decode(latent)

    def self_test(self) -> SelfTest:
        """Run the golden vectors through every ONNX file: does this machine compute the right pixels?"""
        precisions = {part: chosen.precision for part, chosen in self._chosen.items()}
        return self_test(self._package, self.run, precisions)

    def running(self, part: Part) -> ChosenOptions:
        """The settings that a part runs with, and why these; a decoder of bytes runs as the decoder does."""
        return self._chosen[float_part(part)]

    def run(self, part: Part, **inputs: Array) -> dict[str, Array]:
        """One part as it is: its inputs by name → its outputs by name."""
        session = self._session(part)
        rows = self._check(part, inputs)
        step = self.rows_at_a_time(part)
        if rows <= step:
            return session.run(inputs)
        spec = self.contract.spec(part)
        try:
            outputs = {tensor.name: np.empty((rows, *tensor.item), tensor.dtype) for tensor in spec.outputs}
        except MemoryError as error:
            raise OutOfMemoryError(f"{rows:,} rows of {part}") from error
        for start in range(0, rows, step):
            piece = slice(start, start + step)
            for name, array in session.run({name: array[piece] for name, array in inputs.items()}).items():
                outputs[name][piece] = array
        return outputs

    def _check(self, part: Part, inputs: dict[str, Array]) -> int:
        """Everything about the inputs, before the first piece is computed; the number of rows."""
        spec = self.contract.spec(part)
        names = [tensor.name for tensor in spec.inputs]
        if set(inputs) != set(names):
            raise ModelError("wrong inputs", where=part, expected=names, got=sorted(inputs))
        rows = None
        for tensor in spec.inputs:
            tensor.check(inputs[tensor.name], batch=rows)
            _check_range(tensor, inputs[tensor.name])
            rows = len(inputs[tensor.name])
        return rows or 0

    def rows_at_a_time(self, part: Part) -> int:
        """How many rows of a large array go through the network at once."""
        if self._batch_size is not None:
            return self._batch_size
        spec = self.contract.spec(part)
        row = sum(4 * int(np.prod(tensor.item)) for tensor in (*spec.inputs, *spec.outputs))
        return max(1, min(_MOST_ROWS, _MOST_BYTES // row))

    def _has(self, part: Part) -> bool:
        kind = part, RUNTIME_FORMAT, self.running(part).precision
        return any((entry.part, entry.format, entry.precision) == kind for entry in self.manifest.files)

    def _session(self, part: Part) -> Session:
        with self._opening:
            if part not in self._sessions:
                chosen = self.running(part)
                data = self._package.read(self.manifest.entry(part, precision=chosen.precision))
                self._sessions[part] = Session(data, self.contract.spec(part), chosen.options)
            return self._sessions[part]


def _check_range(tensor: TensorSpec, value: Array) -> None:
    """Raise `ModelError` for a pixel out of range: levels from 0 to 255 would be encoded to nonsense, in silence."""
    low, high = tensor.low, tensor.high
    if not (math.isfinite(low) and math.isfinite(high)):
        return
    slack = ROUNDING * (high - low)
    outside = value.min() < low - slack or value.max() > high + slack
    if outside:
        index = tuple(int(i) for i in np.argwhere((value < low - slack) | (value > high + slack))[0])
        where, expected = f"tensor '{tensor.name}' at {index}", f"pixels in [{low:g}, {high:g}]"
        do = "scale 8-bit levels by 1/255" if (low, high) == (0, 1) else "scale the pixels"
        raise ModelError("out of range", where=where, expected=expected, got=value[index], do=do)


def load(
    path: str | Path,
    *,
    precision: PrecisionName | None = None,
    provider: str | None = None,
    threads: int | None = None,
    batch_size: int | None = None,
) -> Model:
    """Open a bundle or an export folder for running.

    Where it was tuned on a machine like this one (`vae-export tune`), and none of precision, provider and threads is
    given, it runs as was recommended; `Model.running` says so, or why not.

    Args:
        path: a bundle such as mnist.zip, or the folder of `export`, with its manifest.json.
        precision: of the files, such as "int8"; None takes float32, or what there is.
        provider: an ONNX Runtime provider; used, or refused with `TargetError`, never replaced in silence. None takes
            the CPU.
        threads: within an operator; None lets ONNX Runtime choose.
        batch_size: rows that go through a network at a time; None chooses by their size.

    Raises:
        ModelError, IntegrityError: nothing that can be read lies there, or a file is not the one that was packed.
    """
    return Model(open_package(path), precision=precision, provider=provider, threads=threads, batch_size=batch_size)


def open_package(path: str | Path) -> Package:
    """A bundle or an export folder, by what lies there; raises as `load` does."""
    expected, do = "a bundle, or the folder of an export", "run: vae-export export"
    try:
        there = Path(path).exists()
    except OSError as error:  # a name too long, a folder that nobody may enter
        where = f"{str(path)[:60]}…" if len(str(path)) > 60 else path
        raise ModelError("no export here", where=where, expected=expected, got=error.strerror, do=do) from error
    if not there:
        raise ModelError("no export here", where=path, expected=expected, do=do)
    return open_artifact(path) if Path(path).is_dir() else open_bundle(path)
