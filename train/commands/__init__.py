"""`cli.py train`, `evaluate` and `runs`: parse, one call, print. Torch is imported inside: `--help` is quick."""

from train.commands.evaluate import evaluate
from train.commands.runs import runs
from train.commands.train import train

__all__ = ["evaluate", "runs", "train"]
