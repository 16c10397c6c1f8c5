"""Names of the files in a run folder, and the newest run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vae_export.errors import UsageError

#: The folder that holds the runs, below the working folder.
ARTIFACTS = Path("artifacts")


@dataclass(frozen=True)
class Run:
    """One folder `artifacts/<run>/`: the checkpoint, metrics and pictures of a training, and its export."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """The weights with the best score."""
        return self.folder / "checkpoint.safetensors"

    @property
    def state(self) -> Path:
        """The folder of everything that resuming needs."""
        return self.folder / "state"

    @property
    def training_state(self) -> Path:
        """Weights, optimiser and counters after the last finished epoch."""
        return self.state / "training.safetensors"

    @property
    def previous_checkpoint(self) -> Path:
        """The checkpoint before the last one."""
        return self.previous(self.checkpoint)

    @property
    def previous_training_state(self) -> Path:
        """The training state before the last one."""
        return self.previous(self.training_state)

    def previous(self, file: Path) -> Path:
        """Return the path at which the former content of `file` is kept."""
        return self.state / f"previous-{file.name}"

    @property
    def metrics(self) -> Path:
        """One line of JSON for each epoch."""
        return self.folder / "metrics.jsonl"

    @property
    def evaluations(self) -> Path:
        """One line of JSON for each evaluation."""
        return self.folder / "evaluations.jsonl"

    @property
    def events(self) -> Path:
        """The folder of TensorBoard's event files."""
        return self.folder / "tensorboard"

    @property
    def pictures(self) -> Path:
        """The folder of reconstructions, samples and charts."""
        return self.folder / "pictures"

    @property
    def export(self) -> Path:
        """The folder of the exported files."""
        return self.folder / "export"


def newest_run(root: Path = ARTIFACTS) -> Run:
    """Return the run whose checkpoint was written last.

    Args:
        root: the folder that holds the runs.

    Raises:
        UsageError: there is no run.
    """
    checkpoints = sorted(root.glob(f"*/{Run(root).checkpoint.name}"), key=lambda path: path.stat().st_mtime)
    if not checkpoints:
        raise UsageError("no run found", where=root, do="train one first (python cli.py train), or pass --run")
    return Run(checkpoints[-1].parent)
