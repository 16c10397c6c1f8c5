"""The two modules that every family fills: an encoder with two heads, a decoder that ends in those of p(x|z)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vae_export.likelihood import MAX_LEVEL, Likelihood

#: The log of a pixel's deviation or scale lies between that of one grey level and that of the whole range: a density
#: of 8-bit pixels that may be narrower than a level has no bound, and background that never varies would find it.
LOG_SCALE_MIN, LOG_SCALE_MAX = -math.log(MAX_LEVEL), 0.0


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
        """image (N, C, H, W) → mean, logvar, each (N, Z)."""
        features = self.body(image)
        return self.mean(features), self.logvar(features)


class Decoder(nn.Module):
    """latent (N, Z) float32 → image (N, C, H, W) in [0, 1], and what else the likelihood p(x|z) has of each pixel.

    Args:
        body: latent (N, Z) → raw outputs (N, C, H, W), or (N, 2C, H, W) where the likelihood has a second output.
        likelihood: what they mean.
    """

    def __init__(self, body: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.body, self.likelihood = body, likelihood

    def raw(self, latent: Tensor) -> Tensor:
        """What the body gives: a Bernoulli's logits, which is what the loss is computed on."""
        raw: Tensor = self.body(latent)
        return raw

    def image(self, latent: Tensor) -> Tensor:
        """latent (N, Z) → image (N, C, H, W) in [0, 1], whatever the likelihood."""
        return outputs(self.likelihood, self.raw(latent))[0]

    def forward(self, latent: Tensor) -> Tensor | tuple[Tensor, ...]:
        """latent (N, Z) → image (N, C, H, W), alone or with the likelihood's second output."""
        given = outputs(self.likelihood, self.raw(latent))
        return given if len(given) > 1 else given[0]


def outputs(likelihood: Likelihood, raw: Tensor) -> tuple[Tensor, ...]:
    """A decoder's outputs of its body's raw ones: the image, in [0, 1], and the log-variance or log-scale."""
    if likelihood.spread is None:
        return (torch.sigmoid(raw),)
    mean, spread = raw.chunk(2, dim=1)
    # A sigmoid has a slope everywhere; past a hard bound nothing would lead back.
    log_scale = LOG_SCALE_MIN + (LOG_SCALE_MAX - LOG_SCALE_MIN) * torch.sigmoid(spread)
    return torch.sigmoid(mean), log_scale * 2 if likelihood.spread == "logvar" else log_scale


def raw_channels(channels: int, likelihood: Likelihood) -> int:
    """Channels of the raw outputs for images of that many."""
    return channels if likelihood.spread is None else 2 * channels


def activation(name: str) -> nn.Module:
    kinds: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU}
    return kinds[name]()
