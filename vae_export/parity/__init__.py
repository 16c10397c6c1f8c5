"""Does an exported file compute what PyTorch computes? `verify` runs both and writes down every figure."""

from vae_export.parity.baseline import read_baseline, regressions
from vae_export.parity.certificate import Certificate, Row
from vae_export.parity.measure import Tolerance
from vae_export.parity.vectors import golden_vectors
from vae_export.parity.verifier import verify

__all__ = ["Certificate", "Row", "Tolerance", "golden_vectors", "read_baseline", "regressions", "verify"]
