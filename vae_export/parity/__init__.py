"""Check that exported files compute what PyTorch computes: `verify` compares them and returns a certificate."""

from vae_export.parity.certificate import Certificate
from vae_export.parity.certificate_diff import read_baseline, regressions
from vae_export.parity.compare import CaseResult
from vae_export.parity.degradation import Budget, Degradation
from vae_export.parity.golden import golden_vectors
from vae_export.parity.reference import References
from vae_export.parity.tolerance import Tolerance
from vae_export.parity.verifier import verify

__all__ = [
    "Budget",
    "CaseResult",
    "Certificate",
    "Degradation",
    "References",
    "Tolerance",
    "golden_vectors",
    "read_baseline",
    "regressions",
    "verify",
]
