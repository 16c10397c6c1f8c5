"""Sources of models: anything that has an encoder, a decoder and a contract becomes a `Source`."""

from vae_export.sources.base import Source

__all__ = ["Source"]
