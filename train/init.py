"""The weights that training starts from.

PyTorch's default for linear layers is a third of what keeps a signal's size through ReLUs (He et al.,
arXiv:1502.01852, equation 10): with it, the first two of twenty epochs go into growing the weights. Before a tanh it is
Glorot & Bengio's (2010, equation 16), in every layer, as in Burda et al.'s code. Before a SiLU it is PyTorch's default:
in family `residual`, three epochs from He's weights ended 1.8 nats above three from these. And a decoder that starts at
the mean image need not learn that first. Family `blog` starts as the post does, from the defaults.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from train.loss import to_unit_range
from vae_export.models import VAE
from vae_export.models.residual import Residual

#: Pixels that are always black have no logit.
_DARKEST = 1e-3


@torch.no_grad()
def initialise(model: VAE, pixels: Tensor) -> None:
    """Set `model`'s weights in place, from torch's global random state and the mean of pixels uint8 (N, C, H, W)."""
    if model.config.family == "blog":
        return
    relu, tanh = (model.config.activation == name for name in ("relu", "tanh"))
    hidden = [*model.encoder.body.modules(), *model.decoder.body.modules()]
    layers = [layer for layer in hidden if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    *before_activation, last = layers
    heads = [*_linear(model.encoder.mean), *_linear(model.encoder.logvar), last]
    for layer in before_activation + (heads if tanh else []):
        if tanh:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(_bias(layer))
        elif relu and not isinstance(layer, nn.ConvTranspose2d):
            # The stride of a transposed one leaves gaps: its fan-in is not what the formula takes.
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(_bias(layer))
    for block in model.modules():
        if isinstance(block, Residual):  # begins as the identity
            nn.init.zeros_(block.last.weight)
            nn.init.zeros_(_bias(block.last))
    mean = to_unit_range(pixels[:10_000]).mean(0)
    if isinstance(last, nn.ConvTranspose2d):
        mean = mean.mean((1, 2))  # one bias a channel
    # What a second output says of a pixel begins in the middle of its range.
    bias = _bias(last)
    bias.zero_()
    bias[: mean.numel()].copy_(torch.logit(mean.flatten(), eps=_DARKEST))


def _linear(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def _bias(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    if layer.bias is None:
        raise TypeError("every layer of these families has a bias")
    return layer.bias
