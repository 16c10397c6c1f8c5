"""Count how often parity rejects a correct file, over exports of many random networks.

    python benchmarks/false_alarms.py                                    200 networks of each family and size
    python benchmarks/false_alarms.py --networks 10
    python benchmarks/false_alarms.py --networks 3 --precision int8      the same in a lower precision
    python benchmarks/false_alarms.py --networks 2 --first 10            networks 10 and 11 of each family and size
    python benchmarks/false_alarms.py artifacts/mnist-mlp artifacts/mnist-conv

One ONNX file is written for each family and size, and its weights are replaced by those of each network; once for each
size the result is compared with a new export. In a lower precision every file is a new export. A run folder is checked
with its own weights and images.

The ratio is the distance to float64 in units of PyTorch's baseline error; `TOLERANCE_FACTORS` in
vae_export/parity/tolerance.py has the limit of each precision. In a lower precision the mean of each element of an
output is judged too. Exits 1 if any comparison fails.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from vae_export import Source, load_checkpoint
from vae_export.artifact.manifest import FileContent
from vae_export.contract import PARTS, Part
from vae_export.formats import FORMATS
from vae_export.models import VAE, VAEConfig
from vae_export.parity.compare import CaseResult, compare_output
from vae_export.parity.elbo import ElboParity
from vae_export.parity.plan import BATCHES, batches_plan
from vae_export.parity.reference import References
from vae_export.parity.targets import Target
from vae_export.parity.tolerance import TOLERANCE_FACTORS
from vae_export.precision import CALIBRATED, FULL, PRECISIONS, PrecisionName
from vae_export.runs import Run
from vae_export.session_options import CPU

#: Fewer batch sizes than parity has, which is stricter: the baseline error is the largest over these.
FEW_BATCHES = (1, 7, 64)
GREY, COLOUR = (1, 28, 28), (3, 32, 32)
SIZES: tuple[tuple[int, int], ...] = ((16, 2), (64, 20), (400, 64))
CONFIGS = (
    *(VAEConfig(family, GREY, latent, hidden) for hidden, latent in SIZES for family in ("mlp", "blog", "conv")),
    *(VAEConfig(family, COLOUR, 20, 64) for family in ("mlp", "conv")),
)
PERCENTILES = (50, 90, 99, 99.9, 100)


def default(_network: nn.Module) -> None:
    """Leave the weights as PyTorch initialises them."""


def three_times(network: nn.Module) -> None:
    for parameter in network.parameters():
        parameter.mul_(3)


def orthogonal(network: nn.Module) -> None:
    for parameter in network.parameters():
        if parameter.dim() > 1:
            nn.init.orthogonal_(parameter)


SCALES: tuple[Callable[[nn.Module], None], ...] = (default, three_times, orthogonal)


@dataclass
class Tally:
    """What was found in files of a precision.

    Attributes:
        precision: the precision.
        ratios: errors in baseline errors, by family, part and output.
        elements: the share of its limit that the mean of an element uses, of each output where elements are judged.
        failures: the test cases that failed.
        largest: the largest ratios, with their test cases.
    """

    precision: PrecisionName = FULL
    ratios: dict[tuple[str, ...], list[float]] = field(default_factory=lambda: defaultdict(list))
    elements: list[tuple[float, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    largest: list[tuple[float, str]] = field(default_factory=list)

    def add(self, name: str, group: str, cases: Iterator[CaseResult]) -> None:
        for row in cases:
            options = row.options.certificate_name
            what = f"{name}: {row.part} '{row.output}', probe {row.probe}, batch {row.batch}, {options}"
            if not row.passed:
                self.failures.append(f"{what}: {row.reason}")
            if row.ratio is not None:
                self.ratios[group, row.part, row.output].append(row.ratio)
                self.largest.append((row.ratio, what))
            if row.comparison.element_used is not None:
                self.elements.append((row.comparison.element_used, what))
        self.largest = sorted(self.largest, reverse=True)[:10]


def main() -> int:
    parser = argparse.ArgumentParser(description="Count the comparisons that fail although the file is right.")
    parser.add_argument("runs", nargs="*", type=Path, help="run folders with a trained checkpoint")
    parser.add_argument("--networks", type=int, default=200, help="of each family and size (default: 200)")
    parser.add_argument("--first", type=int, default=0, help="number of the first network (default: 0)")
    parser.add_argument("--precision", choices=PRECISIONS, default=FULL, help="of the files (default: fp32)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tally = Tally(options.precision)
    if options.runs:
        for run in options.runs:
            checkpoint = load_checkpoint(Run(run).checkpoint)
            references = References(Source.of(checkpoint))
            files = _files(references, tally.precision)
            tally.add(run.name, run.name, _compare(references, files, BATCHES, tally.precision))
    else:
        for config in CONFIGS:
            _check_networks(config, range(options.first, options.first + options.networks), tally)
    _print(tally)
    return 1 if tally.failures else 0


def _check_networks(config: VAEConfig, seeds: range, tally: Tally) -> None:
    shape = "x".join(map(str, config.image_shape))
    size = f"{config.family} {shape} hidden {config.hidden_size} latent {config.latent_size}"
    files: dict[Part, bytes] = {}
    for seed in seeds:
        scale = SCALES[seed % len(SCALES)]
        source, weights = _network(config, seed, scale, with_images=tally.precision in CALIBRATED)
        references = References(source)
        if files and tally.precision == FULL:
            files = {part: _with_weights(data, part, weights) for part, data in files.items()}
        else:
            files = _files(references, tally.precision)
        name = f"{size}, seed {seed} {scale.__name__}"
        tally.add(name, config.family, _compare(references, files, FEW_BATCHES, tally.precision))
    if files and files != _files(References(source), tally.precision):
        raise SystemExit(f"{size}: a file with its weights replaced is not the file of a new export")
    print(f"{size}: {len(seeds)} networks, {len(tally.failures)} failures so far", file=sys.stderr, flush=True)


def _network(
    config: VAEConfig, seed: int, scale: Callable[[nn.Module], None], *, with_images: bool = False
) -> tuple[Source, dict[str, Tensor]]:
    """Return a network with random weights, and images of noise where a precision is calibrated with some."""
    torch.manual_seed(seed)
    network = VAE(config).eval().requires_grad_(False)
    scale(network)
    noise = np.random.default_rng(seed).uniform(size=(64, *config.image_shape)).astype(np.float32)
    images = noise if with_images else None
    return Source(config.contract, network.encoder, network.decoder, images), network.state_dict()


def _files(references: References, precision: PrecisionName) -> dict[Part, bytes]:
    return {part: references.writer.write(part, "onnx", precision).data for part in PARTS}


def _with_weights(data: bytes, part: Part, weights: dict[str, Tensor]) -> bytes:
    """Return the file with all weights of the part replaced."""
    model = onnx.load_from_string(data)
    wanted = {name for name in weights if part == "autoencoder" or name.startswith(f"{part}.")}
    for tensor in model.graph.initializer:
        if tensor.name in wanted:
            wanted.remove(tensor.name)
            tensor.raw_data = weights[tensor.name].numpy().tobytes()
    if wanted:
        raise SystemExit(f"{part}: no initialisers for {sorted(wanted)}")
    replaced: bytes = model.SerializeToString(deterministic=True)
    return replaced


def _compare(
    references: References, files: dict[Part, bytes], batches: Sequence[int], precision: PrecisionName
) -> Iterator[CaseResult]:
    """Yield every comparison of these files on one thread, with the lowest and the highest optimisation."""
    target = Target("onnx", CPU, precision=precision)
    metric = ElboParity(references, references.examples(64))
    graphs = references.captured.graphs()
    for options in target.session_options(thorough=False):
        runners = {part: FORMATS["onnx"].open(FileContent(files[part]), graphs[part].spec, options) for part in PARTS}
        for part in PARTS:
            for case in references.cases(part, precision, batches_plan(batches)):
                outputs = runners[part](case.inputs)
                for tensor in graphs[part].spec.outputs:
                    name, limits = tensor.name, case.limits[tensor.name]
                    found = compare_output(
                        outputs[name],
                        tensor,
                        case.eager[name],
                        case.expected[name],
                        limits.tolerance(),
                        limits.magnitude,
                        case.elements.get(name),
                    )
                    yield CaseResult(part, str(target), options, case.probe, case.batch, name, found, limits)
        yield from metric.results(str(target), options, runners["encoder"], runners["decoder"], precision)


def _print(tally: Tally) -> None:
    print(f"error in units of PyTorch's baseline error; {TOLERANCE_FACTORS[tally.precision]:g} is the limit")
    print(f"{'':12}{'part':13}{'output':16}{'cases':>9}" + "".join(f"{_percent(p):>8}" for p in PERCENTILES))
    for (group, part, output), ratios in tally.ratios.items():
        figures = "".join(f"{figure:8.2f}" for figure in np.percentile(ratios, PERCENTILES))
        print(f"{group:12}{part:13}{output:16}{len(ratios):9,}{figures}")
    print("\nlargest:")
    for ratio, what in tally.largest:
        print(f"{ratio:8.2f}  {what}")
    if tally.elements:
        used, where = max(tally.elements)
        print(f"\nshare of the limit of an element's mean: {used:.3g} in {len(tally.elements):,} outputs, {where}")
    print(f"\n{sum(map(len, tally.ratios.values())):,} comparisons, {len(tally.failures)} failures")
    for line in tally.failures[:50]:
        print(line)


def _percent(value: float) -> str:
    return "max" if value == 100 else f"{value:g} %"


if __name__ == "__main__":
    sys.exit(main())
