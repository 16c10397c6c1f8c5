"""The learning rate as a function of the step: nothing to save, nothing to restore.

constant   what it is
one-cycle  up from 1/25 of the peak for a share of the steps, the recipe's `warmup_ratio`, then down to nearly nothing,
           along cosines, while Adam's first beta goes from 0.95 to 0.85 and back (Smith & Topin, arXiv:1708.07120; the
           figures are those of torch.optim.lr_scheduler.OneCycleLR)
stages     so many epochs at each rate
"""

from __future__ import annotations

import itertools
import math

from train.recipes import Recipe

_START, _END = 1 / 25, 1 / 25 / 1e4
_BETA_LOW, _BETA_HIGH = 0.85, 0.95
#: Adam's first beta where nothing cycles.
_BETA = 0.9


def rate_at(recipe: Recipe, step: int, steps_per_epoch: int) -> tuple[float, float]:
    """Learning rate and Adam's first beta of a step, counted from 0 over all epochs."""
    if recipe.schedule == "one-cycle":
        return _one_cycle(recipe.learning_rate, recipe.warmup_ratio, step, recipe.epochs * steps_per_epoch)
    if recipe.schedule == "stages":
        epoch = step // steps_per_epoch
        ends = itertools.accumulate(epochs for epochs, _ in recipe.stages)
        rates = (rate for end, (_, rate) in zip(ends, recipe.stages, strict=True) if epoch < end)
        return next(rates, recipe.stages[-1][1]), _BETA
    return recipe.learning_rate, _BETA


def _one_cycle(peak: float, rise: float, step: int, steps: int) -> tuple[float, float]:
    turn = rise * steps - 1
    if step < turn:
        done = step / turn
        return _cosine(_START * peak, peak, done), _cosine(_BETA_HIGH, _BETA_LOW, done)
    done = (step - turn) / (steps - 1 - turn)
    return _cosine(peak, _END * peak, done), _cosine(_BETA_LOW, _BETA_HIGH, done)


def _cosine(start: float, end: float, done: float) -> float:
    """From start to end as `done` goes from 0 to 1."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * done))
