"""Steps of the training that is to begin, on weights and images of their own, to find the quickest way to take them."""

from __future__ import annotations

from dataclasses import replace

import torch

from train.data import Dataset
from train.loop import Trainer, multiplies_bfloat16
from train.options import TrainOptions
from train.pace import Pace, Precision, Way, quickest, ways
from train.processes import Processes
from vae_export.models import VAE, VAEConfig

#: Steps at a time where they take no longer than a measurement of them.
_STEPS = {"cpu": 1, "cuda": 20, "mps": 5}


def pace_of(
    options: TrainOptions, config: VAEConfig, dataset: Dataset, device: torch.device, processes: Processes
) -> Pace:
    """Measure what `options` leave open, with this process's part of a batch. Compiled steps are chosen by plain ones.

    Processes that share a machine measure at the same time, as they will train.
    """
    recipe = options.recipe_for(len(dataset.train))
    precision: Precision | None = None if options.precision == "auto" else options.precision
    threads = options.threads if device.type == "cpu" else torch.get_num_threads()
    candidates = ways(threads, precision, bfloat16=recipe.bfloat16 and multiplies_bfloat16(device))
    if len(candidates) == 1:
        return Pace(candidates[0], {})
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

    def step(way: Way) -> None:
        trainers[way.precision].rehearse(_STEPS[device.type])

    return quickest(candidates, step)
