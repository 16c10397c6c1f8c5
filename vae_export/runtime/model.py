"""`load` opens an exported VAE as a `Model`, which computes on numpy arrays."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vae_export.artifact.file_metadata import check_file_metadata
from vae_export.artifact.folder import Package, open_artifact
from vae_export.artifact.manifest import Manifest
from vae_export.bundles import Key, open_bundle
from vae_export.contract import EVERY_PART, PARTS, PIXELS, Array, Contract, Part, PartSpec, Pixels, float_part
from vae_export.errors import IntegrityError, ModelError, OutOfMemoryError, UsageError
from vae_export.pixels import to_pixels
from vae_export.precision import PrecisionName
from vae_export.rng import check_integer
from vae_export.runtime.chosen_options import ChosenOptions, choose_options
from vae_export.runtime.conditions import condition_rows
from vae_export.runtime.fast_path import FastPath
from vae_export.runtime.prior import draw_prior
from vae_export.runtime.self_test import SelfTest, self_test
from vae_export.runtime.session import Session
from vae_export.runtime.tiling import Tiling
from vae_export.session_options import MAX_THREADS
from vae_export.tensors import BATCH, Symbol

#: An array where the contract has one latent, and otherwise arrays by the latent's name.
Latents: TypeAlias = "Array | Mapping[str, Array]"
Bytes = npt.NDArray[np.uint8]

#: Limits of the rows that are computed at a time, and of the bytes of their inputs and outputs: enough to keep all
#: cores busy, and few enough that the activations fit into memory.
MAX_PIECE_ROWS, _MAX_PIECE_BYTES = 1024, 8 << 20
#: The largest number of rows. It exceeds any memory, and numpy raises unclear errors for larger numbers.
_MAX_ROWS = 1 << 40


class Model:
    """An exported VAE, which several threads can use. Each ONNX file is opened at its first use.

    A process that forks loads it in the child, where neither the engine's threads nor one that opens a file live on.

    Arrays have the contract's dtype, which is float32 except for codes and classes, and any number of rows >= 1. Many
    rows are computed in pieces, also where a graph takes few rows or a fixed number of them. Every method raises
    `ModelError` for another dtype, byte order or shape, for numbers that are not finite and for pixels, codes and
    conditions out of range. It raises `OutOfMemoryError` if the result does not fit into memory.

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
        self._batch = self.contract.symbols.get(BATCH, Symbol())
        self._symbols = self.contract.free_symbols
        self._rows_at_a_time: dict[tuple[Part, frozenset[tuple[str, int]]], int] = {}
        self._sessions: dict[Part, Session] = {}
        self._fast_paths: dict[Part, FastPath | None] = {}
        self._decoded = self.contract.output.name
        self._opening = threading.Lock()

    def __repr__(self) -> str:
        """Return a line for each part that can run: inputs, outputs, precision, provider and other options.

        A last line has what a contract of one size and a normal prior does not need: prior, sizes, batch, scaling.
        """
        lines = []
        for part in self.parts:
            spec, chosen = self.contract.spec(part), self.running(part)
            inputs, outputs = (", ".join(map(str, tensors)) for tensors in (spec.inputs, spec.outputs))
            lines.append(f"  {part}: {inputs} → {outputs}; {chosen.precision}, {chosen.options}")
        if not self.contract.is_plain:
            lines.append("  " + "; ".join(self._facts()))
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])

    def _facts(self) -> Iterable[str]:
        contract = self.contract
        yield f"{contract.encoding} encoder"
        yield f"prior {contract.prior}"
        for name, symbol in contract.symbols.items():
            usual = "" if name == BATCH else f", usually {symbol.usual_value}"
            yield f"{name} from {symbol.low} {f'to {symbol.high}' if symbol.high else 'up'}{usual}"
        if (contract.scaling_factor, contract.shift_factor) != (1, 0):
            yield f"scaling_factor {contract.scaling_factor:g}, shift_factor {contract.shift_factor:g}"

    @property
    def manifest(self) -> Manifest:
        """The manifest of the export or bundle."""
        return self._package.manifest

    @property
    def contract(self) -> Contract:
        """Shapes and ranges of images and latents."""
        return self._package.manifest.contract

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts that can run: those with an ONNX file of the chosen precision."""
        return tuple(filter(self._has, EVERY_PART))

    def decode(
        self,
        latent: Latents | None = None,
        /,
        *,
        out: Array | None = None,
        tile: int | None = None,
        overlap: int | None = None,
        **inputs: Any,
    ) -> Array:
        """Decode latents: `model.decode(latent)`, `model.decode(latent, label=3)` or `model.decode(z1=…, z2=…)`.

        Args:
            latent: (N, Z), or (N, C, H, W) where latents are feature maps; integers where the contract has codes.
                Several latents are a dict by name.
            out: a C-contiguous array of the result's shape and dtype, into which the result is written; None makes one.
            tile: where sizes are open, the size of the tiles of the latent that are decoded one after the other and
                blended, which takes the memory of one tile and deviates from decoding the whole. None decodes it whole.
            overlap: how many elements of the latent neighbouring tiles share; None takes an eighth of the tile.
            inputs: conditions by name: an array with N rows, or one value for all rows. Latents may be given by name.

        Returns:
            Data in the contract's range; images are (N, C, H, W), in [0, 1] for models trained here. This is `out`,
            where that was given.

        Raises:
            UsageError: the tile or the overlap does not fit the network.
        """
        if tile is not None or overlap is not None:
            return self._tiled("decoder", latent, inputs, tile, overlap, out)[self._decoded]
        return self._run_with("decoder", latent, inputs, out)[self._decoded]

    def pixels(self, latent: Latents | None = None, /, layout: Pixels = "uint8-hwc", **inputs: Any) -> Bytes:
        """Decode latents to bytes for a screen.

        If the export has a decoder with this layout (`--pixels`), that decoder computes the bytes. Otherwise float32
        images are rounded here. Section 4 of the bundle's specification allows both results, which can differ if the
        exact value lies on the boundary between two levels.

        Args:
            latent, inputs: as for `decode`.
            layout: "uint8-hwc" or "uint8-chw".

        Returns:
            uint8 (N, H, W, C), or (N, C, H, W) for "uint8-chw".

        Raises:
            UsageError: an unknown layout.
            ModelError: the decoder gives no images of 1 to 4 channels.
        """
        if layout not in PIXELS:
            raise UsageError("unknown pixels", expected=" | ".join(PIXELS), got=layout)
        if not self.contract.is_image:
            expected, do = "images of 1 to 4 channels in a range", "call decode"
            raise ModelError("output cannot be shown", expected=expected, got=str(self.contract.output), do=do)
        part, arrays = PIXELS[layout], self._inputs("decoder", latent, inputs)
        if self._has(part):
            return self.run(part, **arrays)["pixels"]
        rows, step = self._check("decoder", arrays), self.rows_at_a_time("decoder", self._sizes("decoder", arrays))
        pieces = []
        for start in range(0, rows, step):
            piece = {name: array[start : start + step] for name, array in arrays.items()}
            pieces.append(self._compute("decoder", piece, min(step, rows - start))["image"])
        return np.concatenate([to_pixels(piece, self.contract, part) for piece in pieces])

    def encode(
        self,
        data: Array | None = None,
        /,
        *,
        tile: int | None = None,
        overlap: int | None = None,
        **inputs: Any,
    ) -> Any:
        """Encode data, such as `model.encode(image)` or `model.encode(image, label=3)`.

        Args:
            data: images (N, C, H, W) in the contract's range, or other data of the contract's shape.
            tile, overlap: as for `decode`, in elements of the data, such as pixels.
            inputs: conditions by name: an array with N rows, or one value for all rows.

        Returns:
            By the contract's encoding: "gaussian" gives mean and logvar of the posterior, each of the shape of latents;
            "deterministic" gives latents; "codes" gives integers. Where there are several latents, each of these is a
            dict by the latent's name.
        """
        if tile is None and overlap is None:
            outputs = self._run_with("encoder", data, inputs)
        else:
            outputs = self._tiled("encoder", data, inputs, tile, overlap)
        if self.contract.encoding != "gaussian":
            return self._latents(outputs)
        mean, logvar = list(outputs.values())[::2], list(outputs.values())[1::2]
        return self._latents(self._by_latent(mean)), self._latents(self._by_latent(logvar))

    def reconstruct(self, data: Array | None = None, /, *, out: Array | None = None, **inputs: Any) -> Array:
        """Encode data, and decode the posterior means, or the latents or codes, without noise.

        Args:
            data: as for `encode`.
            out: as for `decode`.
            inputs: conditions of the encoder and the decoder by name.

        Returns:
            Data, such as images (N, C, H, W).
        """
        arrays = self._inputs("autoencoder", data, inputs)
        return self._decode(self._encoded(arrays), arrays, out)

    def prior(self, n: int, seed: int = 0, *, start: int = 0, sizes: Mapping[str, int] | None = None) -> Any:
        """Draw latents from the prior. Equal seeds give equal bits in every language and on every machine.

        Args:
            n: number of latents, >= 1.
            seed: 0 to 2^64 - 1.
            start: index of the first latent in the sequence of this seed, so that the sequence can be drawn in pieces.
            sizes: values of the contract's symbols, such as {"h": 32, "w": 32}; others have their usual value.

        Returns:
            Latents (n, Z), or (n, C, H, W) where latents are feature maps; a dict by name where there are several.

        Raises:
            ModelError: the contract says that the prior is given by the user.
        """
        return self._latents(self._prior(n, seed, start, sizes))

    def sample(
        self,
        n: int,
        /,
        seed: int = 0,
        *,
        start: int = 0,
        sizes: Mapping[str, int] | None = None,
        out: Array | None = None,
        **conditions: Any,
    ) -> Array:
        """Decode n latents of `prior`.

        Args:
            n, seed, start, sizes: as for `prior`.
            out: as for `decode`.
            conditions: conditions of the decoder by name: an array with n rows, or one value for all rows.

        Returns:
            Data, such as images (n, C, H, W).
        """
        return self.decode(self._prior(n, seed, start, sizes), out=out, **conditions)

    def interpolate(self, a: Array, b: Array, /, steps: int, **conditions: Any) -> Array:
        """Decode latents on the straight line between the posterior means, or the latents, of two images.

        Args:
            a, b: images (C, H, W) in the contract's range, or other rows of data of one shape.
            steps: number of results, >= 2.
            conditions: conditions by name, with one value for all steps.

        Returns:
            Images (steps, C, H, W) or other data; the first and the last are the reconstructions of `a` and `b`.

        Raises:
            ModelError: the latents are codes, between which there is nothing.
        """
        steps = check_integer("number of steps", steps, 2, _MAX_ROWS)
        if self.contract.encoding == "codes":
            raise ModelError("codes cannot be interpolated", expected="latents of real numbers")
        spec = self.contract.data
        shape = getattr(a, "shape", None) if self._symbols else spec.item
        for name, row in (("a", a), ("b", b)):
            for what, expected in (("shape", shape), ("dtype", np.dtype(spec.dtype))):
                if (got := getattr(row, what, type(row).__name__)) != expected:
                    raise ModelError(f"wrong {what}", where=f"{spec.name} '{name}'", expected=expected, got=got)
        ends = self._encoded(self._inputs("autoencoder", np.stack([a, b]), conditions))
        latents = {}
        try:
            for name, (first, last) in ends.items():
                along = np.linspace(0, 1, steps, dtype=np.float32).reshape(-1, *(1,) * first.ndim)
                latents[name] = (first + along * (last - first)).astype(np.float32, copy=False)
        except MemoryError as error:
            raise OutOfMemoryError(f"{steps:,} steps") from error
        return self.decode(latents, **self._taken("decoder", conditions))

    def scale_latent(self, latent: Array) -> Array:
        """Return a latent as a diffusion model takes it: (latent - shift_factor) · scaling_factor."""
        contract = self.contract
        return (latent - np.float32(contract.shift_factor)) * np.float32(contract.scaling_factor)

    def unscale_latent(self, latent: Array) -> Array:
        """Return a diffusion model's latent as the decoder takes it: latent / scaling_factor + shift_factor."""
        contract = self.contract
        return latent / np.float32(contract.scaling_factor) + np.float32(contract.shift_factor)

    def self_test(self) -> SelfTest:
        """Compute the golden vectors with every ONNX file, and compare the outputs with the expected ones.

        Raises:
            ModelError: the export has no golden vectors.
        """
        precisions = {part: chosen.precision for part, chosen in self._chosen.items()}
        return self_test(self._package, self.run, precisions)

    def running(self, part: Part) -> ChosenOptions:
        """Return the file, options and reason for a part; decoders with uint8 pixels use those of the decoder.

        Raises:
            ModelError: there is no such part.
        """
        self.contract.spec(part)  # refuses an unknown part
        return self._chosen[float_part(part)]

    def run(self, part: Part, /, **inputs: Array) -> dict[str, Array]:
        """Run one part.

        Args:
            part: the part.
            inputs: the inputs by name, each (N, …), with the contract's shape and dtype.

        Returns:
            The outputs by name, each (N, …).
        """
        self._session(part)  # a file that cannot be opened is reported before inputs that do not fit
        return self._compute(part, inputs, self._check(part, inputs))

    def rows_at_a_time(self, part: Part, sizes: Mapping[str, int] | None = None) -> int:
        """Return the number of rows that are computed at a time.

        Args:
            part: the part.
            sizes: values of the contract's symbols; others have their usual value.
        """
        key = part, frozenset((sizes or {}).items())
        if key not in self._rows_at_a_time:
            self._rows_at_a_time[key] = self._choose_rows(part, sizes or {})
        return self._rows_at_a_time[key]

    def _choose_rows(self, part: Part, sizes: Mapping[str, int]) -> int:
        """Choose the rows of a piece: those that the caller wants, or few enough for the memory, within the batch."""
        usual = {name: symbol.usual_value for name, symbol in self._symbols.items()}
        spec = self.contract.spec(part).at({**usual, **sizes})
        row = sum(tensor.bytes_per_row for tensor in (*spec.inputs, *spec.outputs))
        wanted = self._batch_size or min(MAX_PIECE_ROWS, _MAX_PIECE_BYTES // row)
        return max(self._batch.low, min(wanted, self._batch.high or wanted))

    def _inputs(self, part: Part, first: Any, others: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs of a part by name. The conditions have a row for each row of the first input."""
        data = self.contract.spec(part).inputs[0].name
        if isinstance(first, Mapping):
            inputs = {**first, **others}
        elif first is None and data in others:
            inputs = dict(others)
        elif data in others:
            raise UsageError("input is given twice", where=data)
        else:
            inputs = {data: first, **others}
        if self.contract.conditions:
            array = inputs.get(data)
            rows = len(array) if isinstance(array, np.ndarray) and array.ndim else 1
            for condition in self.contract.conditions:
                if condition.name in inputs:
                    inputs[condition.name] = condition_rows(condition.tensor, inputs[condition.name], rows)
        return inputs

    def _taken(self, part: Part, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the conditions that a part takes. Unknown names stay, because the check of the inputs names them."""
        others = {condition.name for condition in self.contract.conditions if part not in condition.parts}
        return {name: value for name, value in inputs.items() if name not in others}

    def _encoded(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Encode data with conditions; return posterior means, latents or codes by the latent's name."""
        outputs = self.run("encoder", **self._taken("encoder", inputs))
        every = 2 if self.contract.encoding == "gaussian" else 1
        return self._by_latent(list(outputs.values())[::every])

    def _decode(self, latents: Mapping[str, Array], inputs: Mapping[str, Any], out: Array | None) -> Array:
        """Decode latents that were computed, with the decoder's conditions among the inputs of an autoencoder."""
        conditions = {item.name for item in self.contract.conditions if "decoder" in item.parts}
        arrays = {**latents, **{name: inputs[name] for name in conditions & set(inputs)}}
        if conditions:
            self._check("decoder", arrays)
        return self._compute("decoder", arrays, len(next(iter(latents.values()))), out)[self._decoded]

    def _prior(self, n: int, seed: int, start: int, sizes: Mapping[str, int] | None) -> dict[str, Array]:
        n, contract, known = check_integer("number of samples", n, 1, _MAX_ROWS), self.contract, {}
        for name, value in (sizes or {}).items():
            if name not in self._symbols:
                raise UsageError("unknown size", expected=" | ".join(self._symbols) or "no sizes", got=name)
            bounds = self._symbols[name]
            known[name] = check_integer(f"size {name}", value, bounds.low, bounds.high)
        try:
            return draw_prior(contract.at(known), n, seed, start=start)
        except MemoryError as error:
            raise OutOfMemoryError(f"{n:,} latents") from error

    def _by_latent(self, arrays: Iterable[Array]) -> dict[str, Array]:
        return dict(zip((tensor.name for tensor in self.contract.latents), arrays, strict=True))

    def _latents(self, arrays: Mapping[str, Array]) -> Latents:
        """Return an array where the contract has one latent, and otherwise all by name."""
        return arrays if isinstance(self.contract.latent_shape, Mapping) else next(iter(arrays.values()))

    def _check(self, part: Part, inputs: dict[str, Array]) -> int:
        """Check all rows before the first piece is computed; return their number."""
        spec = self.contract.spec(part)
        rows = spec.check_inputs(inputs)
        spec.check_ranges(inputs)
        return rows

    def _sizes(self, part: Part, inputs: Mapping[str, Array]) -> dict[str, int]:
        """Return the values of the contract's symbols for inputs of the right rank."""
        return self.contract.spec(part).sizes(inputs) if self._symbols else {}

    def _run_with(
        self, part: Part, first: Any, others: Mapping[str, Any], out: Array | None = None
    ) -> dict[str, Array]:
        """Run a part with its first input, and others by name; ordinary calls without others take the fast path."""
        fast = self._fast_paths.get(part)
        if fast is not None and out is None and not others and (found := fast.run(first)) is not None:
            return found
        inputs = self._inputs(part, first, others)
        self._session(part)
        return self._compute(part, inputs, self._check(part, inputs), out)

    def _tiled(
        self,
        part: Part,
        first: Any,
        others: Mapping[str, Any],
        tile: int | None,
        overlap: int | None,
        out: Array | None = None,
    ) -> dict[str, Array]:
        """Run a part tile by tile; the arguments are those of `_run_with` and `Tiling.of`."""
        spec = self.contract.spec(part)
        tiling, inputs = Tiling.of(spec, tile, overlap), self._inputs(part, first, others)
        sizes = tiling.sizes(inputs)
        spec.check_ranges(inputs)
        outputs = _allocated(spec.at(sizes), len(inputs[spec.inputs[0].name]), out)
        tiling.run(lambda piece: self.run(part, **piece), inputs, outputs)
        return outputs

    def _compute(
        self, part: Part, inputs: Mapping[str, Array], rows: int, out: Array | None = None
    ) -> dict[str, Array]:
        """Compute checked inputs: in pieces where there are many, and with repeated rows where the graph needs more."""
        session, sizes, least = self._session(part), self._sizes(part, inputs), self._batch.low
        step = self.rows_at_a_time(part, sizes)
        if out is None and least <= rows <= step:
            return session.compute(inputs, rows)
        spec = self.contract.spec(part).at(sizes)
        outputs = _allocated(spec, rows, out)
        for start in range(0, rows, step):
            count = min(step, rows - start)
            piece = {name: array[start : start + count] for name, array in inputs.items()}
            into = {name: array[start : start + count] for name, array in outputs.items()}
            if count >= least:
                session.compute(piece, count, into)
                continue
            for name, array in session.compute(_repeated(piece, least), least).items():
                into[name][...] = array[:count]
        return outputs

    def _has(self, part: Part) -> bool:
        kind = part, self.running(part).precision
        return any((entry.part, entry.precision) == kind for entry in self.manifest.runtime_files)

    def _session(self, part: Part) -> Session:
        with self._opening:
            if part not in self._sessions:
                chosen = self.running(part)
                entry = self.manifest.entry(part, precision=chosen.precision)
                data = self._package.read(entry)
                sidecars = {sidecar.name: self._package.read(sidecar) for sidecar in entry.beside}
                session = Session(data, self.contract.spec(part), chosen.options, sidecars)
                check_file_metadata(session.metadata, entry, self.manifest)
                self._sessions[part] = session
                self._fast_paths[part] = None if self._symbols else session.fast_path(self.rows_at_a_time(part))
            return self._sessions[part]


def _allocated(spec: PartSpec, rows: int, out: Array | None) -> dict[str, Array]:
    """Return arrays for the outputs of a part; the first is the caller's, if there is one that fits."""
    first, *others = spec.outputs
    expected, dtype = (rows, *first.fixed_item), np.dtype(first.dtype)
    if out is not None:
        flags = getattr(out, "flags", None)
        fits = (getattr(out, "shape", None), getattr(out, "dtype", None)) == (expected, dtype)
        if flags is None or not (fits and flags.c_contiguous and flags.writeable):
            got = type(out).__name__ if flags is None else f"{out.dtype} {out.shape}"
            raise ModelError("wrong array", where="out", expected=f"writable, contiguous {dtype} {expected}", got=got)
    try:
        arrays = {tensor.name: np.empty((rows, *tensor.fixed_item), tensor.dtype) for tensor in others}
        return {first.name: np.empty(expected, dtype) if out is None else out, **arrays}
    except MemoryError as error:
        raise OutOfMemoryError(f"{rows:,} rows of {spec.part}") from error


def _repeated(inputs: Mapping[str, Array], rows: int) -> dict[str, Array]:
    """Repeat the last row of each array until there are this many."""
    return {
        name: np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])
        for name, array in inputs.items()
    }


def load(
    path: str | Path,
    *,
    precision: PrecisionName | None = None,
    provider: str | None = None,
    threads: int | None = None,
    batch_size: int | None = None,
    verify_key: Key | None = None,
) -> Model:
    """Open a bundle or an export folder for running.

    If `vae-export tune` has recommended options on an equal machine, the model uses them, unless the caller gives a
    precision, a provider or a number of threads. `Model.running` returns the chosen options and the reason.

    Args:
        path: a bundle such as mnist.zip, or the folder that `export` wrote.
        precision: precision of the files, such as "int8"; None uses float32, or the only precision of the export.
        provider: an ONNX Runtime provider, in short CPU or CUDA; None uses the CPU. There is no fallback to
            another provider.
        threads: number of threads within an operator; None lets ONNX Runtime choose.
        batch_size: number of rows that are computed at a time; None chooses it from their size.
        verify_key: the Ed25519 public key of whoever must have signed the bundle: the path of a PEM file, or its bytes.
            It needs the extra `sign`. None accepts bundles without a signature, and does not check one.

    Returns:
        The model. Each of its files is opened at its first use.

    Raises:
        ModelError: the path does not exist, or is neither a bundle nor an export.
        IntegrityError: a file does not match its hash, or the bundle has no signature by `verify_key`.
        UsageError: no file has this precision, or an argument is out of range.
    """
    package = open_package(path, verify_key=verify_key)
    return Model(package, precision=precision, provider=provider, threads=threads, batch_size=batch_size)


def open_package(path: str | Path, *, verify_key: Key | None = None) -> Package:
    """Open the bundle or export folder at a path; raise the errors that `load` raises."""
    expected, do = "a bundle, or the folder of an export", "check the path, or run: vae-export export"
    try:
        exists = Path(path).exists()
    except OSError as error:  # a name that is too long, or a folder that may not be entered
        where = f"{str(path)[:60]}…" if len(str(path)) > 60 else path
        raise ModelError("path cannot be read", where=where, expected=expected, got=error.strerror, do=do) from error
    if not exists:
        raise ModelError("no such file or folder", where=path, expected=expected, do=do)
    if not Path(path).is_dir():
        return open_bundle(path, verify_key=verify_key)
    if verify_key is not None:
        raise IntegrityError("not signed", where=path, expected="a signed bundle", got="a folder")
    return open_artifact(path)
