"""Train the presets on MNIST and score them as a user would: how good they get, and how long it takes.

    python benchmarks/quality.py [mnist blog mnist-best burda resnet] [--data-dir data] [--runs artifacts/quality]
                                 [--epochs N] [--samples 500] [--images 1000] [--threads N] [--curve FILE.png]

An existing run is resumed, or scored if it is finished, so that `burda` can be trained in parts, with more `--epochs`
each time. Scores are those of the 10,000 test images: -ELBO with z sampled, and for binary pixels NLL with
K = `--samples` of all images, and with K = 5,000 of the first `--images`; all of them take an hour for `mnist-best`,
and minutes for `burda`. There is one table for each data protocol, because scores of two protocols do not compare.
`resnet` is no preset: it is what the family for photographs gives on MNIST, grey, in one epoch or `--epochs`.
`--curve` draws the scores of `burda` by epoch, with the ends of its stages and the paper's figure.

Exits 1 if a preset misses its target.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from rich.console import Console
from rich.table import Table

from train.recipes import parse_stages, read_preset
from train.results import read_json_lines
from vae_export.runs import Run

CLI = [sys.executable, str(Path(__file__).parents[1] / "cli.py")]
#: The importance samples that papers use.
PUBLISHED = 5000
#: Burda et al., arXiv:1509.00519, table 1: VAE, one stochastic layer, k = 1, after 3,280 epochs; NLL, K = 5,000.
PAPER = 86.76


@dataclass(frozen=True)
class Target:
    """The targets of a preset: nats of -ELBO, nats of NLL with K = 5,000, seconds of training; None for no target."""

    negative_elbo: float | None = None
    nll: float | None = None
    seconds: float | None = None


TARGETS = {
    "mnist": Target(negative_elbo=100.0, seconds=60),
    "blog": Target(),  # about 150, for comparison
    "mnist-best": Target(nll=85.0, seconds=600),
    "burda": Target(),  # the paper's figure takes days
    "resnet": Target(negative_elbo=97.0, seconds=60),
}
#: Options of what is no preset.
TYPED = {"resnet": ["--family", "resnet", "--activation", "silu", "--hidden-size", "256", "--epochs", "1"]}


@dataclass(frozen=True)
class PresetScores:
    """The scores of a preset.

    Attributes:
        preset: its name.
        scores: the output of `evaluate --json` for all images.
        precise: the same for the first images, with K = 5,000.
        epochs: epochs of training.
        seconds: seconds of training, without the scoring between epochs.
        whole: seconds of the whole command, or None if the training was resumed.
    """

    preset: str
    scores: dict[str, Any]
    precise: dict[str, Any] | None
    epochs: int
    seconds: float
    whole: float | None

    @property
    def meets(self) -> bool:
        target, nll = TARGETS[self.preset], None if self.precise is None else self.precise["importance_weighted"]
        return all(
            limit is None or value <= limit
            for limit, value in (
                (target.negative_elbo, self.scores["negative_elbo_nats_per_image"]),
                (target.nll, float("inf") if nll is None else nll["nats_per_image"]),
                (target.seconds, self.seconds if self.whole is None else self.whole),
            )
        )


def measure(preset: str, run: Run, options: argparse.Namespace) -> PresetScores:
    data = [] if options.data_dir is None else ["--data-dir", str(options.data_dir)]
    threads = [] if options.threads is None else ["--threads", str(options.threads)]
    epochs = [] if options.epochs is None else ["--epochs", str(options.epochs)]
    begun = run.training_state.exists()
    how = ["--resume"] if begun else [*TYPED.get(preset, ["--preset", preset]), *data, *threads]
    started = time.monotonic()
    subprocess.run([*CLI, "train", *how, *epochs, "--out", run.folder], check=True, stdout=subprocess.DEVNULL)
    whole = None if begun else time.monotonic() - started
    lines = read_json_lines(run.metrics)
    binary = lines[-1]["protocol"] != "grey"
    scores = evaluate(run, *data, *threads, *(["--importance-samples", str(options.samples)] if binary else []))
    many = ["--importance-samples", str(PUBLISHED), "--images", str(options.images)]
    precise = evaluate(run, *data, *threads, *many) if binary else None
    return PresetScores(preset, scores, precise, len(lines), sum(line["seconds"] for line in lines), whole)


def evaluate(run: Run, *options: str) -> dict[str, Any]:
    command = [*CLI, "evaluate", "--json", "--run", str(run.folder), *options]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    found: dict[str, Any] = json.loads(output)
    return found


def table(found: list[PresetScores]) -> Table:
    protocol = found[0].scores["protocol"]
    shown = Table(title=f"MNIST, {protocol}: nats per test image", title_justify="left")
    for heading in ("preset", "epochs", "training", "whole", "-ELBO", "NLL", "NLL of the first", "active", "target"):
        shown.add_column(heading, justify="left" if heading in ("preset", "target") else "right")
    for one in found:
        scores, target = one.scores, TARGETS[one.preset]
        wanted = [
            f"{name} ≤ {limit:g}"
            for name, limit in (("-ELBO", target.negative_elbo), ("NLL", target.nll), ("seconds", target.seconds))
            if limit is not None
        ]
        shown.add_row(
            one.preset,
            str(one.epochs),
            f"{one.seconds:.0f} s",
            "" if one.whole is None else f"{one.whole:.0f} s",
            f"{scores['negative_elbo_nats_per_image']:.2f} ± {scores['negative_elbo_standard_error']:.2f}",
            nll(scores),
            "" if one.precise is None else nll(one.precise),
            str(scores["active_units"]),
            ", ".join(wanted) + ("" if not wanted else ": met" if one.meets else ": missed"),
        )
    return shown


def nll(scores: dict[str, Any]) -> str:
    if (found := scores.get("importance_weighted")) is None:
        return ""
    figure = f"{found['nats_per_image']:.2f} ± {found['standard_error']:.2f}"
    return f"{figure}, K = {found['importance_samples']:,}, {scores['images']:,} images"


def draw(run: Run, end: PresetScores, path: Path) -> None:
    """Draw training and test -ELBO by epoch, and the NLL of the last one."""
    from matplotlib.figure import Figure

    lines = read_json_lines(run.metrics)
    ends = [*accumulate(epochs for epochs, _ in parse_stages(read_preset("burda").options["stages"]))]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for split, label in (("train", "-ELBO, training images"), ("test", "-ELBO, test images")):
        axes.plot(
            [line["epoch"] for line in lines],
            [line[split]["negative_elbo_nats_per_image"] for line in lines],
            label=label,
        )
    final_nll = (end.precise or end.scores)["importance_weighted"]
    axes.plot([lines[-1]["epoch"]], [final_nll["nats_per_image"]], "o", label="NLL, test images, K = 5,000")
    axes.axhline(PAPER, color="black", linewidth=1, label=f"the paper's NLL after {ends[-1]:,} epochs: {PAPER}")
    for epoch in ends:
        axes.axvline(epoch, color="lightgrey", linewidth=0.8, zorder=0)
    axes.set(xscale="log", xlim=(1, ends[-1] * 1.1), ylim=(84, 110), xlabel="epoch; a line ends each stage")
    axes.set(ylabel="nats per image, dynamic", title="--preset burda", xticks=ends, xticklabels=map(str, ends))
    axes.minorticks_off()
    axes.legend(loc="upper right")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = ["mnist", "blog", "mnist-best"]
    parser.add_argument("presets", nargs="*", default=usual, metavar="PRESET", help=" ".join(TARGETS))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("artifacts/quality"))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--curve", type=Path)
    options = parser.parse_args()
    if unknown := set(options.presets) - TARGETS.keys():
        parser.error(f"unknown preset: {', '.join(sorted(unknown))}")
    found = [measure(preset, Run(options.runs / preset), options) for preset in options.presets]
    for protocol in sorted({one.scores["protocol"] for one in found}):
        Console(width=160).print(table([one for one in found if one.scores["protocol"] == protocol]))
    for one in found:
        if one.preset == "burda" and options.curve is not None:
            draw(Run(options.runs / "burda"), one, options.curve)
    sys.exit(not all(one.meets for one in found))


if __name__ == "__main__":
    main()
