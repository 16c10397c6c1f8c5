"""In which way steps are computed, where that was left to us: threads and precision, measured on the steps themselves.

Neither is known beforehand. On busy cores two threads may take several times as long as one; a processor may have
instructions for bfloat16 that are no quicker than those for float32.

Steps of the training that is to begin, on weights and images of their own, to find the quickest way to take them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

import torch

from train.config import TrainOptions
from train.data.datasets import Dataset
from train.distributed import Processes
from train.trainer import Trainer, has_bfloat16_instructions
from vae_export.models import VAE, VAEConfig

MatmulPrecision = Literal["float32", "bfloat16"]

#: All measuring ends after so many seconds, once each way was tried.
_SECONDS = 2.0
_ROUNDS = 8
#: A way that asks for more, or rounds more, has to be quicker than this.
_GAIN = 1.1


@dataclass(frozen=True)
class StepConfig:
    """Attributes:
    threads: of the CPU.
    precision: of products.
    """

    threads: int
    precision: MatmulPrecision

    def __str__(self) -> str:
        return f"{self.threads} thread{'s' * (self.threads > 1)} {self.precision}"


@dataclass(frozen=True)
class AutotuneResult:
    """Attributes:
    config: which was chosen.
    seconds: that a step took in each way that was tried; empty where there was no choice.
    """

    config: StepConfig
    seconds: Mapping[StepConfig, float]

    def describe(self, batch_size: int) -> str:
        """For a person."""
        tried = (f"{way} {batch_size / seconds:,.0f}" for way, seconds in self.seconds.items())
        return f"computing with {self.config}" + (f"; tried, images/s: {', '.join(tried)}" if self.seconds else "")


def step_configs(threads: int | None, precision: MatmulPrecision | None, *, bfloat16: bool) -> list[StepConfig]:
    """Those to choose from, the most modest first.

    Args:
        threads: None: one, or all that torch has been given.
        precision: None: float32, or bfloat16 where that is worth a try.
    """
    counts = sorted({1, torch.get_num_threads()}) if threads is None else [threads]
    usual: list[MatmulPrecision] = ["float32", "bfloat16"] if bfloat16 else ["float32"]
    tried = usual if precision is None else [precision]
    return [StepConfig(count, kind) for kind in tried for count in counts]


def fastest_config(candidates: Sequence[StepConfig], step: Callable[[StepConfig], object]) -> AutotuneResult:
    """Time `step` in each way, in turns, so that a busy moment slows all of them; the median counts.

    PyTorch's number of threads is left as it was.
    """
    before = torch.get_num_threads()
    times: dict[StepConfig, list[float]] = {way: [] for way in candidates}
    for way in candidates:
        _seconds(way, step)  # the first step allocates and plans
    started = time.perf_counter()
    for _ in range(_ROUNDS):
        for way in candidates:
            times[way].append(_seconds(way, step))
        if time.perf_counter() - started > _SECONDS:
            break
    seconds = {way: median(taken) for way, taken in times.items()}
    chosen = candidates[0]
    for way in candidates[1:]:
        if seconds[way] * _GAIN < seconds[chosen]:
            chosen = way
    torch.set_num_threads(before)
    return AutotuneResult(chosen, seconds)


def _seconds(way: StepConfig, step: Callable[[StepConfig], object]) -> float:
    torch.set_num_threads(way.threads)
    started = time.perf_counter()
    step(way)
    return time.perf_counter() - started


#: Steps at a time where they take no longer than a measurement of them.
_STEPS = {"cpu": 1, "cuda": 20, "mps": 5}


def autotune(
    options: TrainOptions, config: VAEConfig, dataset: Dataset, device: torch.device, processes: Processes
) -> AutotuneResult:
    """Measure what `options` leave open, with this process's part of a batch. Compiled steps are chosen by plain ones.

    Processes that share a machine measure at the same time, as they will train.
    """
    recipe = options.recipe_for(len(dataset.train))
    precision: MatmulPrecision | None = None if options.precision == "auto" else options.precision
    threads = options.threads if device.type == "cpu" else torch.get_num_threads()
    candidates = step_configs(threads, precision, bfloat16=recipe.bfloat16 and has_bfloat16_instructions(device))
    if len(candidates) == 1:
        return AutotuneResult(candidates[0], {})
    # torch's type hints do not know the argument.
    model = VAE(config).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    own = recipe.batch_size // processes.count
    trainers = {
        kind: Trainer(
            model,
            dataset.train[:own],
            replace(recipe, batch_size=own),
            options.objective,
            protocol=dataset.protocol,
            bfloat16=kind == "bfloat16",
        )
        for kind in {way.precision for way in candidates}
    }

    def step(way: StepConfig) -> None:
        trainers[way.precision].run_trial_steps(_STEPS[device.type])

    return fastest_config(candidates, step)
