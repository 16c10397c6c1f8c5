"""Does an exported file compute what PyTorch computes? `verify` runs both and writes down every figure."""

from vae_export.parity.baseline import read_baseline, regressions
from vae_export.parity.certificate import Certificate
from vae_export.parity.drift import Budget, Drift
from vae_export.parity.measure import Tolerance
from vae_export.parity.probes import calibration
from vae_export.parity.row import Row
from vae_export.parity.vectors import golden_vectors
from vae_export.parity.verifier import verify

__all__ = [
    "Budget",
    "Certificate",
    "Drift",
    "Row",
    "Tolerance",
    "calibration",
    "golden_vectors",
    "read_baseline",
    "regressions",
    "verify",
]
