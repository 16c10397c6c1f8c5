"""The variational autoencoder (Kingma & Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114).

The approximate posterior is a diagonal Gaussian q(z|x) = N(mean, exp(logvar)), and the prior is N(0, I). The decoder's
outputs are the parameters of a likelihood p(x|z) (see `vae_export.likelihood`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vae_export.models import blog, conv, mlp, pyramid, residual, resnet
from vae_export.models.config import VAEConfig
from vae_export.models.networks import Encoder


def reparameterize(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """Sample the approximate posterior: z = mean + noise · exp(logvar / 2) (section 2.4 of the paper).

    Args:
        mean: the posterior mean, (N, Z).
        logvar: the logarithm of the posterior variance, (N, Z).
        noise: standard normal numbers, (N, Z).

    Returns:
        The latents z, (N, Z).
    """
    return mean + noise * torch.exp(logvar / 2)


class VAE(nn.Module):
    """The encoder and decoder of one family, built from a config."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        families = {"mlp": mlp, "blog": blog, "conv": conv, "residual": residual, "resnet": resnet}
        self.config = config
        self.encoder: Encoder | pyramid.PyramidEncoder
        if config.family == "pyramid":
            self.encoder, self.decoder = pyramid.parts(config)
            # torch's type hints do not know the hooks.
            self.register_state_dict_post_hook(_leave_out_shared)  # type: ignore[no-untyped-call]
            self.register_load_state_dict_pre_hook(_add_shared)  # type: ignore[no-untyped-call]
        else:
            family = families[config.family]
            self.encoder, self.decoder = family.encoder(config), family.decoder(config)

    def forward(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Encode, sample and decode.

        Args:
            image: float32 (N, C, H, W) in [0, 1].
            noise: standard normal numbers (N, Z).

        Returns:
            The reconstruction (N, C, H, W), and mean, logvar and latent, each (N, Z).
        """
        mean, logvar = self.encoder(image)
        latent = reparameterize(mean, logvar, noise)
        return self.decoder.image(latent), mean, logvar, latent


#: Names of the weights that encoder and decoder of `pyramid` share.
_SHARED, _OWNER = "encoder.prior.", "decoder.body.prior."


def _leave_out_shared(_module: nn.Module, state: dict[str, Tensor], prefix: str, _metadata: object) -> None:
    """Keep shared weights once, as the decoder's."""
    for name in [name for name in state if name.startswith(prefix + _SHARED)]:
        del state[name]


def _add_shared(_module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Give the encoder the decoder's shared weights."""
    owner = prefix + _OWNER
    state |= {prefix + _SHARED + name.removeprefix(owner): state[name] for name in [*state] if name.startswith(owner)}
