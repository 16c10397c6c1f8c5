"""Make the golden vectors of an export; docs/bundle-format.md, section 5, specifies them.

The expected outputs are PyTorch's in float64, and the tolerances are those of the certificate. So an application that
passes has repeated the checks of `verify` in its own process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vae_export.artifact.golden import (
    DTYPES,
    FEWEST_ROWS,
    GOLDEN_FOLDER,
    INTEGERS,
    MOST_ROWS,
    SUFFIXES,
    GoldenArray,
    GoldenPart,
)
from vae_export.capture import Captured
from vae_export.contract import MAX_LEVEL, Array, Contract, Part
from vae_export.errors import ModelError
from vae_export.io.atomic import sha256
from vae_export.models.checkpoint import Checkpoint
from vae_export.parity.oracle import PERTURBATIONS
from vae_export.parity.plan import FEWEST_PERTURBATIONS
from vae_export.parity.probes import SIX_SIGMA, Probe, evaluate_rows
from vae_export.parity.reference import Case, ProbeOutputs, References, probe_cases
from vae_export.pixels import to_levels
from vae_export.precision import FULL, PrecisionName
from vae_export.rng import sample, sample_codes
from vae_export.sources import Source
from vae_export.system.threads import one_thread
from vae_export.tensors import BATCH, Symbol, TensorSpec

#: Largest size of a golden array in bytes; two rows are always kept. Sixteen colour images of 512 x 512 would be 50 MB.
_MAX_BYTES = 1 << 20
#: Networks with more weights have golden vectors of three rows (zeros, ±6, random) at open sizes of 4, because PyTorch
#: computes them in float64 several times, and a row of Stable Diffusion's decoder takes seconds.
_LARGE_NETWORK, _MOST_ROWS_OF_LARGE, _SIZE_OF_LARGE = 10_000_000, 3, 4
#: Seeds of the first latent, of its noise, and of data that no decoder makes. A second latent takes 2 and 3.
_LATENT_SEED, _NOISE_SEED, _DATA_SEED = 0, 1, 1 << 32


@one_thread()
def golden_vectors(
    source: Source | Checkpoint | Captured | References,
    parts: Sequence[Part],
    precisions: Sequence[PrecisionName] = (FULL,),
    progress: Callable[[float], None] = lambda _share: None,
) -> tuple[tuple[GoldenPart, ...], dict[str, bytes]]:
    """Make the inputs, expected outputs and tolerances with which an application tests its copy of a model.

    PyTorch computes them with one thread, so that their bytes do not depend on the number of cores.

    Args:
        source: the source of the export.
        parts: parts of the source.
        precisions: precisions of the files; each gets a tolerance of its own.
        progress: called before each part with the share of parts that are done.

    Returns:
        The vectors of each part for the manifest, and the files that hold them by name.

    Raises:
        ModelError: rounding errors are so large that a tolerance is not finite.
    """
    references = References.of(source)
    probe = _probe(references.captured, parts)
    files: dict[str, bytes] = {}

    def stored(tensor: str, name: str, array: Array, **tolerances: Any) -> GoldenArray:
        dtype = array.dtype.name if array.dtype.name in INTEGERS else "float32"
        path, data = f"{GOLDEN_FOLDER}/{name}{SUFFIXES[dtype]}", np.ascontiguousarray(array, DTYPES[dtype]).tobytes()
        files[path] = data
        return GoldenArray(tensor, path, array.shape, sha256(data), dtype=dtype, **tolerances)

    golden = []
    for index, part in enumerate(parts):
        progress(index / len(parts))
        cases = _cases(references, part, probe, dict.fromkeys((FULL, *precisions)))
        full = cases.pop(FULL)
        inputs = tuple(stored(name, name, array) for name, array in full.inputs.items())
        outputs = []
        for name, array in full.expected.items():
            tolerance = _tolerance(full, part, name)
            tolerances = {item: _tolerance(case, part, name) for item, case in cases.items()}
            outputs.append(stored(name, f"{part}.{name}", array, tolerance=tolerance, tolerances=tolerances))
        golden.append(GoldenPart(part, inputs, tuple(outputs)))
    return tuple(golden), files


def _cases(
    references: References, part: Part, probe: Probe, precisions: Iterable[PrecisionName]
) -> dict[PrecisionName, Case]:
    """Return the probe as a test case of each precision, with all its rows."""
    rows = len(next(iter(probe.arrays.values())))
    oracle = references.oracle(part)
    inputs = probe.inputs(oracle.graph.spec, rows)
    if inputs is None:
        raise ModelError("no golden inputs", where=part)
    # The smallest batch is included, because PyTorch uses another kernel for a batch of one row.
    fewest = oracle.graph.spec.symbols.get(BATCH, Symbol()).low
    outputs = ProbeOutputs.of(oracle, probe.name, inputs, tuple(dict.fromkeys((fewest, rows))))
    perturbations = FEWEST_PERTURBATIONS if _is_large(references.captured) else PERTURBATIONS
    return {
        precision: probe_cases(
            oracle, [outputs], precision, references.function(part, precision), perturbations=perturbations
        )[-1]
        for precision in precisions
    }


def _tolerance(case: Case, part: Part, output: str) -> float:
    """Return the largest error that passes; for codes, the number of them that rounding changes.

    Raises:
        ModelError: the tolerance of floats is not finite and above zero, as readers need.
    """
    if output in case.unstable:
        return int(case.unstable[output].sum())
    limits = case.limits[output]
    tolerance = limits.tolerance()
    if not 0 < tolerance < math.inf:
        where = f"{part}, '{output}', {limits.precision}"
        raise ModelError("golden vectors have no finite tolerance", where=where, expected="finite", got=tolerance)
    return tolerance


def _probe(captured: Captured, parts: Sequence[Part]) -> Probe:
    """Return a probe of latents (zeros, ±6 and random), the data they decode to, random noise, and conditions."""
    is_large = _is_large(captured)
    contract = _sized(captured.contract, is_large=is_large)
    rows = _rows(contract, most=_MOST_ROWS_OF_LARGE if is_large else MOST_ROWS)
    arrays: dict[str, Array] = {}
    for index, latent in enumerate(contract.latents):
        arrays[latent.name] = (_codes if latent.is_integer else _latents)(latent, rows, _LATENT_SEED + 2 * index)
    tensors = contract.spec("autoencoder").inputs
    for index, noise in enumerate(tensor for tensor in tensors if tensor.role == "noise"):
        arrays[noise.name] = sample((rows, *noise.fixed_item), _NOISE_SEED + 2 * index)
    rng = np.random.default_rng(_LATENT_SEED)
    arrays |= {tensor.name: tensor.draw(rows, rng) for tensor in tensors if tensor.role == "condition"}
    if any(part != "decoder" for part in parts):
        arrays[contract.data.name] = _data(captured, contract, arrays, rows)
    return Probe("golden", arrays)


def _is_large(captured: Captured) -> bool:
    """Whether a row of the network may take seconds. It is not timed, so that equal exports have equal bytes."""
    modules = (captured.source.encoder, captured.source.decoder)
    return sum(weight.numel() for module in modules if module for weight in module.parameters()) > _LARGE_NETWORK


def _sized(contract: Contract, *, is_large: bool) -> Contract:
    """Return the contract at its usual sizes, or at smaller ones where the arrays or the network are too large."""
    usual = contract.at()
    if not is_large and _row_bytes(usual) * FEWEST_ROWS <= _MAX_BYTES:
        return usual
    most = _SIZE_OF_LARGE if is_large else Symbol().usual_value
    symbols = contract.free_symbols.items()
    return contract.at({name: max(min(symbol.usual_value, most), symbol.low) for name, symbol in symbols})


def _row_bytes(contract: Contract) -> int:
    """Return the size of a row of the largest array."""
    tensors = (contract.data, contract.output, *contract.latents)
    return max(math.prod(tensor.fixed_item) * np.dtype(tensor.dtype).itemsize for tensor in tensors)


def _rows(contract: Contract, most: int) -> int:
    """Return the number of rows: few enough for `_MAX_BYTES`, and within the bounds of the batch."""
    bounds = contract.symbols.get(BATCH, Symbol())
    rows = min(max(_MAX_BYTES // _row_bytes(contract), FEWEST_ROWS), most)
    return max(min(rows, bounds.high or rows), bounds.low)


def _latents(tensor: TensorSpec, rows: int, seed: int) -> Array:
    """Return rows of zeros, of +6 and -6 in turn, and of random numbers."""
    latent = np.zeros((rows, *tensor.fixed_item), np.float32)
    far = np.full(math.prod(tensor.fixed_item), SIX_SIGMA, np.float32)
    far[1::2] *= -1
    latent[1:2] = far.reshape(tensor.fixed_item)
    latent[2:] = sample((max(rows - 2, 0), *tensor.fixed_item), seed)
    return latent


def _codes(tensor: TensorSpec, rows: int, seed: int) -> Array:
    """Return rows of the first code, of the last, and of random codes."""
    codes = np.empty((rows, *tensor.fixed_item), tensor.dtype)
    codes[0], codes[1:2] = tensor.low, tensor.high
    codes[2:] = sample_codes((max(rows - 2, 0), *tensor.fixed_item), int(tensor.high) + 1, seed)
    return codes


def _data(captured: Captured, contract: Contract, arrays: Mapping[str, Array], rows: int) -> Array:
    """Return data in the contract's range, in 256 levels as images have; it contains no training data.

    It is decoded from the latents where the decoder gives data.
    """
    data, has_decoder = contract.data, "decoder" in captured.source.parts and contract.gives_data
    decoded = evaluate_rows(captured.graph("decoder"), arrays)[data.name] if has_decoder else None
    if not data.is_bounded:
        return sample((rows, *data.fixed_item), _DATA_SEED) if decoded is None else decoded
    if decoded is not None:
        level = to_levels(decoded, data.low, data.high)
    else:  # without a decoder, every level in turn, with a step that shares no factor with most sizes
        shape = (rows, *data.fixed_item)
        level = (np.arange(math.prod(shape)) * 97 % (MAX_LEVEL + 1)).reshape(shape)
    scaled: Array = (data.low + level / np.float64(MAX_LEVEL) * (data.high - data.low)).astype(np.float32)
    return scaled
