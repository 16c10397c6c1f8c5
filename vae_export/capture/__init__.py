"""Capture the parts of a source as graphs that any format can write."""

from vae_export.capture.graph import Captured, Graph, capture, is_stochastic

__all__ = ["Captured", "Graph", "capture", "is_stochastic"]
