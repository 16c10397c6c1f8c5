"""Compare how long `--preset mnist` and a blog post's loop take to a score, from the start of the process.

    python benchmarks/time_to_score.py [--data-dir data] [--nats 105] [--cap 240] [--rates 1e-3 2e-3] [--repeats 1]
                                       [--epochs 3] [--sides preset blog blog-without-dropout]

The time is that until the sampled -ELBO of the 10,000 test images, grey pixels, is at most `--nats`. It is scored after
each epoch by `train.scoring`; imports, reading and scoring count for all. The preset is the command as a user types it:
it also scores validation and training images, saves its checkpoint and state each epoch, and runs to its end. The
post's loop (`loops.post_step`, a DataLoader, `ToTensor`, batches of 128) scores the test images and saves nothing. Its
network has linear heads, without which it never reaches the score. It runs with the post's dropout of 0.2 and without,
at each of `--rates`, of which the best counts, and with the fastest threads and workers. Prints Markdown.

Exits 1 if the preset takes more than 60 s, ends above 100 nats, or needs more than a fifth of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # for all; see train/cli/process.py

CLI = [sys.executable, str(Path(__file__).parents[1] / "cli.py")]
BATCH_SIZE = 128
#: Targets of the preset: seconds of the whole command, nats at its end, and how many times as fast it should be.
SECONDS, NATS, TIMES = 60.0, 100.0, 5.0


@dataclass(frozen=True)
class Reached:
    """The outcome of one training.

    Attributes:
        seconds: time to the score, or None if it was never reached.
        whole: seconds to the end of the process.
        score: the last score in nats.
    """

    seconds: float | None
    whole: float
    score: float


def preset(options: argparse.Namespace) -> Reached:
    """Run the command, and watch the file to which it appends a line after each epoch."""
    with TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        data = ["--data-dir", str(options.data_dir)] if options.data_dir else []
        started, reached = time.monotonic(), None
        epochs = [] if options.epochs is None else ["--epochs", str(options.epochs)]
        command = [*CLI, "train", "--preset", "mnist", *epochs, *data, "--out", str(run)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None:
                if reached is None and any(score <= options.nats for score in _scores(run / "metrics.jsonl")):
                    reached = time.monotonic() - started
                time.sleep(0.05)
        if process.returncode:
            raise SystemExit(f"the preset ended with exit code {process.returncode}")
        return Reached(reached, time.monotonic() - started, [*_scores(run / "metrics.jsonl")][-1])


def _scores(metrics: Path) -> Iterator[float]:
    lines = metrics.read_text("utf-8").splitlines(keepends=True) if metrics.exists() else []
    for line in lines:
        if line.endswith("\n"):
            yield json.loads(line)["test"]["negative_elbo_nats_per_image"]


def post(options: argparse.Namespace, rate: float, *, dropout: bool) -> Reached:
    """Run the post's loop in a process of its own until it reaches the score or the cap."""
    command = [sys.executable, __file__, "--rate", str(rate), "--setting", *map(str, options.setting)]
    command += ["--data-dir", str(options.data_dir)] if options.data_dir else []
    command += ["--dropout"] if dropout else []
    started, score = time.monotonic(), float("inf")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            score, seconds = float(line), time.monotonic() - started
            if score <= options.nats or seconds > options.cap:
                process.terminate()
                return Reached(seconds if score <= options.nats else None, seconds, score)
    raise SystemExit(f"the post's loop ended with exit code {process.returncode}")


def train_post(options: argparse.Namespace) -> None:
    """Train in this process, and print the score after each epoch, until the process is ended."""
    import torch
    from loops import mnist_loader, post_step

    from train.config import DataOptions
    from train.data.datasets import load
    from train.scoring import PyTorchModel, evaluate_model
    from vae_export.models import VAE, VAEConfig

    threads, workers = options.setting
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    data = load(DataOptions("mnist", options.data_dir))
    model = VAE(VAEConfig("blog" if options.dropout else "mlp"))
    if options.dropout:
        for head in ("mean", "logvar"):
            setattr(model.encoder, head, getattr(model.encoder, head)[0])
    optimizer, batches = (
        torch.optim.Adam(model.parameters(), options.rate),
        mnist_loader(data.train, BATCH_SIZE, workers),
    )
    while True:
        model.train()
        for image, _ in batches:
            post_step(model, optimizer, image)
        print(evaluate_model(PyTorchModel(model), data.test).negative_elbo, flush=True)


def fastest_setting(options: argparse.Namespace) -> tuple[int, int]:
    """Return the threads and workers of the post's loop, chosen as in `training.py`."""
    from training import started

    asked = argparse.Namespace(
        dataset="mnist", data_dir=options.data_dir, images=6_400, batch_sizes=[BATCH_SIZE], busy=False
    )
    with started("loader", asked) as side:
        chosen = side.settings[BATCH_SIZE]
    return chosen.threads, chosen.workers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--nats", type=float, default=105.0)
    parser.add_argument("--cap", type=float, default=240.0, help="seconds after which the post's loop is ended")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2e-3])
    parser.add_argument("--repeats", type=int, default=1, help="of the preset")
    parser.add_argument("--epochs", type=int, help="of the preset, instead of its own")
    sides = ["preset", "blog", "blog-without-dropout"]
    parser.add_argument("--sides", nargs="+", choices=sides, default=sides)
    parser.add_argument("--setting", type=int, nargs=2, metavar=("THREADS", "WORKERS"), help="instead of measuring")
    parser.add_argument("--rate", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--dropout", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rate is not None:
        train_post(options)
    print(
        f"| training | seconds to {options.nats:g} nats | seconds until its end | nats at its end |\n|---|---|---|---|"
    )
    met, own, verdicts = True, None, []
    if "preset" in options.sides:
        runs = [preset(options) for _ in range(options.repeats)]
        own = median(float("inf") if run.seconds is None else run.seconds for run in runs)
        for run in runs:
            show("`--preset mnist`", run)
            met &= run.whole <= SECONDS and run.score <= NATS
        verdicts.append(f"the preset, {SECONDS:g} s and {NATS:g} nats at most: {'met' if met else 'missed'}")
    if options.setting is None and options.sides != ["preset"]:
        options.setting = fastest_setting(options)
    for side in (side for side in options.sides if side != "preset"):
        words, found = "" if side == "blog" else ", no dropout", []
        for rate in options.rates:
            found.append(post(options, rate, dropout=side == "blog"))
            threads, workers = options.setting
            show(
                f"the post's loop, linear heads{words}, rate {rate:g}, {threads} threads, {workers} workers", found[-1]
            )
        if own is not None:
            # One that never reached the score took longer than its cap.
            best = min(run.whole if run.seconds is None else run.seconds for run in found)
            at_least = "at least " if all(run.seconds is None for run in found) else ""
            verdict = "met" if best >= TIMES * own else "missed"
            met &= best >= TIMES * own
            verdicts.append(f"{side}: {at_least}{best / own:.1f} times the preset's time, asked {TIMES:g}: {verdict}")
    print("", *(f"- {line}" for line in verdicts), sep="\n")
    return 0 if met else 1


def show(name: str, run: Reached) -> None:
    reached = "not reached" if run.seconds is None else f"{run.seconds:.1f}"
    print(f"| {name} | {reached} | {run.whole:.1f} | {run.score:.2f} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
