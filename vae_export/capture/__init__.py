"""Graphs: the parts of a source, captured so that any format can write them."""

from vae_export.capture.graph import Captured, Graph, capture, is_stochastic

__all__ = ["Captured", "Graph", "capture", "is_stochastic"]
