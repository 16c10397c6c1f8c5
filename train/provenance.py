"""The options, data and versions that determine a training, as checkpoints, metrics and training states record them."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from train.config import TrainOptions
from train.data.datasets import Dataset
from train.recipes import Recipe
from train.results import ScoreKind
from vae_export._version import __version__
from vae_export.models import VAEConfig


@dataclass(frozen=True)
class TrainingProvenance:
    """The inputs that determine the weights of a training, and the environment that changes their rounding.

    Attributes:
        options: its precision is "float32" or "bfloat16".
        recipe: `options.recipe_for` the training images.
        config: the network.
        dataset: the images.
        device: the device of the training.
        processes: how many train together.
    """

    options: TrainOptions
    recipe: Recipe
    config: VAEConfig
    dataset: Dataset
    device: torch.device
    processes: int

    def settings(self) -> dict[str, Any]:
        """Return all that the weights are a function of, flat, so that each difference has a name and two values."""
        data = self.dataset.to_json()
        pixels = {"dataset": data["name"], **{key: data[key] for key in ("protocol", "images", "sha256")}}
        flat: dict[str, Any] = json.loads(json.dumps(self.config.to_json() | pixels | self._hyperparameters()))
        return flat  # with lists in place of tuples, as a state is read again

    def environment(self) -> dict[str, str]:
        """Return what changes rounding alone: how sums are split and computed. Results agree within rounding."""
        found = {"device": self.device.type, "torch": torch.__version__, "python": platform.python_version()}
        found |= {"compiled": "yes" if self.options.compiled else "no", "processes": str(self.processes)}
        if self.device.type == "cpu":
            found["threads"] = str(torch.get_num_threads())
        return found | {"vae-export": __version__}

    def for_metrics(self) -> dict[str, Any]:
        """Return the entries of a line of `metrics.jsonl` that say how an epoch was computed."""
        return {"precision": self.options.precision, **self._threads(), **self._unusual()}

    def for_checkpoint(self, environment_changes: Sequence[str]) -> dict[str, Any]:
        """Return the provenance of a checkpoint; `environment_changes` are those of earlier resumes."""
        training = self._hyperparameters() | {"device": self.device.type} | self._unusual() | self._threads()
        if environment_changes:
            training["changed_on_resume"] = list(environment_changes)
        kind = ScoreKind(self.dataset.protocol, self.config.likelihood, self.dataset.image_shape)
        note = f"figures: {kind.describe()}"
        return {
            "data": self.dataset.to_json() | {"note": note},
            "likelihood": self.config.likelihood.to_json(),
            **({"preset": self.options.preset} if self.options.preset else {}),
            "training": training,
            "versions": {
                "vae-export": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }

    def _hyperparameters(self) -> dict[str, Any]:
        asked = self.recipe.to_json() | self.options.objective.to_json()
        return asked | {"seed": self.options.seed, "precision": self.options.precision}

    def _threads(self) -> dict[str, int]:
        """Return the number of CPU threads, among which sums are split, and which so decides how they are rounded."""
        return {"threads": torch.get_num_threads()} if self.device.type == "cpu" else {}

    def _unusual(self) -> dict[str, Any]:
        compiled = {"compiled": True} if self.options.compiled else {}
        return compiled | ({} if self.processes == 1 else {"processes": self.processes})
