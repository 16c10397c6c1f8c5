"""The probes that parity is checked with: named families of inputs, of which each part takes those that it has.

    probe          latent                                       data                           noise
    prior          drawn from N(0, I)                           decoded from the latent        drawn
    posterior      mean + noise · exp(logvar / 2) of real ones  its reconstruction             drawn
    data           the mean of real data                        real data                      drawn
    zeros          zeros                                        zeros, or the range's middle   zeros
    six-sigma      +6 or -6 in every unit                       decoded from the latent        +6 or -6
    interpolation  between posterior means of real data         decoded from the latent        zeros
    one-hot        one unit at 1, the others at 0               one value at its highest       one unit at 1
    smallest       the smallest normal float32, either sign     the range's low, a step above  the smallest
    largest        2^8 below where an operator overflows        the range's highest            +6 or -6
    noise          uniform between -6 and 6                     uniform in its range           drawn
    extreme        driven by gradients (`extreme_inputs`)       driven by gradients            zeros

`noise` moves every input value by itself, so that each one matters. `extreme` drives the bounds inside a part, such as
those of a clamp, and its outputs as far as inputs in the range can, in both directions.

Data is in the contract's range. Without a range it is standard normal where no examples are given, its highest value in
`one-hot` is 1, and `smallest` and `largest` are made like those of latents. Without an encoder or a decoder, a probe
has only the arrays that can be made.

Where the prior is given by the user, latents of `prior` and `six-sigma` have the mean and the deviation of the
encoder's latents; without an encoder they are those of N(0, I), and the certificate says so. A deterministic encoder
has no `posterior` latent, because it would equal that of `data`.

Codes are drawn uniformly (prior), encoded from real data (data), the first code (zeros), the last (largest), every code
in turn (six-sigma), and mixtures of two rows of real codes (interpolation). Data that is integers is made in the same
way, with the lowest and the highest for the first and the last.

Conditions are the same for the encoder and the decoder of a probe. Integers take every value in turn, from row to row
and from probe to probe; in `zeros` they have the lowest value, and in `largest` the highest. Floats are uniform in
their range, or standard normal without a range.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from vae_export.artifact.certificate import TYPICAL_PROBES
from vae_export.capture import Graph
from vae_export.contract import NORMAL, Array, Contract, Part, PartSpec
from vae_export.errors import ModelError
from vae_export.parity.bounds import extreme_inputs
from vae_export.parity.oracle import evaluate_rows
from vae_export.parity.overflow import largest_without_overflow
from vae_export.precision import CALIBRATED, PrecisionName
from vae_export.sources import Source
from vae_export.tensors import BATCH, Symbol, TensorSpec

#: The names of all probes, in the order in which they are made.
PROBES = (
    "prior",
    "posterior",
    "data",
    "zeros",
    "six-sigma",
    "interpolation",
    "one-hot",
    "smallest",
    "largest",
    "noise",
    "extreme",
)
#: Number of rows for which inputs of `extreme` are searched; more rows repeat them.
_SEARCHED_ROWS = 64
#: Six standard deviations: one prior draw in 500 million lies further out.
SIX_SIGMA = 6.0
#: The smallest float32 with full precision. Engines may flush smaller numbers to zero.
SMALLEST = float(np.finfo(np.float32).smallest_normal)
#: Number of inputs of each typical probe that calibration uses, and the least number of real images that it needs.
CALIBRATION_ROWS, MIN_CALIBRATION_IMAGES = 64, 16
_SEED = 1312_6114  # the arXiv number of Kingma & Welling; any fixed seed does

#: Input arrays by name, for each part.
CalibrationInputs: TypeAlias = Mapping[Part, Mapping[str, Array]]
#: Arrays by tensor name.
Arrays: TypeAlias = dict[str, Array]


@dataclass(frozen=True)
class Probe:
    """One family of inputs.

    Attributes:
        name: name of the family.
        arrays: inputs (M, *item) by tensor name, without those that cannot be made.
    """

    name: str
    arrays: Mapping[str, Array]

    def inputs(self, spec: PartSpec, batch: int) -> Arrays | None:
        """Return the first `batch` inputs of a part by name, or None if this probe lacks one of them."""
        if any(tensor.name not in self.arrays for tensor in spec.inputs):
            return None
        return {tensor.name: self.arrays[tensor.name][:batch] for tensor in spec.inputs}


# Overflow gives no warning here, because numbers that are not finite are refused later with their names.
@np.errstate(over="ignore", invalid="ignore")
def make_probes(
    source: Source,
    graphs: Mapping[Part, Graph],
    count: int,
    *,
    contract: Contract | None = None,
    names: Collection[str] = PROBES,
) -> tuple[Probe, ...]:
    """Make probes with `count` inputs; equal sources and graphs give equal probes.

    Args:
        source: the source, which has the contract and the examples.
        graphs: the captured parts of the source.
        count: M, the number of inputs of each probe.
        contract: the source's contract at other sizes; open sizes take their usual values.
        names: the probes to make. Those that are left out cost nothing, and do not change the others.

    Returns:
        The probes, in the order of `PROBES`.
    """
    maker = _ProbeMaker(source, graphs, (contract or source.contract).at(), count, names)
    arrays = maker.arrays()
    return tuple(Probe(name, arrays[name]) for name in PROBES if name in names)


class _ProbeMaker:
    """Makes the arrays of probes, role by role: data, conditions, latents or codes, and noise."""

    def __init__(
        self, source: Source, graphs: Mapping[Part, Graph], contract: Contract, count: int, names: Collection[str]
    ) -> None:
        self._graphs, self._contract, self._count, self._names = graphs, contract, count, names
        self._latents = contract.latents
        self._noise = [tensor for tensor in contract.spec("autoencoder").inputs if tensor.role == "noise"]
        #: Draws what plain contracts need, in an order that must not change, so that certificates stay comparable.
        self._rng = np.random.default_rng(_SEED)
        #: Draws everything else.
        self._other_rng = np.random.default_rng((_SEED, 1))
        #: Draws the probes `noise` and `extreme`, which came later.
        self._late_rng = np.random.default_rng((_SEED, 2))
        self._examples = example_arrays(source, contract, count, self._rng)
        self._data = self._data_by_probe()
        self._conditions = self._conditions_by_probe()
        self._signs: Arrays = {}

    def arrays(self) -> dict[str, Arrays]:
        """Return the arrays of each probe by name, whether or not the probe was asked for."""
        latents, noise = self._codes_by_probe() if self._contract.encoding == "codes" else self._latents_by_probe()
        if self._contract.data_range is None:
            self._data |= self._largest_data(noise)
        self._add_late_probes(latents, noise)
        made: dict[str, Arrays] = {}
        for name in PROBES:
            decoded = self._data.get(name)
            if decoded is None and name in self._names and name in latents:
                decoded = self._decode(latents[name], self._conditions[name])
            data = {} if decoded is None else {self._contract.data.name: decoded}
            made[name] = data | latents.get(name, {}) | noise.get(name, {}) | self._conditions[name]
        return made

    def _latents_by_probe(self) -> tuple[dict[str, Arrays], dict[str, Arrays]]:
        """Return the latents and the noise of each probe."""
        mean, logvar = self._encode()
        prior, noise = self._normal(), self._normal()
        self._signs = {name: np.where(array < 0, -1, 1).astype(np.float32) for name, array in self._normal().items()}
        zeros = {name: np.zeros_like(array) for name, array in prior.items()}
        far, tiny = self._scaled_signs(SIX_SIGMA), self._scaled_signs(SMALLEST)
        one_unit = {name: _one_hot(array, 1.0) for name, array in zeros.items()}
        latents = {"prior": prior, "zeros": zeros, "six-sigma": far, "one-hot": one_unit, "smallest": tiny}
        if mean:
            latents |= {"data": mean, "interpolation": {name: _interpolated(array) for name, array in mean.items()}}
        if logvar:
            latents["posterior"] = {name: mean[name] + noise[name] * np.exp(logvar[name] / 2) for name in mean}
        if mean and self._contract.prior != NORMAL:
            encoded = latents.get("posterior", mean)
            latents |= {"prior": _like(encoded, prior), "six-sigma": _like(encoded, far)}
        if "largest" in self._names:
            latents["largest"] = self._largest_latents(far)
        drawn = {
            "prior": self._normal(),
            "posterior": noise,
            "data": self._normal(),
            "zeros": zeros,
            "six-sigma": far,
            "interpolation": zeros,
            "one-hot": one_unit,
            "smallest": tiny,
            "largest": far,
        }
        names = [tensor.name for tensor in self._noise]
        return latents, {probe: dict(zip(names, arrays.values(), strict=False)) for probe, arrays in drawn.items()}

    def _add_late_probes(self, latents: dict[str, Arrays], noise: dict[str, Arrays]) -> None:
        """Add the data, latents and noise of `noise` and `extreme`, if one of them is wanted."""
        if not {"noise", "extreme"} & set(self._names):
            return
        rng, wide = self._late_rng, {}
        for latent in self._latents:
            shape = (self._count, *latent.fixed_item)
            if latent.is_integer:
                wide[latent.name] = rng.integers(0, int(latent.high) + 1, shape, dtype=latent.dtype)
            else:
                wide[latent.name] = rng.uniform(-SIX_SIGMA, SIX_SIGMA, shape).astype(np.float32)
        if self._contract.prior != NORMAL and "six-sigma" in latents and self._contract.encoding != "codes":
            spread = {name: array / SIX_SIGMA for name, array in wide.items()}
            far = {name: np.abs(latents["six-sigma"][name]).max() for name in wide}
            wide = {name: (far[name] * array).astype(np.float32) for name, array in spread.items()}
        data = self._contract.data.draw(self._count, rng)
        scale = 1.0 if self._contract.data.is_bounded or self._contract.data.is_integer else SIX_SIGMA / 2
        self._data["noise"] = (scale * data).astype(data.dtype)
        latents["noise"] = wide
        noise["noise"] = {tensor.name: tensor.draw(self._count, rng) for tensor in self._noise}
        noise["extreme"] = {name: np.zeros_like(array) for name, array in noise["noise"].items()}
        for condition in self._contract.conditions:
            drawn = condition.tensor.draw(self._count, rng)
            self._conditions["noise"][condition.tensor.name] = drawn
            self._conditions["extreme"][condition.tensor.name] = drawn
        if "extreme" in self._names:
            if self._contract.data.is_integer:
                self._data["extreme"] = self._contract.data.draw(self._count, rng)
            elif "encoder" in self._graphs:
                rows = _alternating(self._data["noise"], self._data["data"])
                start = {self._contract.data.name: rows} | self._conditions["extreme"]
                self._data["extreme"] = self._searched("encoder", start)[self._contract.data.name]
            if "decoder" in self._graphs and self._contract.encoding != "codes":
                starts = {name: _alternating(array, latents["prior"][name]) for name, array in wide.items()}
                found = self._searched("decoder", starts | self._conditions["extreme"])
                latents["extreme"] = {name: found[name] for name in wide}

    def _searched(self, part: Part, start: Arrays) -> Arrays:
        """Return inputs of a part that drive its bounds and outputs; the rows that were searched are repeated."""
        graph = self._graphs[part]
        start = {tensor.name: start[tensor.name] for tensor in graph.spec.inputs}  # not the conditions of other parts
        bounds = graph.spec.symbols.get(BATCH, Symbol())
        rows = min(self._count, _SEARCHED_ROWS)
        piece = max(min(rows, bounds.high or rows), bounds.low)
        pieces = [
            extreme_inputs(
                graph,
                {name: np.resize(array[first:], (piece, *array.shape[1:])) for name, array in start.items()},
                first,
            )
            for first in range(0, rows, piece)
        ]
        return {
            name: np.resize(np.concatenate([found[name] for found in pieces]), array.shape)
            for name, array in start.items()
        }

    def _codes_by_probe(self) -> tuple[dict[str, Arrays], dict[str, Arrays]]:
        """Return the codes of each probe, and no noise."""
        codes: dict[str, Arrays] = {name: {} for name in ("prior", "zeros", "six-sigma", "largest")}
        for tensor in self._latents:
            for name, array in self._integers(tensor, self._rng).items():
                codes[name][tensor.name] = array
        encoded, _ = self._encode()
        if encoded:
            mixed = {name: _mixed(array) for name, array in encoded.items()}
            codes |= {"data": encoded, "interpolation": mixed}
        return codes, {}

    def _integers(self, tensor: TensorSpec, rng: np.random.Generator) -> Arrays:
        """Return integers of a tensor's range, by the probes that have them without a network."""
        shape, low, high = (self._count, *tensor.fixed_item), int(tensor.low), int(tensor.high)
        return {
            "prior": rng.integers(low, high + 1, shape, dtype=tensor.dtype),
            "zeros": np.full(shape, low, tensor.dtype),
            "six-sigma": _in_turn(shape, low, high, tensor.dtype),
            "largest": np.full(shape, high, tensor.dtype),
        }

    def _data_by_probe(self) -> dict[str, Array]:
        """Return the data of the probes whose data does not depend on a network."""
        contract, shape = self._contract, (self._count, *self._contract.data.fixed_item)
        real = self._examples[contract.data.name]
        if contract.data.is_integer:
            return {"data": real, "interpolation": _mixed(real)} | self._integers(contract.data, self._other_rng)
        low, high = contract.data_range or (0.0, 1.0)
        blank = np.full(shape, 0.0 if low <= 0.0 <= high else (low + high) / 2, np.float32)
        made = {"data": real, "zeros": blank, "one-hot": _one_hot(np.full(shape, low, np.float32), high)}
        if contract.data_range is None:
            return made
        lowest = SMALLEST if low == 0 else np.nextafter(np.float32(low), np.float32(high))
        return made | {
            "smallest": np.full(shape, lowest, np.float32),
            "largest": np.full(shape, high, np.float32),
        }

    def _largest_data(self, noise: Mapping[str, Arrays]) -> dict[str, Array]:
        """Return the smallest and the largest data without a range, and data of six standard deviations."""
        shape = (self._count, *self._contract.data.fixed_item)
        signs = np.where(self._other_rng.standard_normal(shape) < 0, -1, 1).astype(np.float32)
        made = {"smallest": SMALLEST * signs}
        if "decoder" not in self._graphs:
            made["six-sigma"] = SIX_SIGMA * signs
        graph = self._graphs.get("autoencoder", self._graphs.get("encoder"))
        if graph is not None and "largest" in self._names:
            others = self._conditions["largest"] | noise.get("largest", {})

            def sized(size: float) -> Arrays:
                return {self._contract.data.name: (signs * size).astype(np.float32)} | others

            made["largest"] = sized(largest_without_overflow(graph, sized) or SIX_SIGMA)[self._contract.data.name]
        return made

    def _conditions_by_probe(self) -> dict[str, Arrays]:
        """Return the conditions of each probe; probes of real data have those of the examples, if there are some."""
        made: dict[str, Arrays] = {name: {} for name in PROBES}
        # The latents of these probes come from the data, and so do their conditions.
        with_data = ("posterior", "interpolation")
        own = ("prior", "data", "six-sigma", "one-hot", "smallest", "zeros", "largest")
        for condition in self._contract.conditions:
            tensor = condition.tensor
            for index, name in enumerate(own):
                made[name][tensor.name] = self._condition(tensor, name, index)
            made["data"] |= {tensor.name: self._examples[tensor.name]} if tensor.name in self._examples else {}
            for name in with_data:
                made[name][tensor.name] = made["data"][tensor.name]
        return made

    def _condition(self, tensor: TensorSpec, probe: str, index: int) -> Array:
        shape = (self._count, *tensor.fixed_item)
        lowest, highest = (tensor.low, tensor.high) if tensor.is_bounded else (0.0, SIX_SIGMA)
        if probe in ("zeros", "largest"):
            return np.full(shape, lowest if probe == "zeros" else highest, tensor.dtype)
        if tensor.is_integer:
            return _in_turn(shape, int(tensor.low), int(tensor.high), tensor.dtype, start=index * self._count)
        if probe == "one-hot":
            return _one_hot(np.full(shape, lowest, np.float32), highest if tensor.is_bounded else 1.0)
        return tensor.draw(self._count, self._other_rng)

    def _encode(self) -> tuple[Arrays, Arrays]:
        """Return the means (or latents, or codes) of real data and the log-variances, by the name of the latent."""
        if "encoder" not in self._graphs or not {"posterior", "data", "interpolation", "prior"} & set(self._names):
            return {}, {}
        inputs = {self._contract.data.name: self._examples[self._contract.data.name]} | self._conditions["data"]
        outputs = list(evaluate_rows(self._graphs["encoder"], inputs).values())
        names = [latent.name for latent in self._latents]
        if self._contract.encoding != "gaussian":
            return dict(zip(names, outputs, strict=True)), {}
        return dict(zip(names, outputs[::2], strict=True)), dict(zip(names, outputs[1::2], strict=True))

    def _decode(self, latents: Arrays, conditions: Arrays) -> Array | None:
        """Return decoded data for an encoder, or None if there is no encoder or the decoder gives something else."""
        if not {"encoder", "decoder"} <= set(self._graphs) or not self._contract.gives_data:
            return None
        decoded = evaluate_rows(self._graphs["decoder"], latents | conditions)[self._contract.output.name]
        if self._contract.data_range is None:
            return decoded
        # A decoder without a final squashing function can leave the range of an encoder's input.
        clipped: Array = np.clip(decoded, *self._contract.data_range)
        return clipped

    def _largest_latents(self, otherwise: Arrays) -> Arrays:
        """Return the largest latents that `largest_without_overflow` finds for the decoder, or `otherwise`."""
        if "decoder" not in self._graphs:
            return otherwise

        def sized(size: float) -> Arrays:
            return self._scaled_signs(size) | self._conditions["largest"]

        size = largest_without_overflow(self._graphs["decoder"], sized)
        return otherwise if size is None else self._scaled_signs(size)

    def _normal(self) -> Arrays:
        shapes = {latent.name: (self._count, *latent.fixed_item) for latent in self._latents}
        return {name: self._rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}

    def _scaled_signs(self, size: float) -> Arrays:
        return {name: (size * signs).astype(np.float32) for name, signs in self._signs.items()}


def example_arrays(source: Source, contract: Contract, count: int, rng: np.random.Generator | None = None) -> Arrays:
    """Return the data of the probe `data`, and the conditions that the source's examples have.

    They are the source's examples, repeated if there are fewer than `count`. Examples of another size than the
    contract's are cut or repeated. Without any examples, the data is uniform noise in its range, or standard normal
    without a range, and the certificate says so.

    Args:
        source: the source, which may have examples.
        contract: the contract with its sizes in numbers.
        count: M, the number of rows.
        rng: draws the data if there are no examples.

    Returns:
        Arrays (M, *item) by tensor name; the data is always among them.
    """
    tensors = {tensor.name: tensor for tensor in contract.spec("autoencoder").inputs}
    found = {name: _sized(array, (count, *tensors[name].fixed_item)) for name, array in source.examples.items()}
    if contract.data.name not in found:
        found[contract.data.name] = contract.data.draw(count, np.random.default_rng(_SEED) if rng is None else rng)
    return found


def origin_of_probes(source: Source) -> dict[str, str]:
    """Return in words where the data of the probes comes from, and the latents unless their prior is N(0, I).

    Args:
        source: the source of the probes.
    """
    contract = source.contract
    noise = "uniform noise" if contract.data_range is not None else "standard normal noise"
    origin = {"images": "real" if source.images is not None else f"{noise}, since the source has no images"}
    if contract.prior in (NORMAL, "uniform"):
        return origin
    known = "with the mean and the deviation of the encoder's latents"
    drawn = f"normal, {known}" if "encoder" in source.parts else "standard normal"
    return origin | {"latents": f"{drawn}, since the prior is {contract.prior}"}


def probes_out_of_range(precision: PrecisionName) -> tuple[str, ...]:
    """Return the names of the probes that a precision cannot represent.

    `largest` and `extreme` are made for the range of float32, which bf16 shares. float16 ends at 65,504, and integers
    end at the range that they were scaled for. A calibrated file clips values beyond its calibration range, and
    rounding does not explain that error.
    """
    if precision in CALIBRATED:
        return "six-sigma", "largest", "noise", "extreme"
    return () if precision in ("fp32", "bf16") else ("largest", "extreme")


def check_calibration_images(source: Source) -> None:
    """Raise `ModelError` if a source has an encoder and fewer than `MIN_CALIBRATION_IMAGES` images."""
    images = 0 if source.images is None else len(source.images)
    if "encoder" in source.parts and images < MIN_CALIBRATION_IMAGES:
        raise ModelError(
            "too few images to calibrate with",
            expected=f"{MIN_CALIBRATION_IMAGES} at least",
            got=images,
            do="give the source real images, or take int8, which needs none",
        )


def calibration_inputs(graphs: Mapping[Part, Graph], probes: Sequence[Probe]) -> dict[Part, dict[str, Array]]:
    """Return the inputs of each part from which activation ranges are measured: all typical probes, concatenated.

    Args:
        graphs: the captured parts of a source.
        probes: the probes of the source, with `CALIBRATION_ROWS` inputs.

    Returns:
        Arrays (N, *item) by part and name.

    Raises:
        ModelError: inputs are not finite.
    """
    typical = [probe for probe in probes if probe.name in TYPICAL_PROBES]
    calibration: dict[Part, dict[str, Array]] = {}
    for part, graph in graphs.items():
        available = [probe.inputs(graph.spec, CALIBRATION_ROWS) for probe in typical]
        inputs = [arrays for arrays in available if arrays is not None]
        calibration[part] = {
            tensor.name: np.concatenate([arrays[tensor.name] for arrays in inputs]) for tensor in graph.spec.inputs
        }
        for name, array in calibration[part].items():
            if not np.isfinite(array).all():
                raise ModelError("inputs to calibrate with are not finite", where=f"{part}, '{name}'")
    return calibration


def _interpolated(latent: Array) -> Array:
    """Return each latent moved towards the next one, by a share that rises from 0 (first row) to 1 (last row)."""
    steps = np.linspace(0, 1, len(latent), dtype=np.float32).reshape(-1, *(1,) * (latent.ndim - 1))
    between: Array = latent + steps * (np.roll(latent, -1, axis=0) - latent)
    return between


def _one_hot(background: Array, value: float) -> Array:
    """Return the background with one entry of each row set to `value`; the entry moves from row to row."""
    rows = background.reshape(len(background), -1).copy()
    # The step shares no factor with most sizes, so that a few rows spread over all entries.
    entries = np.arange(len(rows)) * 97 % rows.shape[1]
    rows[np.arange(len(rows)), entries] = value
    return rows.reshape(background.shape)


def _alternating(one: Array, other: Array) -> Array:
    """Return rows of one array and of the other in turn."""
    mixed = one.copy()
    mixed[1::2] = other[1::2]
    return mixed


def _mixed(codes: Array) -> Array:
    """Return rows of codes whose first entries come from one row and the others from the next, in rising shares."""
    rows = codes.reshape(len(codes), -1)
    kept = np.linspace(1, 0, len(rows)) * rows.shape[1]
    mixed: Array = np.where(np.arange(rows.shape[1]) < kept[:, None], rows, np.roll(rows, -1, axis=0))
    return mixed.reshape(codes.shape)


def _in_turn(shape: Sequence[int], low: int, high: int, dtype: str, start: int = 0) -> Array:
    """Return integers that run from `low` to `high` and start again, from `start` numbers after `low`."""
    size = math.prod(shape)
    values: Array = (low + (start + np.arange(size)) % (high - low + 1)).astype(dtype)
    return values.reshape(shape)


def _like(latents: Arrays, normal: Arrays) -> Arrays:
    """Return normal numbers scaled and shifted to the mean and the deviation of latents."""
    return {name: (array.mean() + array.std() * normal[name]).astype(np.float32) for name, array in latents.items()}


def _sized(array: Array, shape: Sequence[int]) -> Array:
    """Return an array of this shape: each axis is cut, or repeated from its start."""
    for axis, size in enumerate(shape):
        if array.shape[axis] != size:
            array = np.take(array, np.arange(size) % array.shape[axis], axis)
    return array
