"""Make and check the golden vectors of an export; docs/bundle-format.md, section 5, specifies them.

The expected outputs are PyTorch's in float64, and the tolerances are those of the certificate. So an application that
passes has repeated the checks of `verify` in its own process. `verify` computes them again from the source.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vae_export.artifact.folder import Artifact
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
from vae_export.artifact.manifest import MANIFEST
from vae_export.capture import Captured
from vae_export.contract import MAX_LEVEL, Array, Contract, Part
from vae_export.errors import ModelError
from vae_export.formats.base import Finding
from vae_export.io.atomic import sha256
from vae_export.models.checkpoint import Checkpoint
from vae_export.parity.cases import Case, ProbeOutputs, probe_cases
from vae_export.parity.oracle import PERTURBATIONS, evaluate_rows
from vae_export.parity.plan import FEWEST_PERTURBATIONS
from vae_export.parity.probes import SIX_SIGMA, Probe
from vae_export.parity.reference import References
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
    key = tuple(parts), frozenset((FULL, *precisions))
    if key in references.golden:
        return references.golden[key]
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
    references.golden[key] = tuple(golden), files
    return references.golden[key]


@one_thread()
def golden_findings(artifact: Artifact, references: References) -> list[Finding]:
    """Compare the golden vectors of an export with those that PyTorch computes, and return what is wrong with them.

    On another processor, PyTorch may decode other data for the inputs, and its own error may be another. So outputs and
    tolerances are computed for the inputs that are there.

    Args:
        artifact: the export; the hash of each array is checked.
        references: the source.

    Returns:
        An error for each array that is wrong, and a warning for data that another processor may decode.

    Raises:
        IntegrityError: an array is missing, or is not the one in the manifest.
    """
    manifest = artifact.manifest
    data = {array.name: artifact.read(array) for part in manifest.golden for array in (*part.inputs, *part.outputs)}
    if not manifest.golden:
        is_export = manifest.known and not manifest.is_of_single_file
        return [_wrong(MANIFEST, "no golden vectors; export always makes them")] if is_export else []
    parts, precisions = [part.part for part in manifest.golden], [entry.precision for entry in manifest.known]
    if missing := [part for part in parts if part not in references.source.parts]:
        return [_wrong(MANIFEST, f"golden vectors of {missing[0]}, which the source does not have")]
    expected, files = golden_vectors(references, parts, precisions)
    if expected == manifest.golden:
        return []
    findings: list[Finding] = []
    for stated, right in zip(manifest.golden, expected, strict=True):
        for array, other in zip(stated.inputs, right.inputs, strict=True):
            tensor = next(one for one in references.captured.graph(stated.part).spec.inputs if one.name == array.tensor)
            if (array.sha256, array.shape) != (other.sha256, other.shape):
                finding = _wrong(array.name, f"other inputs of {stated.part} than export makes")
                is_near = tensor.role == "data" and _is_same_data(tensor, array.array(data[array.name]), files, other)
                findings.append(replace(finding, severity="warning") if is_near else finding)
    cases: dict[Part, dict[PrecisionName, Case]] = {}
    for stated in manifest.golden:
        arrays = {array.tensor: array.array(data[array.name]) for array in stated.inputs}
        spec = references.captured.graph(stated.part).spec
        try:
            spec.check_inputs(arrays)
            spec.check_ranges(arrays)
            each = dict.fromkeys((FULL, *precisions))
            cases[stated.part] = _cases(references, stated.part, Probe("golden", arrays), each)
        except ModelError as error:
            findings.append(_wrong(MANIFEST, f"golden vectors of {stated.part}: {error.line()}"))
    is_here = any(
        _is_of_this_processor(stated, cases[stated.part]) for stated in manifest.golden if stated.part in cases
    )
    for stated in manifest.golden:
        findings += _wrong_outputs(stated, data, cases.get(stated.part, {}), is_here=is_here)
    return list(dict.fromkeys(findings))


def _is_same_data(tensor: TensorSpec, found: Array, files: Mapping[str, bytes], expected: GoldenArray) -> bool:
    """Whether two arrays of data are decoded from the same latents, perhaps on two processors.

    Decoded values are rounded to levels, so that another processor may give the next level; others differ by rounding.
    """
    right = expected.array(files[expected.name])
    if found.shape != right.shape or tensor.is_integer:
        return False
    step = (tensor.high - tensor.low) / MAX_LEVEL if tensor.is_bounded else float(np.abs(right).max())
    most = step * (1.001 if tensor.is_bounded else _OTHER_DATA)
    return bool((np.abs(found.astype(np.float64) - right) <= most).all())


def _wrong(where: str, detail: str) -> Finding:
    return Finding("golden-vectors", "error", where, detail)


#: Difference of data without a range, as a share of its largest value, that another processor may decode.
_OTHER_DATA = 1e-3
#: PyTorch's own error on another processor, by what it is here. That of rounded weights hardly depends on it.
_OTHER_PROCESSOR, _OTHER_PROCESSOR_INTEGERS = 2.0, 1.02
#: Relative differences between two processors in float64, and within a float32 that is stored.
_FLOAT64_ERROR, _STORED_ERROR = 1e-6, 2.0**-23


def _is_of_this_processor(stated: GoldenPart, cases: Mapping[PrecisionName, Case]) -> bool:
    """Whether a tolerance that follows from PyTorch's own float32 error equals the one here, in every digit."""
    return any(
        array.allowed(precision) == case.limits[array.tensor].tolerance()
        for array in stated.outputs
        for precision, case in cases.items()
        if array.tensor not in case.unstable
        and case.limits[array.tensor].baseline_error == case.limits[array.tensor].eager_error
    )


def _wrong_outputs(
    stated: GoldenPart, data: Mapping[str, bytes], cases: Mapping[PrecisionName, Case], *, is_here: bool
) -> Iterator[Finding]:
    """Yield a finding for each expected output and each tolerance that is not the one of the stated inputs."""
    for array in stated.outputs if cases else ():
        full = cases[FULL]
        found, expected = array.array(data[array.name]), full.expected[array.tensor]
        if array.tensor in full.unstable:
            wrong = (found != expected) & ~full.unstable[array.tensor]
        else:
            near = _STORED_ERROR * np.abs(expected) + 1e-12 * np.abs(expected).max() + np.finfo(np.float32).tiny
            wrong = ~(np.abs(found.astype(np.float64) - expected) <= near)
        if wrong.any():
            place = tuple(int(index) for index in np.argwhere(wrong)[0])
            detail = f"{int(wrong.sum()):,} of {wrong.size:,} expected outputs are wrong, first {found[place]:.9g} at"
            yield _wrong(array.name, f"{detail} {list(place)}; PyTorch computes {expected[place]:.9g}")
        if missing := set(array.tolerances) - set(cases):
            yield _wrong(array.name, f"a tolerance of {sorted(missing)[0]}, in which there is no file")
        for precision, case in cases.items():
            if precision != FULL and precision not in array.tolerances:
                yield _wrong(array.name, f"no tolerance of {precision}")
                continue
            low, high = _tolerance_range(case, stated.part, array.tensor, is_here=is_here)
            if not low <= (tolerance := array.allowed(precision)) <= high:
                detail = f"tolerance of {precision} is {tolerance:.6g}; expected {low:.6g} to {high:.6g}"
                yield _wrong(array.name, detail)
            elif not is_here and not _is_equal(tolerance, right := _tolerance(case, stated.part, array.tensor)):
                detail = f"tolerance of {precision} is {tolerance:.6g}, as another processor may find; here {right:.6g}"
                yield replace(_wrong(array.name, detail), severity="warning")


def _is_equal(tolerance: float, right: float) -> bool:
    """Whether two tolerances are those of one processor."""
    return abs(tolerance - right) <= _FLOAT64_ERROR * right


def _tolerance_range(case: Case, part: Part, output: str, *, is_here: bool) -> tuple[float, float]:
    """Return the smallest and the largest tolerance that export may find for an output, on this processor or any."""
    tolerance = _tolerance(case, part, output)
    if output in case.unstable:
        slack = max(1, int(tolerance) // 4)
        return tolerance - slack, tolerance + slack
    if is_here:
        return tolerance * (1 - _FLOAT64_ERROR), tolerance * (1 + _FLOAT64_ERROR)
    limits = case.limits[output]
    is_integer = limits.precision not in ("fp32", "fp16", "bf16")
    factor = _OTHER_PROCESSOR_INTEGERS if is_integer else _OTHER_PROCESSOR
    low, high = (replace(limits, eager_error=limits.eager_error * by).tolerance() for by in (1 / factor, factor))
    return low * (1 - _FLOAT64_ERROR), high * (1 + _FLOAT64_ERROR)


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
    return max(tensor.bytes_per_row for tensor in tensors)


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
    """Return rows of the first code, of the last, and of random codes; of other integers likewise."""
    low, high = int(tensor.low), int(tensor.high)
    codes = np.empty((rows, *tensor.fixed_item), tensor.dtype)
    codes[0], codes[1:2] = low, high
    codes[2:] = low + sample_codes((max(rows - 2, 0), *tensor.fixed_item), high - low + 1, seed)
    return codes


def _data(captured: Captured, contract: Contract, arrays: Mapping[str, Array], rows: int) -> Array:
    """Return data in the contract's range, in 256 levels as images have, or integers; it contains no training data.

    It is decoded from the latents where the decoder gives data.
    """
    data, has_decoder = contract.data, "decoder" in captured.source.parts and contract.gives_data
    if data.is_integer:
        return _codes(data, rows, _DATA_SEED)
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
