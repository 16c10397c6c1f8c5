"""Measure how fast `--preset photos` trains: our loop beside a plain one with a DataLoader around the same network.

    python benchmarks/photograph_speed.py [--side 64] [--images 640] [--rounds 5] [--threads 1] [--workers 0]
                                          [--clock cpu|wall] [--limit 600]

All loops train the same network from the same weights on the same crops (`crops.py`), with Adam and batches of 64.

    ours     `train.trainer.Trainer`, with the preset's average of the weights
    files    a DataLoader that opens PNG files, `ToTensor`, and `loss.item()` after each step
    arrays   the same DataLoader over decoded pixels in memory

The loops take turns, and ratios are taken within a round. `--clock cpu` counts the processor time of this process, for
machines that others use too; it does not see the workers of a DataLoader, so it goes with `--workers 0`. No round is
begun after `--limit` seconds. Prints Markdown.

Exits 1 if ours is not 1.5 times as fast as the loop over files.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from crops import crops
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from train.config import ObjectiveOptions
from train.fit import train_options
from train.initial_weights import initial_model
from train.loss import loss, to_unit_range
from train.recipes import default_recipe
from train.trainer import Trainer
from vae_export.models import VAE

BATCH_SIZE = 64
ASKED = 1.5
Loop = Callable[[], None]


class Files(Dataset[Tensor]):
    """PNG files, decoded one by one to float32 (3, H, W) in [0, 1]."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self._files[index]) as image:
            return to_unit_range(torch.from_numpy(np.array(image)).permute(2, 0, 1))


class Arrays(Dataset[Tensor]):
    """Decoded pixels, converted one by one."""

    def __init__(self, pixels: Tensor) -> None:
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> Tensor:
        return to_unit_range(self._pixels[index])


def our_loop(model: VAE, pixels: Tensor, passes: int) -> Loop:
    """Return a pass of our loop over the images, which can be called so many times."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's hints do not know it
    recipe = replace(default_recipe(model.config.family, len(pixels), BATCH_SIZE), epochs=passes)
    epochs = Trainer(model, pixels, recipe, ObjectiveOptions()).train_epochs(lambda *_: None)

    def run() -> None:
        next(epochs)

    return run


def plain_loop(model: VAE, images: Dataset[Tensor], workers: int) -> Loop:
    """Return a pass of a plain loop over the images."""
    loader = DataLoader(images, BATCH_SIZE, shuffle=True, drop_last=True, num_workers=workers)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def run() -> None:
        total = 0.0
        for image in loader:
            value = loss(model, image, torch.randn(len(image), model.config.latent_size))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            total += value.item()

    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds after which no round is begun")
    options = parser.parse_args()
    if options.clock == "cpu" and options.workers:
        raise SystemExit("--clock cpu does not see workers: pass --workers 0 or --clock wall")
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    pixels = crops(options.side, round(options.images / 0.8)).train[: options.images]
    config = train_options("photos", {}).network.config((3, options.side, options.side))
    with TemporaryDirectory() as scratch:
        files = [Path(scratch) / f"{index:06d}.png" for index in range(len(pixels))]
        for file, image in zip(files, pixels, strict=True):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
        loops = {
            "ours": our_loop(initial_model(config, pixels, 0), pixels, options.rounds + 1),
            "files": plain_loop(initial_model(config, pixels, 0), Files(files), options.workers),
            "arrays": plain_loop(initial_model(config, pixels, 0), Arrays(pixels), options.workers),
        }
        speeds: dict[str, list[float]] = {name: [] for name in loops}
        started, load_before = time.perf_counter(), os.getloadavg()[0]
        for number in range(options.rounds + 1):
            for name, run in loops.items():
                before = clock()
                run()
                if number:  # the first pass allocates memory
                    speeds[name].append(len(pixels) // BATCH_SIZE * BATCH_SIZE / (clock() - before))
            print(f"round {number} of {options.rounds}", file=sys.stderr, flush=True)
            if number and time.perf_counter() - started > options.limit:
                break
    rounds = len(speeds["ours"])
    print(
        f"{len(pixels):,} crops of {options.side} x {options.side}, {rounds} rounds, {options.threads} threads, "
        f"{options.clock} time; load {load_before:.1f} before it began\n"
    )
    print("| loop | images/s, median | lowest to highest | ours against it |\n|---|---|---|---|")
    ratios = {}
    for name, found in speeds.items():
        pairs = zip(speeds["ours"], found, strict=True)
        ratios[name] = statistics.median(own / other for own, other in pairs)
        spread = f"{min(found):,.1f} to {max(found):,.1f}"
        print(f"| {name} | {statistics.median(found):,.1f} | {spread} | {ratios[name]:.2f} x |")
    verdict = "met" if ratios["files"] >= ASKED else "missed"
    print(f"\n- loop over files: {ratios['files']:.2f} times, asked {ASKED:g}: {verdict}")
    return 0 if verdict == "met" else 1


if __name__ == "__main__":
    sys.exit(main())
