"""Capture the parts of a source as graphs that any format can write."""

from vae_export.capture.graph import CACHED_BYTES, CAPTURE_SECONDS, Captured, Graph, capture
from vae_export.capture.program import is_stochastic, user_code

__all__ = ["CACHED_BYTES", "CAPTURE_SECONDS", "Captured", "Graph", "capture", "is_stochastic", "user_code"]
