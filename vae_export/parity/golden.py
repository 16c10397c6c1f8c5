"""Make the golden vectors of an export; docs/bundle-format.md, section 5, specifies them.

The expected outputs are PyTorch's in float64, and the tolerances are those of the certificate. So an application that
passes has repeated the checks of `verify` in its own process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from vae_export.artifact.golden import DTYPE, FEWEST_ROWS, GOLDEN_FOLDER, MOST_ROWS, GoldenArray, GoldenPart
from vae_export.capture import Captured
from vae_export.contract import MAX_LEVEL, Array, Part
from vae_export.errors import ModelError
from vae_export.io.atomic import sha256
from vae_export.models.checkpoint import Checkpoint
from vae_export.parity.oracle import evaluate_graph
from vae_export.parity.probes import SIX_SIGMA, Probe
from vae_export.parity.reference import Case, ProbeOutputs, References, probe_cases
from vae_export.pixels import to_levels
from vae_export.precision import FULL, PrecisionName
from vae_export.rng import sample
from vae_export.sources import Source
from vae_export.system.threads import one_thread

#: Largest size of a golden array in bytes; two rows are always kept. Sixteen colour images of 512 x 512 would be 50 MB.
_MAX_BYTES = 1 << 20
_LATENT_SEED, _NOISE_SEED = 0, 1


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
    probe = _probe(references.captured)
    files: dict[str, bytes] = {}

    def stored(tensor: str, name: str, array: Array, *tolerances: Any) -> GoldenArray:
        path, data = f"{GOLDEN_FOLDER}/{name}.f32", np.ascontiguousarray(array, DTYPE).tobytes()
        files[path] = data
        return GoldenArray(tensor, path, array.shape, sha256(data), *tolerances)

    golden = []
    for index, part in enumerate(parts):
        progress(index / len(parts))
        cases = _cases(references, part, probe, dict.fromkeys((FULL, *precisions)))
        full = cases.pop(FULL)
        inputs = tuple(stored(name, name, array) for name, array in full.inputs.items())
        outputs = []
        for name, array in full.expected.items():
            of_precisions = {precision: _tolerance(case, part, name) for precision, case in cases.items()}
            outputs.append(stored(name, f"{part}.{name}", array, _tolerance(full, part, name), of_precisions))
        golden.append(GoldenPart(part, inputs, tuple(outputs)))
    return tuple(golden), files


def _cases(
    references: References, part: Part, probe: Probe, precisions: Iterable[PrecisionName]
) -> dict[PrecisionName, Case]:
    """Return the probe as a test case of each precision, with all its rows."""
    rows = max(len(array) for array in (probe.image, probe.latent, probe.noise) if array is not None)
    oracle = references.oracle(part)
    inputs = probe.inputs(oracle.graph.spec, rows)
    if inputs is None:
        raise ModelError("no golden inputs", where=part)
    # The batch of one row is included, because PyTorch uses another kernel for it.
    outputs = ProbeOutputs.of(oracle, probe.name, inputs, (1, rows))
    return {
        precision: probe_cases(oracle, [outputs], precision, references.function(part, precision))[-1]
        for precision in precisions
    }


def _tolerance(case: Case, part: Part, output: str) -> float:
    """Return the largest error that passes; raise `ModelError` unless it is finite and above zero, as readers need."""
    limits = case.limits[output]
    tolerance = limits.tolerance()
    if not 0 < tolerance < math.inf:
        where = f"{part}, '{output}', {limits.precision}"
        raise ModelError("golden vectors have no finite tolerance", where=where, expected="finite", got=tolerance)
    return tolerance


def _probe(captured: Captured) -> Probe:
    """Return a probe of latents (zeros, ±6 and random), the images they decode to in 256 levels, and random noise."""
    contract = captured.source.contract
    item = max(np.prod(contract.image_shape), np.prod(contract.latents[0].fixed_item)) * DTYPE.itemsize
    rows = int(np.clip(_MAX_BYTES // item, FEWEST_ROWS, MOST_ROWS))
    latent = np.zeros((rows, *contract.latents[0].fixed_item), np.float32)
    far = np.full(int(np.prod(contract.latents[0].fixed_item)), SIX_SIGMA, np.float32)
    far[1::2] *= -1
    latent[1] = far.reshape(contract.latents[0].fixed_item)
    latent[2:] = sample((rows - 2, *contract.latents[0].fixed_item), _LATENT_SEED)
    return Probe("golden", _images(captured, latent), latent, sample(latent.shape, _NOISE_SEED))


def _images(captured: Captured, latent: Array) -> Array:
    """Return images with 256 levels in the contract's range, as applications have; they contain no training data."""
    low, high = captured.source.contract.image_range
    if "decoder" in captured.source.parts:
        image = evaluate_graph(captured.graph("decoder"), {"latent": latent})["image"]
        level = to_levels(image, low, high)
    else:  # without a decoder, every level in turn, with a step that shares no factor with most sizes
        shape = (len(latent), *captured.source.contract.image_shape)
        level = (np.arange(np.prod(shape)) * 97 % (MAX_LEVEL + 1)).reshape(shape)
    return (low + level / np.float64(MAX_LEVEL) * (high - low)).astype(np.float32)
