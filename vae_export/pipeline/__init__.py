"""Where pieces of work are done: in this process, or on the machines of a Ray cluster. One order, one result."""

from vae_export.pipeline.ray.worker import ModelPayload, Settings
from vae_export.pipeline.run import LocalEngine
from vae_export.pipeline.task import Engine, Job, Piece, Pieces, Task, cut

__all__ = ["Engine", "Job", "LocalEngine", "ModelPayload", "Piece", "Pieces", "Settings", "Task", "cut"]
