"""Decode, encode or reconstruct any number of rows, in this process or on a Ray cluster, with the same result."""

from vae_export.pipeline.inputs import Inputs
from vae_export.pipeline.ray.worker import ModelPayload
from vae_export.pipeline.run import Engine, LocalEngine
from vae_export.pipeline.task import Chunk, Chunks, Operation, Task, split_into_chunks

__all__ = [
    "Chunk",
    "Chunks",
    "Engine",
    "Inputs",
    "LocalEngine",
    "ModelPayload",
    "Operation",
    "Task",
    "split_into_chunks",
]
