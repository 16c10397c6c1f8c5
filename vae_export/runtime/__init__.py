"""Runs an exported VAE with numpy and onnxruntime alone. Importing this never imports torch; a test proves it."""

from vae_export.runtime.model import Model, load, open_package

__all__ = ["Model", "load", "open_package"]
