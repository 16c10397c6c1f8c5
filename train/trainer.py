"""`--compile`: torch.compile, which either compiles or ends the command. Nothing runs uncompiled behind one's back.

What training draws: a function of the seed and of the place in the training, so that no random state has to be kept.

A training that goes on after a stop draws what it would have drawn, at whichever step it was stopped; and processes
that share a training draw the same and take each its part.

The training loop: Adam on the loss, one epoch after the other.

What changes while it runs is in `Trainer`: weights, their average, Adam's moments, the number of steps done. It can be
taken out between two steps and put back. Everything else is a function of the epoch and the step: the learning rate,
the weight of the KL term, and what is drawn.
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


def compile_module(module: nn.Module, device: torch.device) -> nn.Module:
    """`module`, compiled as one graph when it is first called; on CUDA, replayed as a CUDA graph.

    `fullgraph`: whatever cannot be compiled, and a graph compiled too often, is an error and no slow path.
    """
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    made = torch.compile(module, fullgraph=True, dynamic=False, mode=mode)
    return cast(nn.Module, made)  # it is one; torch's type hints say a function


def check_compiler(device: torch.device) -> None:
    """Compile one line, before anything is read or written. Raises `MachineError`."""
    with compile_errors():
        torch.compile(lambda x: torch.exp(x).sum(), fullgraph=True)(torch.ones(64, device=device))


@contextmanager
def compile_errors() -> Iterator[None]:
    """Turn what torch's compiler, or the C++ compiler behind it, raises into one line."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        lines = [line.strip(" :") for line in str(error).splitlines() if line.strip()]
        do = "see whether a C++ compiler (g++) is installed, or leave --compile out"
        raise MachineError("cannot compile", where="--compile", got=": ".join(lines[:2])[:300], do=do) from error


class StepRng:
    """For one training with this seed, on this device."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed, self._generator = seed, torch.Generator(device)

    def epoch_order(self, epoch: int, count: int) -> Tensor:
        """A permutation of `count` images, int64, on the CPU."""
        generator = torch.Generator().manual_seed(self._number("order", epoch))
        return torch.randperm(count, generator=generator)

    def step_generator(self, step: int) -> torch.Generator:
        """For all that a step draws of its images, in the order in which it draws; `step` counts over all epochs."""
        return self._generator.manual_seed(self._number("step", step))

    def seed_dropout(self, step: int, rank: int) -> None:
        """Dropout has no generator of its own: it draws from the global one, and is alone in that.

        It draws for the images at hand, not for the whole batch: processes that share one draw each their own.
        """
        torch.manual_seed(self._number("dropout", step, *([rank] if rank else [])))

    def _number(self, *place: object) -> int:
        text = " ".join(map(str, (self._seed, *place)))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


#: Called after each step with the epoch (from 1), the steps done in it, and the sum of their losses: a scalar that
#: stays on the device, because reading it makes the device wait.
StepCallback = Callable[[int, int, Tensor], None]


@dataclass(frozen=True)
class EpochResult:
    """Attributes:
    number: from 1.
    loss: mean over the epoch, while the weights changed, in nats an image; beta is in it.
    seconds, images_per_second: of training alone, without what is measured between epochs.
    """

    number: int
    loss: float
    seconds: float
    images_per_second: float


class Trainer:
    """Trains `model` in place, on the model's device.

    Args:
        pixels: uint8 (N, C, H, W).
        protocol: "dynamic" has each step draw binary pixels from them.
        seed: of all that is drawn.
        bfloat16: matrix products and convolutions take bfloat16; weights, sums and the loss stay float32.
        compiling: by torch.compile.
        processes: that share each batch; those of one machine or many.

    Attributes:
        steps_done: steps of the optimizer, over all epochs.
        seconds: spent on those of the present epoch.
    """

    def __init__(
        self,
        model: VAE,
        pixels: Tensor,
        recipe: Recipe,
        objective: ObjectiveOptions,
        *,
        protocol: DataProtocol = "grey",
        seed: int = 0,
        bfloat16: bool = False,
        compiling: bool = False,
        processes: Processes | None = None,
    ) -> None:
        self.model, self._recipe, self._objective = model, recipe, objective
        self._protocol, self._bfloat16, self._compiling = protocol, bfloat16, compiling
        self._processes = processes or Processes()
        self._part = self._processes.batch_slice(recipe.batch_size)
        self._device = next(model.parameters()).device
        self._pixels = pixels.to(self._device)
        self.steps_per_epoch = steps_per_epoch(len(pixels), recipe.batch_size)
        self.optimizer = torch.optim.Adam(model.parameters(), recipe.learning_rate, eps=recipe.epsilon, fused=True)
        self.average = copy.deepcopy(model) if recipe.average else None
        self._terms: nn.Module = LossTerms(model)
        if compiling:
            self._terms = compile_module(self._terms, self._device)
        if not self._processes.is_single:
            self._terms = DistributedDataParallel(self._terms)
        self._replaying = compiling and self._device.type == "cuda"
        self._draws = StepRng(seed, self._device)
        self._has_dropout = any(isinstance(module, nn.Dropout) for module in model.modules())
        self._total = torch.zeros((), device=self._device)  # of the present epoch's losses
        self.steps_done, self.seconds = 0, 0.0

    @property
    def scored_model(self) -> VAE:
        """The weights that are scored and kept: the average, where there is one."""
        return self.model if self.average is None else self.average

    def train_epochs(self, watch: StepCallback, *, after: int = 0) -> Iterator[EpochResult]:
        """Train to the last epoch; yield each that ends, from the one `after` that many.

        Where it was taken out within an epoch, or at its very end, that epoch's other steps are what is done of it.
        Raises `InputError` when the loss is not finite.
        """
        for number in range(after + 1, self._recipe.epochs + 1):
            yield self._epoch(number, watch)

    def _epoch(self, number: int, watch: StepCallback) -> EpochResult:
        self.model.train()
        size, first = self._recipe.batch_size, self.steps_done - (number - 1) * self.steps_per_epoch
        if first == 0:
            self._total, self.seconds = torch.zeros((), device=self._device), 0.0
        started = time.perf_counter() - self.seconds
        order = self._draws.epoch_order(number, len(self._pixels)).to(self._device)
        for step in range(first, self.steps_per_epoch):
            self._total += self._step(order[step * size : (step + 1) * size], self.steps_done)
            self.steps_done += 1
            self.seconds = time.perf_counter() - started
            watch(number, step + 1, self._total)
        mean = self._processes.mean(self._total).item() / self.steps_per_epoch
        if not math.isfinite(mean):
            raise divergence_error(number, mean)
        self.seconds = max(self.seconds, time.perf_counter() - started)
        return EpochResult(number, mean, self.seconds, self.steps_per_epoch * size / self.seconds)

    def _step(self, batch: Tensor, step: int) -> Tensor:
        """One step of the optimizer on the images with those numbers, of which this process computes its part.

        `step` counts from 0 over all epochs. The loss of that part, detached.
        """
        rate, momentum = learning_rate_at(self._recipe, step, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"], group["betas"] = rate, (momentum, group["betas"][1])
        generator = self._draws.step_generator(step)
        if self._has_dropout:
            self._draws.seed_dropout(step, self._processes.rank)
        # Not `pixels[batch]`, which takes fifteen times as long on a CPU.
        if self._protocol == "dynamic":
            image = draw_binary(self._pixels.index_select(0, batch), generator, part=self._part)
        else:
            image = to_unit_range(self._pixels.index_select(0, batch[self._part]))
        noise = torch.randn(len(batch), self.model.config.latent_size, generator=generator, device=self._device)
        with compile_errors() if self._compiling else nullcontext():
            value = self._loss(image, noise[self._part], step)
            self.optimizer.zero_grad()
            value.backward()
        self.optimizer.step()
        if self.average is not None:
            self._follow(self.average, step)
        return value.detach()

    def _loss(self, image: Tensor, noise: Tensor, step: int) -> Tensor:
        if self._replaying:
            torch.compiler.cudagraph_mark_step_begin()
        try:
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
                reconstruction, units = self._terms(image, noise)
        except RuntimeError as error:
            if "between 0 and 1" not in str(error):
                raise
            # `binary_cross_entropy`, which family `blog` uses, refuses the NaN that the others' loss would become.
            raise divergence_error(step // self.steps_per_epoch + 1, math.nan) from error
        objective, mean = self._objective, self._processes.mean
        beta = objective.weight(step / self.steps_per_epoch)
        return weighted_loss(reconstruction, units, beta=beta, free_bits=objective.free_bits, over_batch=mean)

    def run_trial_steps(self, steps: int) -> None:
        """Take steps to see how long they take, of which nothing is kept on record."""
        batch = torch.arange(self._recipe.batch_size, device=self._device)
        total = sum((self._step(batch, 0) for _ in range(steps)), torch.zeros((), device=self._device))
        total.item()  # an accelerator is done only then

    def state_tensors(self) -> dict[str, Tensor]:
        """All that changes and is no number, on the CPU, by names that `restore` knows.

        Call it between two steps, in every process.
        """
        found = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.average is not None:
            found |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            found |= {f"adam.{key}.{name}": value for key, value in self.optimizer.state[parameter].items()}
        totals = self._processes.gather(self._total.cpu())
        found["loss"] = self._total if self._processes.is_single else torch.stack(totals)
        return {name: tensor.detach().cpu().clone() for name, tensor in found.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], *, steps_done: int, seconds: float, processes: int = 1) -> None:
        """Be as the trainer was whose `tensors`, `steps_done` and `seconds` these are, of so many processes.

        Raises `CheckpointError` for names, shapes or dtypes that are not this trainer's.
        """
        networks = {"model": self.model} | ({} if self.average is None else {"average": self.average})
        places = {f"{kind}.{name}": place for kind, net in networks.items() for name, place in net.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            # In the parameter's own memory format: the fused optimizer goes through both as they lie.
            moments = {"exp_avg": torch.empty_like(parameter), "exp_avg_sq": torch.empty_like(parameter)}
            moments["step"] = torch.zeros((), dtype=torch.float32, device=self._device)
            self.optimizer.state[parameter] = moments
            places |= {f"adam.{key}.{name}": tensor for key, tensor in moments.items()}
        places["loss"] = self._total
        if "loss" in tensors and tensors["loss"].numel() == processes:  # one a process; else it is refused below
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
    def _follow(self, average: VAE, step: int) -> None:
        """Let the average follow the weights; at first faster, so that where training began is soon forgotten."""
        decay = min(self._recipe.average, (1 + step) / (10 + step))
        torch._foreach_lerp_([*average.parameters()], [*self.model.parameters()], 1 - decay)


def steps_per_epoch(images: int, batch_size: int) -> int:
    """A rest smaller than a batch waits for the next epoch's order. Raises `DataError` where all is rest."""
    if images < batch_size:
        got = f"{images:,} training images"
        raise DataError(
            "fewer images than a batch", expected=f"{batch_size:,} or more", got=got, do="pass a smaller --batch-size"
        )
    return images // batch_size


def has_bfloat16_instructions(device: torch.device) -> bool:
    """Whether `device` has instructions for products of bfloat16; without them they are slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # newer than the oldest torch we take
        can = torch.cpu.get_capabilities()
        return bool(can.get("avx512_bf16") or can.get("amx_bf16"))
    return False


def divergence_error(epoch: int, value: float) -> InputError:
    return InputError(
        "training diverged",
        where=f"epoch {epoch}",
        expected="a finite loss",
        got=value,
        do="try a smaller --learning-rate",
    )
