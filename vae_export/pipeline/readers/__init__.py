"""Where latents and images come from: arrays, Parquet, image files, a seed. Read a piece at a time."""

from vae_export.pipeline.readers.base import Source
from vae_export.pipeline.readers.open import open_images, open_latents
from vae_export.pipeline.readers.prior import Prior

__all__ = ["Prior", "Source", "open_images", "open_latents"]
