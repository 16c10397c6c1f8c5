"""The training loops that `training.py` compares. Each trains one network on the same images and says how fast.

All train the network of `--preset mnist` with Adam, on every image once a pass. They differ in the loop:

    ours      `train.trainer.Trainer`, in float32, or with products in bfloat16
    loader    the loop of tutorials: torchvision's MNIST, `ToTensor`, a DataLoader, BCE on probabilities, `loss.item()`
    memory    the same loop, on float images in memory
    pythae    pythae's `BaseTrainer.train_step`, with the same layers as its encoder and decoder
    limit     no training: the matrix products of forward and backward alone, into memory that is allocated before
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.config import ObjectiveOptions
from train.data.mnist import torchvision_datasets
from train.initial_weights import initialise
from train.loss import to_unit_range
from train.recipes import RECIPES
from train.trainer import Trainer
from vae_export.models import VAE, VAEConfig, reparameterize

LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Setting:
    """The setting of a loop.

    Attributes:
        threads: threads of PyTorch.
        workers: worker processes of a DataLoader, or 0.
    """

    threads: int
    workers: int = 0

    def line(self) -> str:
        """Return it as a line for another process; `parse` is the inverse."""
        return f"{self.threads} {self.workers}"

    @classmethod
    def parse(cls, line: str) -> Setting:
        threads, workers = map(int, line.split())
        return cls(threads, workers)

    def __str__(self) -> str:
        workers = f", {self.workers} workers" if self.workers else ""
        return f"{self.threads} thread{'s' * (self.threads > 1)}{workers}"


#: Trains on all images once, with this number of workers.
Pass = Callable[[int], object]


def ours(model: VAE, pixels: Tensor, batch_size: int, *, bfloat16: bool) -> Pass:
    plain = replace(RECIPES["mlp"], weight_average=0.0)  # as the other loops train
    recipe = replace(plain, epochs=100_000, batch_size=batch_size, learning_rate=LEARNING_RATE)
    epochs = Trainer(model, pixels, recipe, ObjectiveOptions(), bfloat16=bfloat16).train_epochs(lambda *_: None)
    return lambda _: next(epochs)


def loader(model: VAE, pixels: Tensor, batch_size: int) -> Pass:
    optimizer, loaders = _adam(model), {workers: mnist_loader(pixels, batch_size, workers) for workers in (0, 2)}

    def train(workers: int) -> None:
        for image, _ in loaders[workers]:
            post_step(model, optimizer, image)

    return train


def memory(model: VAE, pixels: Tensor, batch_size: int) -> Pass:
    optimizer, images = _adam(model), to_unit_range(pixels)

    def train(_: int) -> None:
        for batch in torch.split(torch.randperm(len(images)), batch_size):
            if len(batch) == batch_size:
                post_step(model, optimizer, images[batch])

    return train


def mnist_loader(pixels: Tensor, batch_size: int, workers: int) -> Iterable[tuple[Tensor, Tensor]]:
    """Return a DataLoader over uint8 pixels (N, 1, 28, 28), which go through PIL images and `ToTensor`."""
    kind = torchvision_datasets().MNIST
    from torchvision.transforms import ToTensor

    mnist = kind.__new__(kind)  # without its files: it gets our split
    mnist.data, mnist.targets = pixels[:, 0], torch.zeros(len(pixels), dtype=torch.long)
    mnist.transform, mnist.target_transform = ToTensor(), None
    return torch.utils.data.DataLoader(
        mnist, batch_size, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )


def post_step(model: VAE, optimizer: torch.optim.Optimizer, image: Tensor) -> float:
    """Train one step as blog posts do, on images (N, 1, 28, 28); return the loss of the batch in nats."""
    optimizer.zero_grad()
    mean, logvar = model.encoder(image)
    decoded = model.decoder.image(reparameterize(mean, logvar, torch.randn_like(mean)))
    reconstruction_nll = F.binary_cross_entropy(decoded, image, reduction="sum")
    loss = reconstruction_nll - 0.5 * torch.sum(1 + logvar - mean.pow(2) - logvar.exp())
    value = loss.item()
    loss.backward()
    optimizer.step()
    return value


def pythae(model: VAE, pixels: Tensor, batch_size: int) -> Pass:
    """Train with `BaseTrainer.train_step`, without what `train` does between epochs; the others do without it too."""
    from pythae import models as theirs
    from pythae.data.datasets import BaseDataset
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    # pythae ships no types: its classes are `Any` to a type checker.
    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = model.encoder

        def forward(self, image: Tensor) -> Any:
            mean, logvar = self.inner(image)
            return ModelOutput(embedding=mean, log_covariance=logvar)

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = model.decoder

        def forward(self, latent: Tensor) -> Any:
            return ModelOutput(reconstruction=self.inner.image(latent))

    config = theirs.VAEConfig(input_dim=(1, 28, 28), latent_dim=model.config.latent_size, reconstruction_loss="bce")
    whole = pixels[: len(pixels) // batch_size * batch_size]  # its loader would keep a smaller last batch
    data = BaseDataset(to_unit_range(whole), torch.zeros(len(whole)))
    trainers = {}
    with TemporaryDirectory() as folder:  # it makes one when it starts, and writes nothing there in a step
        for workers in (0, 2):
            asked = BaseTrainerConfig(
                output_dir=folder,
                per_device_train_batch_size=batch_size,
                learning_rate=LEARNING_RATE,
                optimizer_cls="Adam",
                train_dataloader_num_workers=workers,
            )
            network = theirs.VAE(config, encoder=Encoder(), decoder=Decoder())
            trainers[workers] = BaseTrainer(network, train_dataset=data, training_config=asked)
            trainers[workers].prepare_training()
    numbers = itertools.count(1)
    return lambda workers: trainers[workers].train_step(next(numbers))


def limit(model: VAE, pixels: Tensor, batch_size: int, *, bfloat16: bool) -> Pass:
    """Compute only the products of a step, once for each batch.

    Each layer has three: its output, the gradient of its weight, and that of its input, which the first layer omits.
    """
    kind = torch.bfloat16 if bfloat16 else torch.float32
    products: list[tuple[Tensor, Tensor, Tensor]] = []
    for number, layer in enumerate(module for module in model.modules() if isinstance(module, nn.Linear)):
        weight = layer.weight.detach().to(kind)
        given = torch.rand(batch_size, layer.in_features).to(kind)
        gradient = torch.rand(batch_size, layer.out_features).to(kind)
        products += [(given, weight.t(), torch.empty_like(gradient)), (gradient.t(), given, torch.empty_like(weight))]
        if number:
            products.append((gradient, weight, torch.empty_like(given)))

    def multiply(_: int) -> None:
        for _step in range(len(pixels) // batch_size):
            for left, right, out in products:
                torch.mm(left, right, out=out)

    return multiply


#: The loops by the names that `training.py` uses.
LOOPS: dict[str, Callable[[VAE, Tensor, int], Pass]] = {
    "ours float32": lambda *given: ours(*given, bfloat16=False),
    "ours bfloat16": lambda *given: ours(*given, bfloat16=True),
    "loader": loader,
    "memory": memory,
    "pythae": pythae,
    "limit float32": lambda *given: limit(*given, bfloat16=False),
    "limit bfloat16": lambda *given: limit(*given, bfloat16=True),
}
#: Passes by which settings are compared.
_TRIES = 2
#: Loops whose DataLoader may have workers.
LOADERS = ("loader", "pythae")


def serve(name: str, pixels: Tensor, batch_sizes: list[int], *, busy: bool) -> None:
    """Choose and print the fastest setting of each batch size; then answer each line, a batch size, with images/s.

    Args:
        name: the loop.
        pixels: uint8 (N, 1, 28, 28).
        batch_sizes: the batch sizes.
        busy: other programs use the cores too, so use one thread and count its CPU time.
    """
    threads = [1] if busy else sorted({1, torch.get_num_threads()})
    workers = (0, 2) if name in LOADERS and not busy else (0,)
    settings = [Setting(count, some) for some in workers for count in threads]
    clock = time.process_time if busy else time.perf_counter
    loops, chosen = {}, {}
    for size in batch_sizes:
        torch.manual_seed(0)
        model = VAE(VAEConfig())
        initialise(model, pixels)
        loops[size] = LOOPS[name](model.train(), pixels, size)
        tried: dict[Setting, list[float]] = {setting: [] for setting in settings}
        for _ in range(1 + _TRIES):  # in turns, so that a busy moment slows all of them
            for setting, speeds in tried.items():
                speeds.append(_speed(loops[size], setting, len(pixels) // size * size, clock))
        # The first pass allocates memory and starts workers, and does not count.
        chosen[size] = max(settings, key=lambda setting: max(tried[setting][1:]))
        print(chosen[size].line(), flush=True)
    for line in sys.stdin:
        size = int(line)
        print(_speed(loops[size], chosen[size], len(pixels) // size * size, clock), flush=True)


def _speed(train: Pass, setting: Setting, images: int, clock: Callable[[], float]) -> float:
    torch.set_num_threads(setting.threads)
    started = clock()
    train(setting.workers)
    return images / (clock() - started)


def _adam(model: VAE) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), LEARNING_RATE)
