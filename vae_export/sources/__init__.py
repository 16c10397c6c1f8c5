"""Sources of models: anything that has an encoder, a decoder and a contract becomes a `Source`."""

from vae_export.sources.base import Source
from vae_export.sources.load import NamedModel, load_source

__all__ = ["NamedModel", "Source", "load_source"]
