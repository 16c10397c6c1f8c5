"""The layout of a run folder: the names of checkpoint, metrics, pictures and export. `newest_run` finds the newest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vae_export.errors import UsageError

#: The folder that holds the runs, below the working folder.
ARTIFACTS = Path("artifacts")


@dataclass(frozen=True)
class Run:
    """A run folder `artifacts/<run>/` with the checkpoint, metrics, pictures and export of one training."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """The path of the checkpoint with the best score."""
        return self.folder / "checkpoint.safetensors"

    @property
    def state(self) -> Path:
        """The folder with the files for resuming."""
        return self.folder / "state"

    @property
    def training_state(self) -> Path:
        """The path of weights, optimiser and counters after the last finished epoch."""
        return self.state / "training.safetensors"

    @property
    def previous_checkpoint(self) -> Path:
        """The path of the checkpoint before the last one."""
        return self.previous(self.checkpoint)

    @property
    def previous_training_state(self) -> Path:
        """The path of the training state before the last one."""
        return self.previous(self.training_state)

    def previous(self, file: Path) -> Path:
        """Return the path that keeps the previous content of `file`."""
        return self.state / f"previous-{file.name}"

    @property
    def data(self) -> Path:
        """The path of a JSON object that says where the images of the training lie on this machine."""
        return self.folder / "data.json"

    @property
    def metrics(self) -> Path:
        """The path of the metrics, with one line of JSON for each epoch."""
        return self.folder / "metrics.jsonl"

    @property
    def evaluations(self) -> Path:
        """The path of the evaluations, with one line of JSON for each."""
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


def newest_run(*, exported: str | None = None) -> Run:
    """Return the run of `ARTIFACTS` whose checkpoint was written last; raise `UsageError` if there is none.

    Args:
        exported: the name of a file; runs that have it in their export come first.
    """
    checkpoints = sorted(ARTIFACTS.glob(f"*/{Run(ARTIFACTS).checkpoint.name}"), key=lambda path: path.stat().st_mtime)
    runs = [Run(path.parent) for path in reversed(checkpoints)]
    if not runs:
        raise UsageError("no run found", where=ARTIFACTS, do="train one first (python cli.py train), or pass --run")
    having = (run for run in runs if exported and (run.export / exported).is_file())
    return next(having, runs[0])
