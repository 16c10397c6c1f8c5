"""Does an exported file compute what PyTorch computes? `verify` runs both and writes down every figure."""

from vae_export.parity.certificate import Certificate
from vae_export.parity.certificate_diff import read_baseline, regressions
from vae_export.parity.compare import Row, Tolerance
from vae_export.parity.degradation import Budget, Degradation
from vae_export.parity.golden import golden_vectors
from vae_export.parity.probes import calibration
from vae_export.parity.verifier import verify

__all__ = [
    "Budget",
    "Certificate",
    "Degradation",
    "Row",
    "Tolerance",
    "calibration",
    "golden_vectors",
    "read_baseline",
    "regressions",
    "verify",
]
