"""Does an exported file compute what PyTorch computes? `verify` runs both and writes down every figure."""

from vae_export.parity.certificate import Certificate
from vae_export.parity.certificate_diff import read_baseline, regressions
from vae_export.parity.compare import CaseResult
from vae_export.parity.degradation import Budget, Degradation
from vae_export.parity.golden import golden_vectors
from vae_export.parity.probes import calibration_inputs
from vae_export.parity.tolerance import Tolerance
from vae_export.parity.verifier import verify

__all__ = [
    "Budget",
    "CaseResult",
    "Certificate",
    "Degradation",
    "Tolerance",
    "calibration_inputs",
    "golden_vectors",
    "read_baseline",
    "regressions",
    "verify",
]
