"""Where outputs go: one array file, PNG files, one picture, shards. Whole or absent."""

from vae_export.pipeline.writers.arrays import npy_file, npz_file
from vae_export.pipeline.writers.base import Outputs, Writer
from vae_export.pipeline.writers.images import grid, picture_folder
from vae_export.pipeline.writers.shards import SHARD_FORMATS, ShardFormat, Shards, shard_folder

__all__ = [
    "SHARD_FORMATS",
    "Outputs",
    "ShardFormat",
    "Shards",
    "Writer",
    "grid",
    "npy_file",
    "npz_file",
    "picture_folder",
    "shard_folder",
]
