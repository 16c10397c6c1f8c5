"""The weights that training starts from.

PyTorch's default for linear layers is a third of what keeps a signal's size through ReLUs (He et al.,
arXiv:1502.01852, equation 10): with it, the first two of twenty epochs go into growing the weights. And a decoder that
starts at the mean image need not learn that first. Family `post` starts as the post does, from the defaults.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from train.objective import to_unit
from vae_export.models import VAE

#: Pixels that are always black have no logit.
_DARKEST = 1e-3


@torch.no_grad()
def initialise(model: VAE, pixels: Tensor) -> None:
    """Set `model`'s weights in place, from torch's global random state and the mean of pixels uint8 (N, C, H, W)."""
    if model.config.family == "post":
        return
    hidden = [*model.encoder.body.modules(), *model.decoder.body.modules()]
    layers = [layer for layer in hidden if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    *before_relu, last = layers
    for layer in before_relu:
        if not isinstance(layer, nn.ConvTranspose2d):  # its stride leaves gaps: fan-in is not what the formula takes
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(_bias(layer))
    mean = to_unit(pixels[:10_000]).mean(0)
    if isinstance(last, nn.ConvTranspose2d):
        mean = mean.mean((1, 2))  # one bias a channel
    _bias(last).copy_(torch.logit(mean.flatten(), eps=_DARKEST))


def _bias(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    if layer.bias is None:
        raise TypeError("every layer of these families has a bias")
    return layer.bias
