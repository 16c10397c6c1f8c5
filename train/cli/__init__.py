"""`cli.py train`, `evaluate` and `runs`: parse, one call, print. Torch is imported inside: `--help` is quick."""

from train.cli.evaluate import evaluate
from train.cli.runs import runs
from train.cli.train import train

__all__ = ["evaluate", "runs", "train"]
