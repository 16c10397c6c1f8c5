"""What a person should know of a training, in one line each, while it is still time: nothing here changes anything."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from train.data import Dataset
from train.evaluate import Score
from vae_export.models import VAEConfig

#: Epochs after which units that do nothing count as collapsed.
_PATIENCE = 5
#: A share of pixels at one of two levels above which an image counts as binary.
_BINARY = 0.999


def before(config: VAEConfig, dataset: Dataset) -> Iterator[str]:
    """What the options alone foretell."""
    if config.family == "post":
        yield "ReLU heads: no posterior mean below 0, no deviation below 1; --family mlp has linear ones"
    pixels = dataset.train[:1000]
    binary = ((pixels == 0) | (pixels == 255)).to(torch.float32).mean().item() > _BINARY
    drawn = dataset.protocol != "grey"
    if config.likelihood.name == "bernoulli" and not drawn and not binary:
        yield (
            "grey pixels under a Bernoulli: figures are cross-entropies and no likelihoods; "
            "--data-protocol dynamic or --likelihood discretised-logistic have one"
        )
    if config.likelihood.name != "bernoulli" and (drawn or binary):
        why = "a density of them has no bound" if config.likelihood.name == "gaussian" else "it is made for grey levels"
        yield f"binary pixels under {config.likelihood.name}: {why}; --likelihood bernoulli fits"


class Watcher:
    """Says once that most units have collapsed; some always do where there are more than the images need."""

    def __init__(self) -> None:
        self._said = False

    def after(self, epoch: int, score: Score) -> str | None:
        """The line that `score`, of the validation images after `epoch`, calls for."""
        units, active = len(score.unit_variances), score.active_units
        if self._said or epoch < _PATIENCE or 4 * active >= units:
            return None
        self._said = True
        idle = f"{units - active} of {units} latent units do nothing"
        return f"epoch {epoch}: {idle}: try --kl-warmup 5, --free-bits 0.1 or a smaller --latent-size"
