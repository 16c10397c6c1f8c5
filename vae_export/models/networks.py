"""The encoder and decoder modules that every family builds: two Gaussian heads, and the outputs of p(x|z)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vae_export.likelihood import MAX_LEVEL, Likelihood

#: Bounds of the log of a pixel's standard deviation or scale: one grey level to the whole range. A density that may be
#: narrower than a level is unbounded on 8-bit pixels, and a background that never varies would exploit that.
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
    """latent (N, Z) float32 → image (N, C, H, W) in [0, 1], and the second output of the likelihood p(x|z) if any.

    Args:
        body: latent (N, Z) → raw outputs (N, C, H, W), or (N, 2C, H, W) where the likelihood has a second output.
        likelihood: decides what the raw outputs mean.
    """

    def __init__(self, body: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.body, self.likelihood = body, likelihood

    def raw(self, latent: Tensor) -> Tensor:
        """Return the output of the body, such as a Bernoulli's logits, from which the loss is computed."""
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
    """Return a decoder's outputs from the raw ones: the image in [0, 1], and the log-variance or log-scale if any."""
    if likelihood.spread is None:
        return (torch.sigmoid(raw),)
    mean, spread = raw.chunk(2, dim=1)
    # A sigmoid and not a clamp: beyond a clamp the gradient is zero.
    log_scale = LOG_SCALE_MIN + (LOG_SCALE_MAX - LOG_SCALE_MIN) * torch.sigmoid(spread)
    return torch.sigmoid(mean), log_scale * 2 if likelihood.spread == "logvar" else log_scale


def raw_channels(channels: int, likelihood: Likelihood) -> int:
    """Return the number of channels of the raw outputs for images with `channels` channels."""
    return channels if likelihood.spread is None else 2 * channels


def activation(name: str) -> nn.Module:
    """Return the activation of that name."""
    kinds: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU}
    return kinds[name]()
