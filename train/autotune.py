"""Choose threads and precision by timing steps of the training, where the options leave them open.

Neither can be known beforehand: on busy cores two threads may take several times as long as one, and a processor may
have bfloat16 instructions that are no faster than those for float32. The steps are done on a network of their own, so
that the training is not changed by them.
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

#: Measuring ends after so many seconds, once each configuration was timed.
_MAX_SECONDS = 2.0
_MAX_ROUNDS = 8
#: A configuration of more threads or fewer bits must be faster by this factor.
_MIN_SPEEDUP = 1.1


@dataclass(frozen=True)
class StepConfig:
    """The threads and the precision that a training step is computed with.

    Attributes:
        threads: number of CPU threads.
        precision: precision of matrix products and convolutions.
    """

    threads: int
    precision: MatmulPrecision

    def __str__(self) -> str:
        return f"{self.threads} thread{'s' * (self.threads > 1)} in {self.precision}"


@dataclass(frozen=True)
class AutotuneResult:
    """The configuration that was chosen.

    Attributes:
        config: the configuration.
        seconds: median time of a step in each configuration that was timed; empty if there was no choice.
    """

    config: StepConfig
    seconds: Mapping[StepConfig, float]

    def describe(self, batch_size: int) -> str:
        """Describe the choice and the measurements in one line."""
        tried = (f"{batch_size / seconds:,.0f} with {config}" for config, seconds in self.seconds.items())
        return f"computing with {self.config}" + (f"; images/s: {', '.join(tried)}" if self.seconds else "")


def step_configs(threads: int | None, precision: MatmulPrecision | None, *, bfloat16: bool) -> list[StepConfig]:
    """Return the configurations to choose from, those with fewer threads and more bits first.

    Args:
        threads: the number of threads, or None to choose between one and all of torch's.
        precision: the precision, or None to choose.
        bfloat16: whether bfloat16 is worth a try.

    Returns:
        At least one configuration.
    """
    counts = sorted({1, torch.get_num_threads()}) if threads is None else [threads]
    usual: list[MatmulPrecision] = ["float32", "bfloat16"] if bfloat16 else ["float32"]
    tried = usual if precision is None else [precision]
    return [StepConfig(count, kind) for kind in tried for count in counts]


def fastest_config(candidates: Sequence[StepConfig], step: Callable[[StepConfig], object]) -> AutotuneResult:
    """Time a step in each configuration, in turns so that a busy moment slows all of them, and compare the medians.

    PyTorch's number of threads is restored.
    """
    before = torch.get_num_threads()
    times: dict[StepConfig, list[float]] = {config: [] for config in candidates}
    for config in candidates:
        _seconds(config, step)  # the first step allocates memory
    started = time.perf_counter()
    for _ in range(_MAX_ROUNDS):
        for config in candidates:
            times[config].append(_seconds(config, step))
        if time.perf_counter() - started > _MAX_SECONDS:
            break
    seconds = {config: median(taken) for config, taken in times.items()}
    chosen = candidates[0]
    for config in candidates[1:]:
        if seconds[config] * _MIN_SPEEDUP < seconds[chosen]:
            chosen = config
    torch.set_num_threads(before)
    return AutotuneResult(chosen, seconds)


def _seconds(config: StepConfig, step: Callable[[StepConfig], object]) -> float:
    torch.set_num_threads(config.threads)
    started = time.perf_counter()
    step(config)
    return time.perf_counter() - started


#: Steps that are timed together, since those of an accelerator are shorter than a measurement.
_STEPS = {"cpu": 1, "cuda": 20, "mps": 5}


def autotune(
    options: TrainOptions, network: VAEConfig, dataset: Dataset, device: torch.device, processes: Processes
) -> AutotuneResult:
    """Choose the threads and the precision that the options leave open.

    Steps are timed on this process's share of a batch, and without torch.compile. Processes that share a machine
    measure at the same time, as they will train.

    Args:
        options: the options of the training.
        network: the network.
        dataset: the images.
        device: the device of the training.
        processes: the processes that will train together.

    Returns:
        The chosen configuration, and the median step time of each one that was tried, in seconds.
    """
    recipe = options.recipe_for(len(dataset.train))
    precision: MatmulPrecision | None = None if options.precision == "auto" else options.precision
    threads = options.threads if device.type == "cpu" else torch.get_num_threads()
    candidates = step_configs(threads, precision, bfloat16=recipe.bfloat16 and has_bfloat16_instructions(device))
    if len(candidates) == 1:
        return AutotuneResult(candidates[0], {})
    # torch's type hints do not know memory_format.
    model = VAE(network).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
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
        for kind in {config.precision for config in candidates}
    }

    def step(config: StepConfig) -> None:
        trainers[config.precision].run_trial_steps(_STEPS[device.type])

    return fastest_config(candidates, step)
