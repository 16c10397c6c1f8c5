"""Say before a training of photographs what to expect, and after it what to try next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from train.recipes import SMALL_SET, Recipe

#: A validation score that is worse than that of the training images by more than this share says that they were learned
#: by heart; one that improved by more in the last tenth of the epochs says that the training was too short.
_MEMORISED, _IMPROVING = 0.02, 0.005
#: Fewer epochs say nothing: the score still improves.
_FEW_EPOCHS = 5
_SCORE = "negative_elbo_nats_per_image"


def expectation(images: int) -> str | None:
    """Return a note on a training with few photographs, or None for many.

    Args:
        images: the number of training images.
    """
    if images >= SMALL_SET:
        return None
    return (
        f"{images:,} pictures are few: expect reconstructions of colours and of light and dark, and blurred samples; "
        "more pictures help most, and --flip where left and right do not matter"
    )


def next_step(lines: Sequence[Mapping[str, Any]], recipe: Recipe, out: Path) -> str:
    """Return what to try after a finished training, from the scores of its epochs.

    Args:
        lines: the lines of `metrics.jsonl`.
        recipe: the recipe of the training.
        out: the run folder.
    """
    validation = [line["validation"][_SCORE] for line in lines]
    best = min(range(len(lines)), key=validation.__getitem__)
    scale = abs(validation[best])
    before = validation[-1 - max(1, len(lines) // 10)] if len(lines) >= _FEW_EPOCHS else math.inf
    if before - validation[best] > _IMPROVING * scale:
        return f"the score still improves: go on with train --resume --epochs {2 * recipe.epochs} --out {out}"
    if validation[best] - lines[best]["train"][_SCORE] > _MEMORISED * scale:
        others = [name for name, used in (("--shift 4", recipe.shift), ("--flip", recipe.flip)) if not used]
        return f"the training images score better than others: use {' or '.join(['more pictures', *others])}"
    return "longer training will gain little: try a larger --latent-size, or more pictures"
