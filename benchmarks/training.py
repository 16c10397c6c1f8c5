"""Measure how fast training is: our loop beside those of tutorials, pythae's trainer, and bare matrix products.

    python benchmarks/training.py [--data-dir data] [--images 12800] [--rounds 7] [--batch-sizes 128 512]
                                  [--pythae-python PATH] [--sides ours loader memory pythae limit] [--busy]

Every loop trains the network of `--preset mnist` with Adam on the same images, in a process of its own, with the
threads and DataLoader workers that were fastest in a measurement before; `loops.py` describes the loops. They take
turns, so that a busy moment slows all of them. Ratios are taken within a round, and their median counts.
Where another program keeps a core busy, two threads wait for each other and the figures mean nothing: see the load.
With `--busy` every loop has one thread and no workers, and images are counted per second of its CPU time.
pythae runs in an interpreter that has it beside torch (`pip install pythae==0.1.2` in a virtual environment of its
own). Without one it is left out, and the output says so. Prints Markdown.

Exits 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # for all; see train/cli/process.py

import torch
from loops import Setting
from loops import serve as answer

from train.config import DataOptions
from train.data.datasets import load

OURS = ("ours float32", "ours bfloat16")
LIMITS = ("limit float32", "limit bfloat16")
SIDES = {"ours": OURS, "loader": ("loader",), "memory": ("memory",), "pythae": ("pythae",), "limit": LIMITS}
WORDS = {
    "loader": "`DataLoader`, `ToTensor`",
    "memory": "the same loop on float images in memory",
    "pythae": "pythae's trainer",
    "limit float32": "matrix products alone, float32",
    "limit bfloat16": "matrix products alone, bfloat16",
}
#: How many times as fast as another loop ours should be.
ASKED = {"loader": 5.0, "pythae": 5.0, "memory": 2.0, LIMITS[0]: 0.65, LIMITS[1]: 0.4}


class Side:
    """One loop in its own process."""

    def __init__(self, name: str, process: subprocess.Popen[str], errors: IO[str], batch_sizes: Sequence[int]) -> None:
        self.name, self._process, self._errors = name, process, errors
        self.settings = {size: Setting.parse(self._line()) for size in batch_sizes}
        self.speeds: dict[int, list[float]] = {size: [] for size in batch_sizes}

    def train(self, batch_size: int) -> None:
        """Train on all images once."""
        if self._process.stdin is None:
            raise RuntimeError(f"{self.name} was started without a pipe")
        self._process.stdin.write(f"{batch_size}\n")
        self._process.stdin.flush()
        self.speeds[batch_size].append(float(self._line()))

    def _line(self) -> str:
        line = "" if self._process.stdout is None else self._process.stdout.readline().strip()
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            raise SystemExit(f"loop {self.name} ended with exit code {code}: {self._errors.read().strip()}")
        return line


@contextmanager
def started(name: str, options: argparse.Namespace) -> Iterator[Side]:
    python = options.pythae_python if name == "pythae" else Path(sys.executable)
    command = [str(python), __file__, "--serve", name, "--dataset", options.dataset, "--images", str(options.images)]
    command += ["--data-dir", str(options.data_dir)] if options.data_dir else []
    command += ["--batch-sizes", *map(str, options.batch_sizes)]
    command += ["--busy"] if options.busy else []
    # pythae shows its progress on stderr, which matters only if the process fails.
    with (
        TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        yield Side(name, process, errors, options.batch_sizes)


def serve(options: argparse.Namespace) -> None:
    """Run the loop of that name for the process that started this one."""
    pixels = load(DataOptions(options.dataset, options.data_dir)).train
    answer(options.serve, pixels[: options.images], options.batch_sizes, busy=options.busy)


def table(sides: dict[str, Side], size: int) -> list[str]:
    """Return the Markdown table of one batch size."""
    lines = [
        f"| batch {size} | at | images/s, median | lowest to highest | ours against it |",
        "|---|---|---|---|---|",
    ]
    for name, side in sides.items():
        speeds = side.speeds[size]
        figures = [f"{statistics.median(speeds):,.0f}", f"{min(speeds):,.0f} to {max(speeds):,.0f}"]
        best = "" if name in OURS or OURS[0] not in sides else f"{best_of(rivals(name), sides, name, size):.2f} x"
        lines.append(f"| {' | '.join([WORDS.get(name, name), str(side.settings[size]), *figures, best])} |")
    return lines


def rivals(side: str) -> tuple[str, ...]:
    """Return which of our loops to compare: with bare products that of the same precision, else both."""
    return (OURS[LIMITS.index(side)],) if side in LIMITS else OURS


def best_of(ours: Sequence[str], sides: dict[str, Side], other: str, size: int, *, at: int | None = None) -> float:
    """Return how many times as fast as another loop the fastest of ours is: the median over the rounds.

    Args:
        ours: names of our loops.
        sides: all loops.
        other: name of the other loop.
        size: batch size of the other loop.
        at: batch size of ours; None takes the same.
    """
    theirs = sides[other].speeds[size]
    return max(
        statistics.median(own / their for own, their in zip(sides[name].speeds[at or size], theirs, strict=True))
        for name in ours
    )


def judged(sides: dict[str, Side], sizes: Sequence[int]) -> Iterator[tuple[str, bool]]:
    """Yield each target as a line, and whether it is met.

    Loops are compared at each batch size, bare products at the largest: with few images other work dominates.
    """
    for side, times in ASKED.items():
        if side not in sides or OURS[0] not in sides:
            continue
        for size in [max(sizes)] if side in LIMITS else sizes:
            found = best_of(rivals(side), sides, side, size)
            verdict = "met" if found >= times else "missed"
            yield f"{WORDS[side]}, batch {size}: {found:.2f} times, asked {times:g}: {verdict}", found >= times


def across(sides: dict[str, Side], sizes: Sequence[int]) -> Iterator[str]:
    """Yield comparisons of our largest batch with the smallest of the others, which is the one of tutorials."""
    large, small = max(sizes), min(sizes)
    for side in (side for side in ASKED if side in sides and side not in LIMITS and OURS[0] in sides and large > small):
        found = best_of(OURS, sides, side, small, at=large)
        yield f"{WORDS[side]}, batch {small}, against ours of batch {large}: {found:.2f} times"


def machine() -> str:
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    can = [name for name in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16") if found.get(name)]
    return f"torch {torch.__version__}, {os.cpu_count()} cores, {', '.join(can) or 'no vector instructions known'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=("mnist", "digits"), default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--images", type=int, default=12_800)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--pythae-python", type=Path, help="an interpreter that can import pythae")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--busy", action="store_true", help="one thread, CPU time: where others use the cores too")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options)
        return 0
    load_before = os.getloadavg()[0]
    left_out = "pythae" in options.sides and options.pythae_python is None
    names = [name for side in options.sides if side != "pythae" or not left_out for name in SIDES[side]]
    with ExitStack() as stack:
        sides = {name: stack.enter_context(started(name, options)) for name in names}
        for number in range(options.rounds):
            for size in options.batch_sizes:
                for side in sides.values():
                    side.train(size)
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    clock = "CPU time of one thread" if options.busy else f"load {load_before:.1f} before it began"
    print(f"{machine()}; {clock}; {options.images:,} images a round, {options.rounds} rounds")
    for size in options.batch_sizes:
        print("", *table(sides, size), sep="\n")
    verdicts = list(judged(sides, options.batch_sizes))
    lines = [*(line for line, _ in verdicts), *across(sides, options.batch_sizes)]
    print("", *(f"- {line}" for line in lines), sep="\n")
    if left_out:
        print("- pythae's trainer is left out: no --pythae-python was given")
    return 0 if all(met for _, met in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
