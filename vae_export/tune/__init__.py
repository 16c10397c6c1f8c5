"""Which settings are the quickest on this machine, of those that a certificate says are good enough."""

from vae_export.tune.plan import TunePlan
from vae_export.tune.search import Tried
from vae_export.tune.tuning import Tuning, tune

__all__ = ["Tried", "TunePlan", "Tuning", "tune"]
