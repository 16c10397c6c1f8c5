"""Runs an exported VAE with numpy and onnxruntime alone. Importing this never imports torch; a test proves it."""

from vae_export.runtime.loading import load, open_package
from vae_export.runtime.model import Model

__all__ = ["Model", "load", "open_package"]
