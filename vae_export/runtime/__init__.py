"""Run an exported VAE with numpy and onnxruntime only. Importing this package never imports torch."""

from vae_export.runtime.model import Model, load, open_package

__all__ = ["Model", "load", "open_package"]
