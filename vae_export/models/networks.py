"""The encoder and decoder modules that every family builds: two Gaussian heads, and the outputs of p(x|z)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vae_export.likelihood import MAX_LEVEL, Likelihood

#: Bounds of the log of a pixel's standard deviation or scale, from one grey level to the whole range. Without the lower
#: bound, the density of a constant background would grow without limit, because 8-bit pixels are discrete.
LOG_SCALE_MIN, LOG_SCALE_MAX = -math.log(MAX_LEVEL), 0.0


class Encoder(nn.Module):
    """The encoder: image (N, C, H, W) float32 in [0, 1] → mean (N, Z), logvar (N, Z) of q(z|x) = N(mean, exp(logvar)).

    Args:
        body: image (N, C, H, W) → features (N, F).
        mean, logvar: features (N, F) → (N, Z).
    """

    def __init__(self, body: nn.Module, mean: nn.Module, logvar: nn.Module) -> None:
        super().__init__()
        self.body, self.mean, self.logvar = body, mean, logvar

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images (N, C, H, W); return mean and logvar, each (N, Z)."""
        features = self.body(image)
        return self.mean(features), self.logvar(features)


class Decoder(nn.Module):
    """The decoder: latent (N, Z) float32 → image (N, C, H, W) in [0, 1], and the likelihood's second output if any.

    Args:
        body: latent (N, Z) → raw outputs (N, C, H, W), or (N, 2C, H, W) where the likelihood has a second output.
        likelihood: p(x|z), which defines the meaning of the raw outputs.
    """

    def __init__(self, body: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.body, self.likelihood = body, likelihood

    def raw(self, latent: Tensor) -> Tensor:
        """Return the raw outputs for latents (N, Z), such as Bernoulli logits, from which the loss is computed."""
        raw: Tensor = self.body(latent)
        return raw

    def image(self, latent: Tensor) -> Tensor:
        """Decode latents (N, Z); return only the images (N, C, H, W) in [0, 1], for any likelihood."""
        return outputs(self.likelihood, self.raw(latent))[0]

    def forward(self, latent: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Decode latents (N, Z); return images (N, C, H, W), with the likelihood's second output if it has one."""
        given = outputs(self.likelihood, self.raw(latent))
        return given if len(given) > 1 else given[0]


def outputs(likelihood: Likelihood, raw: Tensor) -> tuple[Tensor, ...]:
    """Convert raw outputs to a decoder's outputs: the image in [0, 1], and the log variance or log scale if any."""
    if likelihood.spread is None:
        return (torch.sigmoid(raw),)
    mean, spread = raw.chunk(2, dim=1)
    # A sigmoid is used instead of a clamp, because the gradient of a clamp is zero outside its bounds.
    log_scale = LOG_SCALE_MIN + (LOG_SCALE_MAX - LOG_SCALE_MIN) * torch.sigmoid(spread)
    return torch.sigmoid(mean), log_scale * 2 if likelihood.spread == "logvar" else log_scale


def raw_channels(channels: int, likelihood: Likelihood) -> int:
    """Return the number of channels of the raw outputs for images with this number of channels."""
    return channels if likelihood.spread is None else 2 * channels


def activation(name: str) -> nn.Module:
    """Return the activation module for a name: "relu", "tanh" or "silu"."""
    kinds: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU}
    return kinds[name]()
