"""Where latents and images come from: arrays, Parquet, image files, a seed. Read a piece at a time."""

from vae_export.sources.base import Source
from vae_export.sources.opened import open_images, open_latents
from vae_export.sources.prior import Prior

__all__ = ["Prior", "Source", "open_images", "open_latents"]
