"""Makes the golden vectors of an export: docs/bundle-format.md, section 5, says what they are.

The expected outputs are float64's and the bands are those of the certificate, so that an application which passes has
shown in its own process what `verify` shows in ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from vae_export.artifact.golden import DTYPE, FEWEST_ROWS, GOLDEN_FOLDER, MOST_ROWS, GoldenArray, GoldenPart
from vae_export.capture import Captured, Graph
from vae_export.contract import MAX_LEVEL, Array, Part
from vae_export.errors import ModelError
from vae_export.io.atomic import sha256
from vae_export.parity.fake_quant import fake_quantize
from vae_export.parity.oracle import Oracle, evaluate_graph
from vae_export.parity.probes import SIX_SIGMA, CalibrationInputs, Probe, calibration_inputs
from vae_export.parity.reference import reference_cases
from vae_export.parity.tolerance import ErrorLimits
from vae_export.pixels import to_levels
from vae_export.precision import CALIBRATED, FULL, PrecisionName
from vae_export.rng import sample
from vae_export.sources import Source
from vae_export.system.threads import one_thread

#: A golden array is no larger than this, down to two rows: sixteen colour images of 512 x 512 would be 50 MB.
_LARGEST = 1 << 20
_LATENT_SEED, _NOISE_SEED = 0, 1


@one_thread()
def golden_vectors(
    source: Source | Captured,
    parts: Sequence[Part],
    precisions: Sequence[PrecisionName] = (FULL,),
    calibrated: CalibrationInputs | None = None,
) -> tuple[tuple[GoldenPart, ...], dict[str, bytes]]:
    """The golden vectors of these parts, with a band for each precision, and the files that hold them by name.

    Args:
        calibrated: what files of a calibrated precision were calibrated with; None makes it anew.

    Raises `ModelError` where rounding is so large that no band is a number.
    """
    captured = Captured.of(source)
    source, graphs = captured.source, captured.graphs()
    if calibrated is None and CALIBRATED & set(precisions):
        calibrated = calibration_inputs(source, graphs)
    probe = _probe(source, graphs)
    files: dict[str, bytes] = {}

    def stored(
        tensor: str, name: str, array: Array, band: float | None = None, bands: Mapping[str, float] | None = None
    ) -> GoldenArray:
        data = np.ascontiguousarray(array, DTYPE).tobytes()
        files[f"{GOLDEN_FOLDER}/{name}.f32"] = data
        return GoldenArray(tensor, f"{GOLDEN_FOLDER}/{name}.f32", array.shape, sha256(data), band, bands or {})

    golden = []
    for part in parts:
        rows = max(len(array) for array in (probe.image, probe.latent, probe.noise) if array is not None)
        # The last batch is all rows; one row alone counts as well, for PyTorch takes another kernel there.
        oracle = Oracle(graphs[part])
        reference = reference_cases(graphs[part], oracle, [probe], None, (1, rows))[-1]
        bands: dict[str, dict[str, float]] = {name: {} for name in reference.expected}
        for precision in dict.fromkeys(precisions):
            if precision != FULL:
                own = fake_quantize(graphs[part], precision, None if calibrated is None else calibrated[part])
                lossy = reference_cases(graphs[part], oracle, [probe], None, (1, rows), precision, own)[-1]
                for name, scale in lossy.limits.items():
                    bands[name][precision] = _band(scale, part, name)
        golden.append(
            GoldenPart(
                part,
                tuple(stored(name, name, array) for name, array in reference.inputs.items()),
                tuple(
                    stored(name, f"{part}.{name}", array, _band(reference.limits[name], part, name), bands[name])
                    for name, array in reference.expected.items()
                ),
            )
        )
    return tuple(golden), files


def _band(scale: ErrorLimits, part: Part, output: str) -> float:
    """The largest error that is allowed: a reader refuses what is not finite and above zero, and so does the writer."""
    band = scale.tolerance()
    if not 0 < band < math.inf:
        raise ModelError(
            "golden vectors have no band", where=f"{part}, '{output}', {scale.precision}", expected="finite", got=band
        )
    return band


def _probe(source: Source, graphs: Mapping[Part, Graph]) -> Probe:
    """Latents of zeros, of ±6 and drawn ones; the images that they decode to, in 256 levels; noise of another seed."""
    contract = source.contract
    item = max(np.prod(contract.image_shape), np.prod(contract.latent_shape)) * DTYPE.itemsize
    rows = int(np.clip(_LARGEST // item, FEWEST_ROWS, MOST_ROWS))
    latent = np.zeros((rows, *contract.latent_shape), np.float32)
    far = np.full(int(np.prod(contract.latent_shape)), SIX_SIGMA, np.float32)
    far[1::2] *= -1
    latent[1] = far.reshape(contract.latent_shape)
    latent[2:] = sample((rows - 2, *contract.latent_shape), _LATENT_SEED)
    return Probe("golden", _images(source, graphs, latent), latent, sample(latent.shape, _NOISE_SEED))


def _images(source: Source, graphs: Mapping[Part, Graph], latent: Array) -> Array:
    """Images as an application has them: 256 levels in the contract's range. Nobody's data travels in them."""
    low, high = source.contract.image_range
    if "decoder" in graphs:
        level = to_levels(evaluate_graph(graphs["decoder"], {"latent": latent})["image"], low, high)
    else:  # no decoder to make images: every level in turn, with a step that shares no factor with most sizes
        shape = (len(latent), *source.contract.image_shape)
        level = (np.arange(np.prod(shape)) * 97 % (MAX_LEVEL + 1)).reshape(shape)
    return (low + level / np.float64(MAX_LEVEL) * (high - low)).astype(np.float32)
