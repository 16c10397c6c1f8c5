"""What training draws: a function of the seed and of the place in the training, so that no random state has to be kept.

A training that goes on after a stop draws what it would have drawn, at whichever step it was stopped; and processes
that share a training draw the same and take each its part.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


class Draws:
    """For one training with this seed, on this device."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed, self._generator = seed, torch.Generator(device)

    def order(self, epoch: int, count: int) -> Tensor:
        """A permutation of `count` images, int64, on the CPU."""
        generator = torch.Generator().manual_seed(self._number("order", epoch))
        return torch.randperm(count, generator=generator)

    def of_step(self, step: int) -> torch.Generator:
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
