"""Readers of latents and images: arrays, Parquet, image files, or a seed. They read some rows at a time."""

from vae_export.pipeline.readers.base import PriorReader, Reader
from vae_export.pipeline.readers.open import open_array, open_images, open_latents

__all__ = ["PriorReader", "Reader", "open_array", "open_images", "open_latents"]
