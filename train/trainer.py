"""The training loop: Adam on the loss, epoch after epoch; random numbers of a step; torch.compile.

`Trainer` holds what changes while a training runs: weights, their average, Adam's moments, the number of steps done. It
can be saved between two steps and restored. Everything else is a function of the epoch and the step: the learning rate,
the weight of the KL term and the random numbers. So a resumed training draws what it would have drawn, and processes
that train together draw the same and each take their part.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from train.config import DataProtocol, ObjectiveOptions
from train.data.datasets import draw_binary
from train.distributed import Processes
from train.loss import LossTerms, to_unit_range, weighted_loss
from train.recipes import Recipe, learning_rate_at
from vae_export.errors import CheckpointError, DataError, InputError, MachineError
from vae_export.models import VAE

#: Called after each step with the epoch (from 1), the steps done in it, and the sum of their losses: a scalar that
#: stays on the device, because reading it makes the device wait.
StepCallback = Callable[[int, int, Tensor], None]


@dataclass(frozen=True)
class EpochResult:
    """The result of one epoch.

    Attributes:
        number: number of the epoch, from 1.
        loss: mean of the training loss over the steps of the epoch, with beta, in nats per image.
        seconds: time of the training steps, without the scores between epochs.
        images_per_second: speed of the training steps.
    """

    number: int
    loss: float
    seconds: float
    images_per_second: float


class Trainer:
    """Trains a network in place, on its device.

    Args:
        model: the network.
        pixels: the training images, uint8 (N, C, H, W).
        in_memory: whether the images are copied to the device; else they are on the disk, and batches are copied.
        recipe: number of epochs, batch size and learning rates.
        objective: the loss.
        protocol: with "dynamic", each step samples binary pixels.
        seed: the seed of all random numbers except the initial weights.
        bfloat16: whether matrix products and convolutions are in bfloat16. Weights, sums and the loss are float32.
        compiling: whether the loss is compiled by torch.compile.
        processes: the processes that share each batch.

    Attributes:
        recipe: the recipe, whose learning rate may be changed between two steps.
        average: the average of the weights, if the recipe asks for one.
        steps_per_epoch: number of steps; the last incomplete batch is dropped (drop_last).
        steps_done: number of steps done, over all epochs.
        seconds: time that the steps of the current epoch took.
    """

    def __init__(
        self,
        model: VAE,
        pixels: Tensor,
        recipe: Recipe,
        objective: ObjectiveOptions,
        *,
        in_memory: bool = True,
        protocol: DataProtocol = "grey",
        seed: int = 0,
        bfloat16: bool = False,
        compiling: bool = False,
        processes: Processes | None = None,
    ) -> None:
        self.model, self.recipe, self._objective = model, recipe, objective
        self._protocol, self._bfloat16, self._compiling = protocol, bfloat16, compiling
        self._processes = processes or Processes()
        self._slice = self._processes.batch_slice(recipe.batch_size)
        self._device = next(model.parameters()).device
        self._pixels = pixels.to(self._device) if in_memory else pixels
        self.steps_per_epoch = steps_per_epoch(len(pixels), recipe.batch_size)
        self.optimizer = torch.optim.Adam(model.parameters(), recipe.learning_rate, eps=recipe.epsilon, fused=True)
        self.average = copy.deepcopy(model) if recipe.weight_average else None
        self._loss_terms: nn.Module = LossTerms(model)
        if compiling:
            self._loss_terms = compile_module(self._loss_terms, self._device)
        if not self._processes.is_single:
            self._loss_terms = DistributedDataParallel(self._loss_terms)
        self._uses_cuda_graphs = compiling and self._device.type == "cuda"
        self._rng = StepRng(seed, self._device)
        self._has_dropout = any(isinstance(module, nn.Dropout) for module in model.modules())
        self._loss_sum = torch.zeros((), device=self._device)  # over the steps of the current epoch
        self.steps_done, self.seconds = 0, 0.0

    @property
    def scored_model(self) -> VAE:
        """The network that is scored and saved: the average of the weights, if there is one."""
        return self.model if self.average is None else self.average

    def train_epochs(self, after_step: StepCallback, *, after: int = 0) -> Iterator[EpochResult]:
        """Train to the last epoch and yield each epoch as it ends.

        Args:
            after_step: called after each step.
            after: number of epochs that are done already. A trainer that was restored within an epoch does the
                remaining steps of that epoch, if any, and yields it.

        Raises:
            InputError: the loss is not finite.
        """
        for number in range(after + 1, self.recipe.epochs + 1):
            yield self._train_epoch(number, after_step)

    def _train_epoch(self, number: int, after_step: StepCallback) -> EpochResult:
        self.model.train()
        size, first = self.recipe.batch_size, self.steps_done - (number - 1) * self.steps_per_epoch
        if first == 0:
            self._loss_sum, self.seconds = torch.zeros((), device=self._device), 0.0
        started = time.perf_counter() - self.seconds
        order = self._rng.epoch_order(number, len(self._pixels)).to(self._pixels.device)
        for step in range(first, self.steps_per_epoch):
            self._loss_sum += self._step(order[step * size : (step + 1) * size], self.steps_done)
            self.steps_done += 1
            self.seconds = time.perf_counter() - started
            after_step(number, step + 1, self._loss_sum)
        mean = self._processes.mean(self._loss_sum).item() / self.steps_per_epoch
        if not math.isfinite(mean):
            raise divergence_error(number, mean)
        self.seconds = max(self.seconds, time.perf_counter() - started)
        return EpochResult(number, mean, self.seconds, self.steps_per_epoch * size / self.seconds)

    def _step(self, batch: Tensor, step: int) -> Tensor:
        """Do one step of the optimizer and return the loss of this process's part of the batch, detached.

        `batch` holds the numbers of the images, for all processes; `step` counts from 0 over all epochs.
        """
        rate, beta1 = learning_rate_at(self.recipe, step, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"], group["betas"] = rate, (beta1, group["betas"][1])
        generator = self._rng.step_generator(step)
        if self._has_dropout:
            self._rng.seed_dropout(step, self._processes.rank)
        if self._protocol == "dynamic":
            image = draw_binary(self._batch(batch), generator, selected=self._slice)
        else:
            image = to_unit_range(self._batch(batch[self._slice]))
        if self.recipe.flip:
            mirrored = torch.rand(len(batch), 1, 1, 1, generator=generator, device=self._device) < 0.5
            image = torch.where(mirrored[self._slice], image.flip(3), image)
        if most := self.recipe.shift:
            moves = torch.randint(-most, most + 1, (2, len(batch)), generator=generator, device=self._device)
            image = moved(image, *moves[:, self._slice])
        noise = torch.randn(len(batch), self.model.config.latent_size, generator=generator, device=self._device)
        with compile_errors() if self._compiling else nullcontext():
            value = self._loss(image, noise[self._slice], step)
            self.optimizer.zero_grad()
            value.backward()
        if self.recipe.clip_norm:
            longest = self.recipe.clip_norm * math.prod(self.model.config.image_shape)
            nn.utils.clip_grad_norm_(self.model.parameters(), longest)
        self.optimizer.step()
        if self.average is not None:
            self._update_average(self.average, step)
        return value.detach()

    def _batch(self, images: Tensor) -> Tensor:
        """Return the pixels of images, on the device of the network."""
        # `pixels[images]` takes fifteen times as long on a CPU.
        return self._pixels.index_select(0, images).to(self._device)

    def _loss(self, image: Tensor, noise: Tensor, step: int) -> Tensor:
        if self._uses_cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()
        try:
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
                reconstruction, units = self._loss_terms(image, noise)
        except RuntimeError as error:
            if "between 0 and 1" not in str(error):
                raise
            # `binary_cross_entropy`, which family `blog` uses, raises where the loss of other families becomes NaN.
            raise divergence_error(step // self.steps_per_epoch + 1, math.nan) from error
        beta = self._objective.kl_weight(step / self.steps_per_epoch)
        free_bits = self._objective.free_bits
        return weighted_loss(reconstruction, units, beta=beta, free_bits=free_bits, over_batch=self._processes.mean)

    def run_trial_steps(self, steps: int) -> None:
        """Do steps on the first images, so that their time can be measured. They change the weights."""
        batch = torch.arange(self.recipe.batch_size, device=self._pixels.device)
        total = sum((self._step(batch, 0) for _ in range(steps)), torch.zeros((), device=self._device))
        total.item()  # waits for an accelerator

    def state_tensors(self) -> dict[str, Tensor]:
        """Return copies, on the CPU, of all tensors that change in training, by the names that `restore` expects.

        Call it between two steps, and in every process.
        """
        found = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.average is not None:
            found |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            found |= {f"adam.{key}.{name}": value for key, value in self.optimizer.state[parameter].items()}
        totals = self._processes.gather(self._loss_sum.cpu())
        found["loss"] = self._loss_sum if self._processes.is_single else torch.stack(totals)
        return {name: tensor.detach().cpu().clone() for name, tensor in found.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], *, steps_done: int, seconds: float, processes: int = 1) -> None:
        """Take over the state of another trainer.

        Args:
            tensors: the `state_tensors` of the other trainer.
            steps_done, seconds: attributes of the other trainer.
            processes: number of processes that the other trainer ran in.

        Raises:
            CheckpointError: names, shapes or dtypes do not match this trainer.
        """
        networks = {"model": self.model} | ({} if self.average is None else {"average": self.average})
        places = {f"{kind}.{name}": place for kind, net in networks.items() for name, place in net.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            # In the memory format of the parameter, since the fused optimizer reads both in the order of memory.
            moments = {"exp_avg": torch.empty_like(parameter), "exp_avg_sq": torch.empty_like(parameter)}
            moments["step"] = torch.zeros((), dtype=torch.float32, device=self._device)
            self.optimizer.state[parameter] = moments
            places |= {f"adam.{key}.{name}": tensor for key, tensor in moments.items()}
        places["loss"] = self._loss_sum
        if "loss" in tensors and tensors["loss"].numel() == processes:  # one number a process; others are refused below
            tensors = {**tensors, "loss": self._processes.own_share(tensors["loss"])}
        problems = [f"missing {name}" for name in places.keys() - tensors.keys()]
        problems += [f"unknown {name}" for name in tensors.keys() - places.keys()]
        for name in places.keys() & tensors.keys():
            got, expected = (f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in (tensors[name], places[name]))
            if got != expected:
                problems.append(f"{name} is {got}, not {expected}")
        if problems:
            raise CheckpointError("training state does not fit", got=", ".join(sorted(problems)))
        for name, place in places.items():
            place.copy_(tensors[name])
        self.steps_done, self.seconds = steps_done, seconds

    @torch.no_grad()
    def _update_average(self, average: VAE, step: int) -> None:
        """Move the average towards the weights; faster in the first steps, to forget the initial weights."""
        decay = min(self.recipe.weight_average, (1 + step) / (10 + step))
        torch._foreach_lerp_([*average.parameters()], [*self.model.parameters()], 1 - decay)


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Return the number of whole batches: the last incomplete one is dropped. Raises `DataError` if there is none."""
    if images < batch_size:
        got, expected = f"{images:,} training images", f"{batch_size:,} or more"
        do = f"pass --batch-size {images}, or less" if images else "pass data with more images"
        raise DataError("fewer images than a batch", expected=expected, got=got, do=do)
    return images // batch_size


def moved(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Return images moved by whole pixels, each by its own; what comes in at an edge is the image mirrored there.

    Args:
        images: (N, C, H, W).
        down, right: int64 (N,), from 1 - H to H - 1, and from 1 - W to W - 1.
    """
    for axis, by in ((2, down), (3, right)):
        last = images.shape[axis] - 1
        places = (torch.arange(last + 1, device=images.device) - by[:, None]).abs()
        places = last - (last - places).abs()  # where the place of each pixel lies beyond the edge, its mirror image
        shape = [len(images), 1, 1, 1]
        shape[axis] = last + 1
        images = images.gather(axis, places.view(shape).expand(images.shape))
    return images


def has_bfloat16_instructions(device: torch.device) -> bool:
    """Return whether a device has instructions for bfloat16 products; without them they are slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # not in the oldest supported torch
        can = torch.cpu.get_capabilities()
        return bool(can.get("avx512_bf16") or can.get("amx_bf16"))
    return False


def divergence_error(epoch: int, value: float) -> InputError:
    """Make the error for a loss, or a weight, that is not finite."""
    expected, do = "a finite loss", "try a smaller --learning-rate"
    return InputError("training diverged", where=f"epoch {epoch}", expected=expected, got=value, do=do)


class StepRng:
    """Random numbers of a training: a function of the seed, the epoch and the step, on the device of the training."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed, self._generator = seed, torch.Generator(device)

    def epoch_order(self, epoch: int, count: int) -> Tensor:
        """Return the order of the images in an epoch: a permutation of `count` numbers, int64, on the CPU."""
        generator = torch.Generator().manual_seed(self._derived_seed("order", epoch))
        return torch.randperm(count, generator=generator)

    def step_generator(self, step: int) -> torch.Generator:
        """Return the generator for the pixels and the noise of a step, which counts over all epochs."""
        return self._generator.manual_seed(self._derived_seed("step", step))

    def seed_dropout(self, step: int, rank: int) -> None:
        """Seed PyTorch's global generator for the dropout of a step: dropout takes no generator of its own.

        Its masks are for the images of one process, so that each process has its own.
        """
        torch.manual_seed(self._derived_seed("dropout", step, *([rank] if rank else [])))

    def _derived_seed(self, *place: object) -> int:
        text = " ".join(map(str, (self._seed, *place)))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def compile_module(module: nn.Module, device: torch.device) -> nn.Module:
    """Compile a module as one graph when it is first called; on CUDA it is replayed as a CUDA graph.

    With `fullgraph`, what cannot be compiled is an error instead of a slow path.
    """
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    compiled = torch.compile(module, fullgraph=True, dynamic=False, mode=mode)
    return cast(nn.Module, compiled)  # torch's type hints say a function


def check_compiler(device: torch.device) -> None:
    """Compile one line, to fail before any work. Raises `MachineError`."""
    with compile_errors():
        torch.compile(lambda x: torch.exp(x).sum(), fullgraph=True)(torch.ones(64, device=device))


@contextmanager
def compile_errors() -> Iterator[None]:
    """Raise `MachineError`, one line, for errors of torch's compiler and the C++ compiler behind it."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        lines = [line.strip(" :") for line in str(error).splitlines() if line.strip()]
        do = "see whether a C++ compiler (g++) is installed, or leave --compile out"
        raise MachineError("cannot compile", where="--compile", got=": ".join(lines[:2])[:300], do=do) from error
