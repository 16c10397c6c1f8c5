"""The training loop: Adam on the loss, one epoch after the other."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from train.objective import loss, to_unit
from train.options import Recipe
from vae_export.errors import DataError, InputError
from vae_export.models import VAE

#: Called after each step with the epoch (from 1), the steps done in it, and the sum of their losses: a scalar that
#: stays on the device, because reading it makes the device wait.
Watch = Callable[[int, int, Tensor], None]


@dataclass(frozen=True)
class Epoch:
    """Attributes:
    number: from 1.
    loss: mean over the epoch, while the weights changed, in nats an image; beta is in it.
    seconds, images_per_second: of training alone, without what is measured between epochs.
    """

    number: int
    loss: float
    seconds: float
    images_per_second: float


def steps_per_epoch(images: int, batch_size: int) -> int:
    """A rest smaller than a batch waits for the next epoch's order. Raises `DataError` where all is rest."""
    if images < batch_size:
        got = f"{images:,} training images"
        raise DataError(
            "fewer images than a batch", expected=f"{batch_size:,} or more", got=got, do="pass a smaller --batch-size"
        )
    return images // batch_size


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether `device` has instructions for products of bfloat16; without them they are slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # newer than the oldest torch we take
        can = torch.cpu.get_capabilities()
        return bool(can.get("avx512_bf16") or can.get("amx_bf16"))
    return False


def epochs(
    model: VAE, pixels: Tensor, recipe: Recipe, *, beta: float, watch: Watch, bfloat16: bool = False
) -> Iterator[Epoch]:
    """Train `model` in place on pixels uint8 (N, C, H, W), on the model's device; yield after each epoch.

    With `bfloat16`, matrix products and convolutions take bfloat16; weights, sums and the loss stay float32.
    Order, noise and dropout come from torch's global random state. Raises `InputError` when the loss is not finite.
    """
    device = next(model.parameters()).device
    steps = steps_per_epoch(len(pixels), recipe.batch_size)
    optimizer = torch.optim.Adam(model.parameters(), recipe.learning_rate, fused=True)
    schedule = (
        torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=recipe.epochs * steps)
        if recipe.one_cycle
        else None
    )
    pixels = pixels.to(device)
    for number in range(1, recipe.epochs + 1):
        model.train()
        started = time.perf_counter()
        total = torch.zeros((), device=device)
        order = torch.randperm(len(pixels)).to(device)
        for step in range(steps):
            image = to_unit(pixels[order[step * recipe.batch_size : (step + 1) * recipe.batch_size]])
            noise = torch.randn(len(image), model.config.latent_size, device=device)
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                value = _loss(model, image, noise, beta, number)
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if schedule is not None:
                schedule.step()
            total += value.detach()
            watch(number, step + 1, total)
        mean = total.item() / steps
        if not math.isfinite(mean):
            raise diverged(number, mean)
        seconds = time.perf_counter() - started
        yield Epoch(number, mean, seconds, steps * recipe.batch_size / seconds)


def diverged(epoch: int, value: float) -> InputError:
    return InputError(
        "training diverged",
        where=f"epoch {epoch}",
        expected="a finite loss",
        got=value,
        do="try a smaller --learning-rate",
    )


def _loss(model: VAE, image: Tensor, noise: Tensor, beta: float, epoch: int) -> Tensor:
    try:
        return loss(model, image, noise, beta=beta)
    except RuntimeError as error:
        if "between 0 and 1" not in str(error):
            raise
        # `binary_cross_entropy`, which family `post` uses, refuses the NaN that the others' loss would become.
        raise diverged(epoch, math.nan) from error
