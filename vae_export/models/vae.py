"""The variational autoencoder (Kingma & Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114).

The approximate posterior is a diagonal Gaussian q(z|x) = N(mean, exp(logvar)), and the prior is N(0, I). The decoder's
outputs are the parameters of a likelihood p(x|z) (see `vae_export.likelihood`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vae_export.models import blog, conv, mlp, residual, resnet
from vae_export.models.config import VAEConfig


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
        family = families[config.family]
        self.config = config
        self.encoder = family.encoder(config)
        self.decoder = family.decoder(config)

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
