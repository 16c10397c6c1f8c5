"""Where latents and images come from: arrays, Parquet, image files, a seed. Read a piece at a time."""

from vae_export.pipeline.readers.base import Reader
from vae_export.pipeline.readers.open import open_images, open_latents
from vae_export.pipeline.readers.prior import PriorReader

__all__ = ["PriorReader", "Reader", "open_images", "open_latents"]
