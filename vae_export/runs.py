"""Where things lie in a run folder, and which run is the newest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vae_export.errors import UsageError

#: Where runs go, below the working folder.
ARTIFACTS = Path("artifacts")


@dataclass(frozen=True)
class Run:
    """One folder `artifacts/<run>/`: a training's checkpoint, metrics and pictures, and its export."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def previous_checkpoint(self) -> Path:
        return self.state / f"previous-{self.checkpoint.name}"

    @property
    def training_state(self) -> Path:
        """What resuming needs."""
        return self.state / "training.safetensors"

    @property
    def previous_training_state(self) -> Path:
        return self.state / f"previous-{self.training_state.name}"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def evaluations(self) -> Path:
        return self.folder / "evaluations.jsonl"

    @property
    def events(self) -> Path:
        return self.folder / "tensorboard"

    @property
    def pictures(self) -> Path:
        return self.folder / "pictures"

    @property
    def export(self) -> Path:
        return self.folder / "export"


def newest_run(root: Path = ARTIFACTS) -> Run:
    """The run whose checkpoint was written last; raises `UsageError` where there is none."""
    checkpoints = sorted(root.glob(f"*/{Run(root).checkpoint.name}"), key=lambda path: path.stat().st_mtime)
    if not checkpoints:
        raise UsageError("no run found", where=root, do="train one first (python cli.py train), or pass --run")
    return Run(checkpoints[-1].parent)
