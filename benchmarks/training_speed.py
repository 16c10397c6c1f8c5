"""How fast training goes: our loop against the same model and loss fed by a DataLoader, image by image.

    python benchmarks/training_speed.py [--family mlp] [--batch-size 256] [--images 12800] [--rounds 5] [--threads 2]

Both train the same network with the same optimizer on images of MNIST's size (random pixels: speed does not depend on
them). The other side is what tutorials show: `torchvision.datasets.MNIST` with `ToTensor`, one image at a time, in a
DataLoader of this process, in float32. Training takes bfloat16 where the processor has it (`--precision`); both loops
are shown in both. Rounds are interleaved, so that a busy machine slows both; the median counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # for both; see train/commands.py

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from train.loop import Trainer, multiplies_bfloat16
from train.objective import loss
from train.options import ObjectiveOptions
from train.recipes import RECIPES, Recipe
from train.torchvision_import import torchvision_datasets
from train.weights import initialise
from vae_export.models import FAMILIES, VAE, VAEConfig


def ours(model: VAE, pixels: Tensor, recipe: Recipe, bfloat16: bool) -> float:
    """Seconds of one epoch of `train.loop`."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trainer = Trainer(model, pixels, recipe, ObjectiveOptions(), bfloat16=bfloat16)
    return sum(epoch.seconds for epoch in trainer.epochs(lambda *_: None))


def tutorial(model: VAE, pixels: Tensor, recipe: Recipe, bfloat16: bool) -> float:
    """Seconds of one epoch over a DataLoader with a transform an image, loss and optimizer the same."""
    datasets = torchvision_datasets()
    from torchvision.transforms import ToTensor

    mnist = datasets.MNIST.__new__(datasets.MNIST)  # the class itself, without its files
    mnist.data, mnist.targets = pixels[:, 0], torch.zeros(len(pixels), dtype=torch.long)
    mnist.transform, mnist.target_transform = ToTensor(), None
    loader = torch.utils.data.DataLoader(mnist, recipe.batch_size, shuffle=True, drop_last=True)
    optimizer = torch.optim.Adam(model.parameters(), recipe.learning_rate)
    started = time.perf_counter()
    for image, _ in loader:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            value = loss(model, image, torch.randn(len(image), model.config.latent_size))
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, default="mlp")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--images", type=int, default=12_800)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    usual = RECIPES[options.family]
    recipe = replace(usual, epochs=1, batch_size=options.batch_size or usual.batch_size)
    pixels = torch.randint(0, 256, (options.images, 1, 28, 28), dtype=torch.uint8)

    sides = {"ours": ours, "DataLoader": tutorial}
    precisions = {"float32": False}
    if multiplies_bfloat16(torch.device("cpu")):
        precisions["bfloat16"] = True
    speeds: dict[tuple[str, str], list[float]] = {(side, precision): [] for side in sides for precision in precisions}
    for warm in (False, *[True] * options.rounds):
        for side, precision in speeds:
            model = VAE(VAEConfig(options.family))
            initialise(model, pixels)
            seconds = sides[side](model.train(), pixels, recipe, precisions[precision])
            if warm:
                speeds[side, precision].append(len(pixels) // recipe.batch_size * recipe.batch_size / seconds)

    title = f"{options.family}, batch {recipe.batch_size}, {options.threads} threads, torch {torch.__version__}"
    table = Table(title=title, title_justify="left")
    for heading in ("loop", "precision", "images/s (median)", "lowest", "highest", "against DataLoader, float32"):
        table.add_column(heading, justify="left" if heading in ("loop", "precision") else "right")
    for (side, precision), rounds in speeds.items():
        figures = (f"{value:,.0f}" for value in (statistics.median(rounds), min(rounds), max(rounds)))
        ratios = (a / b for a, b in zip(rounds, speeds["DataLoader", "float32"], strict=True))
        table.add_row(side, precision, *figures, f"{statistics.median(ratios):.1f} x")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
