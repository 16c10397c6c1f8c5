"""An exported VAE for applications: arrays in, arrays out."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vae_export import noise
from vae_export.artifact import Package, open_artifact
from vae_export.bundle import open_bundle
from vae_export.contract import Array, Contract, Part, TensorSpec
from vae_export.errors import ModelError, OutOfMemoryError, UsageError
from vae_export.manifest import Manifest
from vae_export.precision import FULL, PrecisionName
from vae_export.runtime.self_test import SelfTest, self_test
from vae_export.runtime.session import CPU, Session

Float32 = npt.NDArray[np.float32]

#: How far a pixel may lie outside its range, in units of it: what float32 arithmetic leaves behind.
ROUNDING = 1e-6

#: Rows that go through a network at a time, and bytes of its inputs and outputs: enough to keep every core busy, and
#: few enough that what lies between the layers fits into memory.
_MOST_ROWS, _MOST_BYTES = 1024, 64 << 20


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
        provider: str = CPU,
        threads: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        for name, value in (("threads", threads), ("batch_size", batch_size)):
            if value is not None and (type(value) is not int or value < 1):
                raise UsageError(f"bad {name}", expected="an integer from 1 up", got=value)
        self._package = package
        self._precision = _precision(package.manifest, precision)
        self._provider = provider
        self._threads = threads
        self._batch_size = batch_size
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
        if type(n) is not int or n < 1:
            raise UsageError("bad number of samples", expected="an integer from 1 up", got=n)
        try:
            return noise.sample((n, *self.contract.latent_shape), seed, start=start)
        except MemoryError as error:
            raise OutOfMemoryError(f"{n:,} latents") from error

    def sample(self, n: int, seed: int = 0, *, start: int = 0) -> Float32:
        """n new images (n, C, H, W): what `prior` draws, decoded."""
        return self.decode(self.prior(n, seed, start=start))

    def interpolate(self, a: Float32, b: Float32, steps: int) -> Float32:
        """Two images (C, H, W) → images (steps, C, H, W) on the straight line between their posterior means.

        The first and the last are the reconstructions of `a` and `b`; steps is 2 and up.
        """
        if type(steps) is not int or steps < 2:
            raise UsageError("bad number of steps", expected="an integer from 2 up", got=steps)
        for name, image in (("a", a), ("b", b)):
            if getattr(image, "shape", None) != self.contract.image_shape:
                got = getattr(image, "shape", type(image).__name__)
                raise ModelError("wrong shape", where=f"image '{name}'", expected=self.contract.image_shape, got=got)
        (first, last), _ = self.encode(np.stack([a, b]))
        along = np.linspace(0, 1, steps, dtype=np.float32).reshape(-1, *(1,) * first.ndim)
        return self.decode((first + along * (last - first)).astype(np.float32, copy=False))

    def self_test(self) -> SelfTest:
        """Run the golden vectors through every ONNX file: does this machine compute the right pixels?"""
        return self_test(self._package, self.run, self._precision)

    def run(self, part: Part, **inputs: Array) -> dict[str, Array]:
        """One part as it is: its inputs by name → its outputs by name."""
        session = self._session(part)
        rows = self._check(part, inputs)
        step = self.rows_at_a_time(part)
        if rows <= step:
            return session.run(inputs)
        spec = self.contract.spec(part)
        try:
            outputs = {tensor.name: np.empty((rows, *tensor.item), np.float32) for tensor in spec.outputs}
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

    def _session(self, part: Part) -> Session:
        with self._opening:
            if part not in self._sessions:
                data = self._package.read(self.manifest.entry(part, precision=self._precision))
                spec = self.contract.spec(part)
                self._sessions[part] = Session(data, spec, provider=self._provider, threads=self._threads)
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


def load(
    path: str | Path,
    *,
    precision: PrecisionName | None = None,
    provider: str = CPU,
    threads: int | None = None,
    batch_size: int | None = None,
) -> Model:
    """Open a bundle or an export folder for running.

    Args:
        path: a bundle such as mnist.zip, or the folder of `export`, with its manifest.json.
        precision: of the files, such as "int8"; None takes float32, or what there is.
        provider: an ONNX Runtime provider; used, or refused with `TargetError`, never replaced in silence.
        threads: within an operator; None lets ONNX Runtime choose.
        batch_size: rows that go through a network at a time; None chooses by their size.

    Raises:
        ModelError, IntegrityError: nothing that can be read lies there, or a file is not the one that was packed.
    """
    return Model(open_package(path), precision=precision, provider=provider, threads=threads, batch_size=batch_size)


def open_package(path: str | Path) -> Package:
    """A bundle or an export folder, by what lies there; raises as `load` does."""
    if not Path(path).exists():
        expected = "a bundle, or the folder of an export"
        raise ModelError("no export here", where=path, expected=expected, do="run: vae-export export")
    return open_artifact(path) if Path(path).is_dir() else open_bundle(path)
