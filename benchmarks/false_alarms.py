"""Count how often parity rejects a correct file, over exports of many random networks.

    python benchmarks/false_alarms.py                                    200 networks of each family and size
    python benchmarks/false_alarms.py --networks 10
    python benchmarks/false_alarms.py artifacts/mnist-mlp artifacts/mnist-conv

One ONNX file is written for each family and size, and its weights are replaced by those of each network; once for each
size the result is compared with a new export. A run folder is checked with its own weights and images.

The ratio is the distance to float64 in units of PyTorch's baseline error; `FP32_TOLERANCE_FACTOR` in
vae_export/parity/tolerance.py is the limit. Exits 1 if any comparison fails.
"""

from __future__ import annotations

import argparse
import itertools
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
from vae_export.capture import capture
from vae_export.contract import PARTS, Part
from vae_export.formats import FORMATS, WriteOptions
from vae_export.models import VAE, VAEConfig
from vae_export.parity.compare import CaseResult, compare_output
from vae_export.parity.elbo import ElboParity
from vae_export.parity.plan import BATCHES, batches_plan
from vae_export.parity.reference import References
from vae_export.parity.targets import Target
from vae_export.parity.tolerance import FP32_TOLERANCE_FACTOR
from vae_export.precision import FULL
from vae_export.runs import Run
from vae_export.session_options import CPU

TARGET = Target("onnx", CPU)
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
    """Ratios by family, part and output, the test cases that failed, and those with the largest ratios."""

    ratios: dict[tuple[str, ...], list[float]] = field(default_factory=lambda: defaultdict(list))
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
        self.largest = sorted(self.largest, reverse=True)[:10]


def main() -> int:
    parser = argparse.ArgumentParser(description="Count the comparisons that fail although the file is right.")
    parser.add_argument("runs", nargs="*", type=Path, help="run folders with a trained checkpoint")
    parser.add_argument("--networks", type=int, default=200, help="of each family and size (default: 200)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tally = Tally()
    if options.runs:
        for run in options.runs:
            checkpoint = load_checkpoint(Run(run).checkpoint)
            tally.add(run.name, run.name, _compare(Source.of(checkpoint), _files(Source.of(checkpoint)), BATCHES))
    else:
        for config in CONFIGS:
            _check_networks(config, options.networks, tally)
    _print(tally)
    return 1 if tally.failures else 0


def _check_networks(config: VAEConfig, count: int, tally: Tally) -> None:
    shape = "x".join(map(str, config.image_shape))
    size = f"{config.family} {shape} hidden {config.hidden_size} latent {config.latent_size}"
    source, weights = _network(config, 0, default)
    files = _files(source)
    for seed, scale in zip(range(count), itertools.cycle(SCALES)):
        source, weights = _network(config, seed, scale)
        files = {part: _with_weights(data, part, weights) for part, data in files.items()}
        tally.add(f"{size}, seed {seed} {scale.__name__}", config.family, _compare(source, files, FEW_BATCHES))
    if files != _files(source):
        raise SystemExit(f"{size}: a file with its weights replaced is not the file of a new export")
    print(f"{size}: {count} networks, {len(tally.failures)} failures so far", file=sys.stderr, flush=True)


def _network(config: VAEConfig, seed: int, scale: Callable[[nn.Module], None]) -> tuple[Source, dict[str, Tensor]]:
    torch.manual_seed(seed)
    network = VAE(config).eval().requires_grad_(False)
    scale(network)
    return Source(config.contract, network.encoder, network.decoder), network.state_dict()


def _files(source: Source) -> dict[Part, bytes]:
    return {part: FORMATS["onnx"].write(capture(source, part), WriteOptions()).data for part in PARTS}


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


def _compare(source: Source, files: dict[Part, bytes], batches: Sequence[int]) -> Iterator[CaseResult]:
    """Yield every comparison of these files on one thread, with the lowest and the highest optimisation."""
    references = References(source)
    metric = ElboParity(references, references.examples(64))
    graphs = references.captured.graphs()
    for options in TARGET.session_options(thorough=False):
        runners = {part: FORMATS["onnx"].open(FileContent(files[part]), graphs[part].spec, options) for part in PARTS}
        for part in PARTS:
            for case in references.cases(part, plan=batches_plan(batches)):
                outputs = runners[part](case.inputs)
                for tensor in graphs[part].spec.outputs:
                    name, limits = tensor.name, case.limits[tensor.name]
                    eager, expected = case.eager[name], case.expected[name]
                    found = compare_output(outputs[name], tensor, eager, expected, limits.tolerance(), limits.magnitude)
                    yield CaseResult(part, str(TARGET), options, case.probe, case.batch, name, found, limits)
        yield from metric.results(str(TARGET), options, runners["encoder"], runners["decoder"], FULL)


def _print(tally: Tally) -> None:
    print(f"error in units of PyTorch's baseline error; {FP32_TOLERANCE_FACTOR:g} is the limit")
    print(f"{'':12}{'part':13}{'output':16}{'cases':>9}" + "".join(f"{_percent(p):>8}" for p in PERCENTILES))
    for (group, part, output), ratios in tally.ratios.items():
        figures = "".join(f"{figure:8.2f}" for figure in np.percentile(ratios, PERCENTILES))
        print(f"{group:12}{part:13}{output:16}{len(ratios):9,}{figures}")
    print("\nlargest:")
    for ratio, what in tally.largest:
        print(f"{ratio:8.2f}  {what}")
    print(f"\n{sum(map(len, tally.ratios.values())):,} comparisons, {len(tally.failures)} failures")
    for line in tally.failures[:50]:
        print(line)


def _percent(value: float) -> str:
    return "max" if value == 100 else f"{value:g} %"


if __name__ == "__main__":
    sys.exit(main())
