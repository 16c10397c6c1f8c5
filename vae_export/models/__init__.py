"""The VAE families that ship with this project: `mlp` (default), `blog`, `conv`, `residual`, `resnet`,
`pyramid`.

Only this package and `train/` use these networks. All other packages work with an encoder, a decoder and a contract.
The config can be imported without torch, so that the command line starts fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vae_export.models.config import FAMILIES, VAEConfig

if TYPE_CHECKING:
    from vae_export.models.vae import VAE, reparameterize

__all__ = ["FAMILIES", "VAE", "VAEConfig", "reparameterize"]


def __getattr__(name: str) -> Any:
    if name not in ("VAE", "reparameterize"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    from vae_export.models import vae

    return getattr(vae, name)
