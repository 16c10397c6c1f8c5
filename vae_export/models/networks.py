"""The two modules that every family fills: an encoder with two heads, a decoder that ends in a sigmoid."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Encoder(nn.Module):
    """image (N, C, H, W) float32 in [0, 1] → mean (N, Z), logvar (N, Z): the posterior q(z|x) = N(mean, exp(logvar)).

    Args:
        body: image (N, C, H, W) → features (N, F).
        mean, logvar: features (N, F) → (N, Z).
    """

    def __init__(self, body: nn.Module, mean: nn.Module, logvar: nn.Module) -> None:
        super().__init__()
        self.body, self.mean, self.logvar = body, mean, logvar

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(image)
        return self.mean(features), self.logvar(features)


class Decoder(nn.Module):
    """latent (N, Z) float32 → image (N, C, H, W) in [0, 1]: the mean of a Bernoulli p(x|z) for each pixel.

    Args:
        body: latent (N, Z) → logits (N, C, H, W).
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def logits(self, latent: Tensor) -> Tensor:
        """The image before its sigmoid: what the loss is computed on, where rounding hurts least."""
        logits: Tensor = self.body(latent)
        return logits

    def forward(self, latent: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(latent))
