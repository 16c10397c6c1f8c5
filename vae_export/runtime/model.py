"""`load` opens an exported VAE as a `Model`, which computes on numpy arrays."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vae_export import rng
from vae_export.artifact.folder import Package, open_artifact
from vae_export.artifact.manifest import Manifest
from vae_export.bundle import open_bundle
from vae_export.contract import EVERY_PART, PARTS, PIXELS, Array, Contract, Part, Pixels, float_part
from vae_export.errors import ModelError, OutOfMemoryError, UsageError
from vae_export.pixels import to_bytes
from vae_export.precision import PrecisionName
from vae_export.rng import check_integer
from vae_export.runtime.chosen_options import ChosenOptions, choose_options
from vae_export.runtime.self_test import SelfTest, self_test
from vae_export.runtime.session import Session
from vae_export.session_options import MAX_THREADS, RUNTIME_FORMAT

Float32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

#: Limits of the rows that are computed at a time, and of the bytes of their inputs and outputs: enough to keep all
#: cores busy, and few enough that the activations fit into memory.
_MAX_PIECE_ROWS, _MAX_PIECE_BYTES = 1024, 64 << 20
#: The largest number of rows. It exceeds any memory, and numpy raises unclear errors for larger numbers.
_MAX_ROWS = 1 << 40


class Model:
    """An exported VAE, which several threads can use. Each ONNX file is opened at its first use.

    Arrays are float32 with any number of rows >= 1, and many rows are computed in pieces. Every method raises
    `ModelError` for another dtype, byte order or shape, for numbers that are not finite and for pixels out of range. It
    raises `OutOfMemoryError` if the result does not fit into memory.

    Args:
        package: an export folder or a bundle.
        precision, provider, threads, batch_size: as for `load`.
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

    def __repr__(self) -> str:
        """Return a line for each part that can run: inputs, outputs, precision, provider and other options."""
        lines = []
        for part in filter(self._has, EVERY_PART):
            spec, chosen = self.contract.spec(part), self.running(part)
            inputs, outputs = (", ".join(map(str, tensors)) for tensors in (spec.inputs, spec.outputs))
            lines.append(f"  {part}: {inputs} → {outputs}; {chosen.precision}, {chosen.options}")
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])

    @property
    def manifest(self) -> Manifest:
        """The manifest of the export or bundle."""
        return self._package.manifest

    @property
    def contract(self) -> Contract:
        """Shapes and ranges of images and latents."""
        return self._package.manifest.contract

    def decode(self, latent: Float32) -> Float32:
        """Decode latents.

        Args:
            latent: (N, Z), or (N, C, H, W) where latents are feature maps; the prior is N(0, I).

        Returns:
            Images (N, C, H, W) in the contract's range, which is [0, 1] for models trained here.
        """
        return self.run("decoder", latent=latent)["image"]

    def pixels(self, latent: Float32, layout: Pixels = "uint8-hwc") -> Bytes:
        """Decode latents to bytes for a screen.

        If the export has a decoder with this layout (`--pixels`), that decoder computes the bytes. Otherwise float32
        images are rounded here. Section 4 of the bundle's specification allows both results, which can differ if the
        exact value lies on the boundary between two levels.

        Args:
            latent: (N, Z), or (N, C, H, W) where latents are feature maps.
            layout: "uint8-hwc" or "uint8-chw".

        Returns:
            uint8 (N, H, W, C), or (N, C, H, W) for "uint8-chw".

        Raises:
            UsageError: an unknown layout.
        """
        if layout not in PIXELS:
            raise UsageError("unknown pixels", expected=" | ".join(PIXELS), got=layout)
        part = PIXELS[layout]
        if self._has(part):
            return self.run(part, latent=latent)["pixels"]
        rows, step = self._check("decoder", {"latent": latent}), self.rows_at_a_time("decoder")
        pieces = (self._decode(latent[start : start + step]) for start in range(0, rows, step))
        return np.concatenate([to_bytes(piece, self.contract, part) for piece in pieces])

    def encode(self, image: Float32) -> tuple[Float32, Float32]:
        """Encode images.

        Args:
            image: (N, C, H, W) in the contract's range.

        Returns:
            Mean and logvar of the posterior, each of the shape of latents.
        """
        outputs = self.run("encoder", image=image)
        return outputs["mean"], outputs["logvar"]

    def reconstruct(self, image: Float32) -> Float32:
        """Decode the posterior means of images (N, C, H, W), without noise; return images of the same shape."""
        mean, _ = self.encode(image)
        return self._decode(mean)

    def prior(self, n: int, seed: int = 0, *, start: int = 0) -> Float32:
        """Draw latents from N(0, I). Equal seeds give equal bits in every language and on every machine.

        Args:
            n: number of latents, >= 1.
            seed: 0 to 2^64 - 1.
            start: index of the first latent in the sequence of this seed, so that the sequence can be drawn in pieces.

        Returns:
            Latents (n, Z), or (n, C, H, W) where latents are feature maps.
        """
        n = check_integer("number of samples", n, 1, _MAX_ROWS)
        try:
            return rng.sample((n, *self.contract.latents[0].fixed_item), seed, start=start)
        except MemoryError as error:
            raise OutOfMemoryError(f"{n:,} latents") from error

    def sample(self, n: int, seed: int = 0, *, start: int = 0) -> Float32:
        """Decode n latents of `prior`; return images (n, C, H, W)."""
        return self._decode(self.prior(n, seed, start=start))

    def interpolate(self, a: Float32, b: Float32, steps: int) -> Float32:
        """Decode latents on the straight line between the posterior means of two images.

        Args:
            a, b: images (C, H, W) in the contract's range.
            steps: number of images, >= 2.

        Returns:
            Images (steps, C, H, W); the first and the last are the reconstructions of `a` and `b`.
        """
        steps = check_integer("number of steps", steps, 2, _MAX_ROWS)
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
        """Compute the golden vectors with every ONNX file, and compare the outputs with the expected ones.

        Raises:
            ModelError: the export has no golden vectors.
        """
        precisions = {part: chosen.precision for part, chosen in self._chosen.items()}
        return self_test(self._package, self.run, precisions)

    def running(self, part: Part) -> ChosenOptions:
        """Return the file, options and reason for a part; decoders with uint8 pixels use those of the decoder."""
        return self._chosen[float_part(part)]

    def run(self, part: Part, **inputs: Array) -> dict[str, Array]:
        """Run one part.

        Args:
            part: the part.
            inputs: the inputs by name, each (N, …), with the contract's shape and dtype.

        Returns:
            The outputs by name, each (N, …).
        """
        self._session(part)  # a file that cannot be opened is reported before inputs that do not fit
        return self._compute(part, inputs, self._check(part, inputs))

    def rows_at_a_time(self, part: Part) -> int:
        """Return the number of rows that are computed at a time."""
        if self._batch_size is not None:
            return self._batch_size
        spec = self.contract.spec(part)
        row = sum(4 * int(np.prod(tensor.fixed_item)) for tensor in (*spec.inputs, *spec.outputs))
        return max(1, min(_MAX_PIECE_ROWS, _MAX_PIECE_BYTES // row))

    def _check(self, part: Part, inputs: dict[str, Array]) -> int:
        """Check all rows before the first piece is computed; return their number."""
        spec = self.contract.spec(part)
        rows = spec.check_inputs(inputs)
        spec.check_ranges(inputs)
        return rows

    def _decode(self, latent: Float32) -> Float32:
        """Decode latents that were checked."""
        return self._compute("decoder", {"latent": latent}, len(latent))["image"]

    def _compute(self, part: Part, inputs: dict[str, Array], rows: int) -> dict[str, Array]:
        """Compute checked inputs, piece by piece."""
        session, step = self._session(part), self.rows_at_a_time(part)
        if rows <= step:
            return session.compute(inputs, rows)
        spec = self.contract.spec(part)
        try:
            outputs = {tensor.name: np.empty((rows, *tensor.fixed_item), tensor.dtype) for tensor in spec.outputs}
        except MemoryError as error:
            raise OutOfMemoryError(f"{rows:,} rows of {part}") from error
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            computed = session.compute({name: array[start:stop] for name, array in inputs.items()}, stop - start)
            for name, array in computed.items():
                outputs[name][start:stop] = array
        return outputs

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


def load(
    path: str | Path,
    *,
    precision: PrecisionName | None = None,
    provider: str | None = None,
    threads: int | None = None,
    batch_size: int | None = None,
) -> Model:
    """Open a bundle or an export folder for running.

    If `vae-export tune` has recommended options on an equal machine, the model uses them, unless the caller gives a
    precision, a provider or a number of threads. `Model.running` returns the chosen options and the reason.

    Args:
        path: a bundle such as mnist.zip, or the folder that `export` wrote.
        precision: precision of the files, such as "int8"; None uses float32, or the only precision of the export.
        provider: an ONNX Runtime provider; None uses the CPU. There is no fallback to another provider.
        threads: number of threads within an operator; None lets ONNX Runtime choose.
        batch_size: number of rows that are computed at a time; None chooses it from their size.

    Returns:
        The model. Each of its files is opened at its first use.

    Raises:
        ModelError: the path does not exist, or is neither a bundle nor an export.
        IntegrityError: a file does not match its hash.
        UsageError: no file has this precision, or an argument is out of range.
    """
    return Model(open_package(path), precision=precision, provider=provider, threads=threads, batch_size=batch_size)


def open_package(path: str | Path) -> Package:
    """Open the bundle or export folder at a path; raise the errors that `load` raises."""
    expected, do = "a bundle, or the folder of an export", "check the path, or run: vae-export export"
    try:
        exists = Path(path).exists()
    except OSError as error:  # a name that is too long, or a folder that may not be entered
        where = f"{str(path)[:60]}…" if len(str(path)) > 60 else path
        raise ModelError("path cannot be read", where=where, expected=expected, got=error.strerror, do=do) from error
    if not exists:
        raise ModelError("no such file or folder", where=path, expected=expected, do=do)
    return open_artifact(path) if Path(path).is_dir() else open_bundle(path)
